"""A resumed run goes on by all that its checkpoint kept, or is refused; and the report says what was done."""

import logging
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from tiny_data import examples

from scissorhands_hf import ScissorhandsTrainer, UnlearningReport


def trainer_for(args: Any) -> ScissorhandsTrainer:
    model, batch = tiny_models.bert_with_dropout()
    return ScissorhandsTrainer(
        model=model, args=args, train_dataset=examples(batch, 22, 1), forget_dataset=examples(batch, 7, 2)
    )


COMMON = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (
            ["optimizer.pt", "scheduler.pt", "rng_state.pth"],
            r"lacks optimizer\.pt, scheduler\.pt, rng_state\.pth.*save_only_model",
        ),
        (["optimizer.pt"], r"lacks optimizer\.pt, as .*save_only_model"),
        (["scheduler.pt"], r"lacks scheduler\.pt, as .*save_only_model"),
        (["rng_state.pth"], r"lacks rng_state\.pth.*another number of processes"),
    ],
)
def test_a_checkpoint_without_its_optimizers_state_is_refused_by_the_files_names(
    missing: list[str], message: str, config, tmp_path: Path
) -> None:
    trainer_for(config(**COMMON, max_steps=2)).train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    for name in missing:
        (checkpoint / name).unlink()
    with pytest.raises(ValueError, match=message):
        trainer_for(config(**COMMON)).train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_saved_by_save_only_model_is_refused(config) -> None:
    trainer_for(config(**COMMON, save_only_model=True)).train()
    with pytest.raises(ValueError, match=r"lacks optimizer\.pt, scheduler\.pt, rng_state\.pth.*start anew"):
        trainer_for(config(**COMMON)).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("restores_callbacks", [False, True])
def test_the_report_of_a_resumed_run_says_what_was_cut_and_what_was_changed(
    restores_callbacks: bool, config, caplog, tmp_path: Path
) -> None:
    whole = trainer_for(config(**COMMON, trim_ratio=0.03, forget_weight=0.05))
    whole.train()
    other = {"trim_ratio": 0.5, "threshold_scope": "reinit", "forget_weight": 0.1}
    resumed = trainer_for(config(**COMMON, **other, restore_callback_states_from_checkpoint=restores_callbacks))
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    said = [record.getMessage() for record in caplog.records if record.name.startswith("scissorhands_hf")]
    assert any("trim_ratio=0.5 has no effect" in line and "trim_ratio=0.03" in line for line in said)
    assert any("threshold_scope='reinit' has no effect" in line and "threshold_scope='all'" in line for line in said)
    assert any("forget_weight 0.05 -> 0.1" in line and "trim_ratio" not in line for line in said)

    report = UnlearningReport.load(tmp_path / "out")
    assert report.trim == whole.report().trim
    assert report.settings["trim_ratio"] == 0.03
    assert report.settings["threshold_scope"] == "all"
    assert report.settings["forget_weight"] == 0.1
    assert report.notes == ["forget_weight was 0.05 up to step 4 and 0.1 after it."]

    anew = resumed
    anew.train()
    assert anew.report().settings["trim_ratio"] == 0.5
    assert anew.report().notes == []


def test_a_run_resumed_by_the_same_settings_says_nothing_of_them(config, caplog, tmp_path: Path) -> None:
    settings = {"reinit_target_modules": ["*.attention.*"], "forget_loss_ceiling": float("inf")}
    trainer_for(config(**COMMON, **settings)).train()
    caplog.clear()
    resumed = trainer_for(config(**COMMON, **settings))
    with caplog.at_level(logging.WARNING):
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert not [record for record in caplog.records if record.name.startswith("scissorhands_hf")]
    assert resumed.report().notes == []
