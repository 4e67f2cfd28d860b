"""The benchmark's yardsticks and baselines against independent computations; no number is made here."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import baselines  # noqa: E402
import erasure_table  # noqa: E402
from erasure_measure import PIPELINE, frechet_distance, questions, renamed  # noqa: E402

from spaces_demo.judge import FashionJudge  # noqa: E402


@pytest.fixture
def pipe() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(PIPELINE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_frechet_distance_of_what_is_known_in_closed_form():
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(400, 5, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    # The same shape moved: the squared way. Stretched by 2: every standard deviation differs by itself.
    way = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    assert frechet_distance(first, first + way) == pytest.approx(float(way.square().sum()), rel=1e-9)
    centred = first - first.mean(0)
    assert frechet_distance(centred, 2 * centred) == pytest.approx(float(torch.cov(first.T).trace()), rel=1e-9)
    second = first @ torch.randn(5, 5, generator=generator, dtype=torch.float64)
    covariances = [np.cov(part.numpy().T) for part in (first, second)]
    product = np.linalg.eigvals(covariances[0] @ covariances[1])
    expected = float((first.mean(0) - second.mean(0)).square().sum()) + sum(map(np.trace, covariances))
    expected -= 2 * np.sqrt(product.real.clip(0)).sum()
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("concept", ["dress", "ankle boot", "red"])
def test_every_question_can_be_judged_and_kept_prompts_keep_clear_of_an_erased_garment(concept):
    judge, asked = FashionJudge(), questions(concept)
    assert all(judge.knows(question.label) for question in asked)
    assert {question.part for question in asked} == {"concept", "paraphrase", "kept"}
    for question in asked:
        if question.part == "kept":
            assert question.label != concept and (concept == "red" or concept not in question.prompt)
        else:
            assert question.label == concept
    assert len({(q.prompt, q.label) for q in asked}) == len(asked)


def test_the_closed_form_is_the_minimum_of_its_objective(pipe):
    edits = [("a photo of a dress", "dress", "a photo of a bag"), ("dress", "dress", "")]
    keep, keep_weight, ridge = ["a photo of a coat", "red"], 2.0, 0.5
    projections = [n for n, _ in pipe.unet.named_modules() if ".attn2." in n and n.endswith((".to_k", ".to_v"))]
    assert projections
    before = {name: weight.clone() for name, weight in pipe.unet.state_dict().items()}

    def states(text):
        with torch.no_grad():
            return pipe.encode_prompt([text], "cpu", 1, False)[0][0].double()

    # Positions by hand: <start> a photo of a dress <end> …, and <start> dress <end> … against <start> <end> ….
    old = torch.cat([states("a photo of a dress")[5:], states("dress")[1:]])
    new = torch.cat([states("a photo of a bag")[5:], states("")[:15]])
    kept = torch.cat([states(text) for text in keep])
    baselines.uce(pipe, edits, keep, keep_weight=keep_weight, ridge=ridge)
    changed = {name for name, weight in pipe.unet.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {f"{name}.weight" for name in projections}
    for name in projections:
        base = before[f"{name}.weight"].double()

        def objective(weight, base=base):
            moved = (old @ weight.T - new @ base.T).square().sum()
            return moved + keep_weight * (kept @ (weight - base).T).square().sum() + ridge * (weight - base).square().sum()

        solution = pipe.unet.state_dict()[f"{name}.weight"].double().requires_grad_()
        (slope,) = torch.autograd.grad(objective(solution), solution)
        (slope_before,) = torch.autograd.grad(objective(start := base.clone().requires_grad_()), start)
        assert slope.norm() < 1e-4 * slope_before.norm()


@pytest.mark.parametrize("scope", ["x", "u", "full"])
def test_negative_guidance_trains_its_scope_alone_towards_its_target(pipe, scope):
    before = {name: weight.clone() for name, weight in pipe.unet.named_parameters()}
    baselines.esd(pipe, ["a photo of a dress"], scope=scope, steps=4, learning_rate=1e-3, batch_size=4, sampler_steps=3)
    changed = {name for name, weight in pipe.unet.named_parameters() if not torch.equal(weight, before[name])}
    cross = {name for name in before if ".attn2." in name}
    assert changed <= {"x": cross, "u": before.keys() - cross, "full": before.keys()}[scope]
    assert len(changed) > 0.9 * len({"x": cross, "u": before.keys() - cross, "full": before}[scope])
    assert all(parameter.requires_grad and parameter.grad is None for parameter in pipe.unet.parameters())


def test_a_random_mask_cuts_as_many_weights_but_others(pipe):
    pytest.importorskip("datasets")
    from erasure import random_mask

    from scissorhands_hf.core import trim as trimming

    targets = {n: p for n, p in pipe.unet.named_parameters() if "up_blocks.1.attentions" in n}
    sensitivity = {
        n: torch.rand(p.shape, generator=torch.Generator().manual_seed(i)) for i, (n, p) in enumerate(targets.items())
    }
    before = {name: weight.detach().clone() for name, weight in targets.items()}

    def cut() -> tuple[dict[str, int], dict[str, torch.Tensor]]:
        with torch.no_grad():
            for name, weight in targets.items():
                weight.copy_(before[name])
        counts = trimming.trim_weights(pipe.unet, sensitivity, 0.9, targets, 0)
        return counts, {name: weight.detach() != before[name] for name, weight in targets.items()}

    counts, mask = cut()
    with random_mask(3):
        other_counts, other_mask = cut()
    assert sum(counts.values()) == sum(other_counts.values()) > 1000
    overlap = sum(int((mask[n] & other_mask[n]).sum()) for n in mask) / sum(int(m.sum()) for m in mask.values())
    assert overlap < 0.2, "chance alone: a tenth"
    assert cut()[0] == counts, "afterwards all is as before"


def test_steps_until_a_concept_is_back_lie_between_the_measured_ones():
    assert erasure_table.steps_until_back({"0": 0.0, "10": 20.0, "25": 80.0}) == 10 + 15 * 30 / 60
    assert erasure_table.steps_until_back({"0": 60.0, "10": 80.0}) == 0
    assert erasure_table.steps_until_back({"0": 0.0, "10": 49.0}) == math.inf


def test_a_new_word_takes_the_place_of_the_concepts_name_alone():
    assert renamed("a photo of red dresses", "dress", "sks") == "a photo of red skss"
    assert renamed("a red dress", "red", "sks") == "a sks dress" and renamed("a dress", "dress", None) == "a dress"


def test_the_tables_hold_means_over_runs(tmp_path, capsys):
    def result(method, seed, concept, kept, loss):
        scores = [
            ("dress", "concept", concept),
            ("dresses", "paraphrase", concept / 2),
            ("bag", "kept", kept),
            ("coat", "kept", 100),
        ]
        return {
            "method": method,
            "concept": "dress",
            "seed": seed,
            "scores": [{"prompt": p, "label": p, "part": part, "share": share} for p, part, share in scores],
            "reworded": {"before": 90.0, "after": 90.0 - 4 * seed},
            "kept_loss": loss,
            "frechet": {"between_seeds": 2.0, "after_to_other_seed": 3.0, "after_to_same_seed": 1.0},
            "relearning": {"curve": {"0": 0.0, "10": 40.0, "25": 60.0 + 10 * seed}, "kept_after": 90.0},
            "seconds": 30.0 + seed,
        }

    for seed in (0, 1):
        original = result("original", seed, 100, 98, 0.08)
        del original["relearning"], original["seconds"]
        for name, values in (("original", original), ("ours", result("ours", seed, 2.0 * seed, 92, 0.084))):
            (tmp_path / f"{name}_dress_{seed}.json").write_text(json.dumps(values))
    (tmp_path / "ours_dress_9.json").write_text(json.dumps(result("ours", 9, 50, 0, 1.0)))  # has no original beside it
    erasure_table.print_tables(tmp_path, ["dress", "coat"])
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("| ours |"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *("ours", "2", "100 ± 0", "1.0 ± 1.4", "0.5 ± 0.7", "3.0 ± 0.0", "6.0 ± 0.0", "2.0 ± 2.8"),
        *("5.0 ± 0.0", "1.5 ± 0.0", "0.5 ± 0.0", "30.5 ± 0.7", ""),
    ]
    assert (
        "## coat" not in printed
        and "| ours | 0.0 ± 0.0 | 40.0 ± 0.0 | 65.0 ± 7.1 | 39.5 ± 2.1 | 16.2 ± 1.8 | 90.0 ± 0.0 |" in printed
    )
    assert (tmp_path / "relearning.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert not (tmp_path / "attacks.png").exists()
    probed = {**result("ours", 1, 2.0, 92, 0.084), "probes": {"token 1 vector": 30.0, "empty": 1.0}}
    (tmp_path / "ours_dress_1.json").write_text(json.dumps(probed))
    erasure_table.print_tables(tmp_path, ["dress", "coat"])
    assert "(attacks.png)" in capsys.readouterr().out
    assert (tmp_path / "attacks.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_table_of_probes_has_a_column_for_each_attack():
    def result(share, **more):
        scores = [{"part": "concept", "share": 2.0}, {"part": "paraphrase", "share": 4.0}]
        return {"scores": scores, "probes": {"token 1 vector": share, "empty": 1.0}, **more}

    text = erasure_table.probes_table(
        {"removal": [result(2.0, cpu_seconds=90.0), result(4.0, cpu_seconds=110.0)], "older": [{}]}
    )
    head, _, row = text.splitlines()
    assert head == "| method | runs | words | paraphrases | token 1 vector | empty | CPU-s |"
    assert row.startswith("| removal | 2 | 2.0 ± 0.0 | 4.0 ± 0.0 | 3.0 ± 1.4 | 1.0 ± 0.0 |") and "100" in row
    assert erasure_table.probes_table({"older": [{}]}) == "No probe was run."
