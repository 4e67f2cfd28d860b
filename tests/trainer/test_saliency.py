"""Which weights a trainer cuts: by the forget set alone, or relative to the retain set."""

import pytest
import tiny_models
import torch
from tiny_data import retain_and_forget

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.core import evaluation_mode, exact_threshold, relative_sensitivity
from scissorhands_hf.trainer.paired_batches import random_batches
from scissorhands_hf.trainer.run_progress import Reporter, RunProgress
from scissorhands_hf.trainer.stage_callback import StageCallback


def losses(model: torch.nn.Module, data, batches: list[list[int]]) -> list:
    return [lambda rows=rows: model(**{k: v for k, v in data[rows].items() if k != "id"}).loss for rows in batches]


@pytest.mark.parametrize("build", [tiny_models.tiny_resnet, tiny_models.tiny_llama])
def test_relative_saliency_cuts_what_the_retain_set_needs_less(build, config) -> None:
    model, retain, forget = retain_and_forget(build)
    seen: list[RunProgress] = []
    trainer = ScissorhandsTrainer(
        model=model,
        args=config(trim_ratio=0.05, saliency="relative", threshold_scope="reinit"),
        train_dataset=retain,
        forget_dataset=forget,
        callbacks=[StageCallback(Reporter(seen.append).tell)],
    )
    targets = {name: model.get_parameter(name) for name in trainer.scopes.reinit}
    before = {name: p.detach().clone() for name, p in targets.items()}
    with evaluation_mode(model):
        on_forget = losses(model, forget, [[0, 1], [2, 3], [4, 5]])
        on_retain = losses(model, retain, random_batches(20, 2, 3, trainer.data_seed + 1))
        scores = relative_sensitivity(on_forget, on_retain, targets)
    threshold, _ = exact_threshold(list(scores.values()), 0.05)

    trainer.begin_repair()

    assert trainer.trim_report["threshold"] == pytest.approx(threshold, rel=1e-4)
    changed = {name: p.detach() != before[name] for name, p in targets.items()}
    assert sum(int(mask.sum()) for mask in changed.values()) > 0.03 * trainer.trim_report["candidates"]
    for name, mask in changed.items():
        assert not (mask & (scores[name] < 0.99 * threshold)).any(), name
    assert trainer.report().settings["saliency"] == "relative"
    assert [(p.step, p.total) for p in seen if p.stage == "sensitivity"] == [(n, 6) for n in range(7)]
    assert trainer.trim_report["saliency_batches"] == 3
