"""Nothing is lost: a resumed run ends in the same weights, and a killed or full-disk run leaves a checkpoint to go on from."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from tiny_data import examples, retain_and_forget
from transformers import (
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.trainer.checkpoints import last_complete_checkpoint


RUN = Path(__file__).parents[1] / "interrupted_run.py"


def trainer_for(args: Any) -> ScissorhandsTrainer:
    model, batch = tiny_models.bert_with_dropout()
    return ScissorhandsTrainer(
        model=model, args=args, train_dataset=examples(batch, 22, 1), forget_dataset=examples(batch, 7, 2)
    )


@pytest.mark.parametrize(
    ("resume_at", "settings"),
    [
        (2, {}),  # in the middle of the first epoch: its memories were of weights that no longer exist
        (4, {"memory_batches": 3}),
        (3, {"gradient_accumulation_steps": 2, "save_steps": 3}),  # at the end of an epoch of three steps
        (5, {"forget_schedule": "once", "save_steps": 5}),
    ],
)
def test_a_resumed_run_ends_in_the_same_weights_bit_for_bit(resume_at: int, settings: dict, config, tmp_path: Path) -> None:
    common = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 2, **settings}
    whole = trainer_for(config(**common))
    whole.train()

    resumed = trainer_for(config(**common, seed=7))
    trims: list[int] = []
    resumed.trim = lambda: trims.append(1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / f"checkpoint-{resume_at}"))
    assert trims == []
    assert resumed.trim_report == whole.trim_report
    assert resumed.state.global_step == whole.state.global_step
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())
    own, other = ([row.get("forget_loss") for row in t.state.log_history if "loss" in row] for t in (whole, resumed))
    assert own == other


def test_memories_are_kept_only_in_mid_epoch_checkpoints(config, tmp_path: Path) -> None:
    trainer = trainer_for(config(num_train_epochs=1, save_strategy="steps", save_steps=2))
    trainer.train()
    kept = {path.name: (path / "gradient_memory.safetensors").exists() for path in (tmp_path / "out").glob("checkpoint-*")}
    assert kept == {"checkpoint-2": True, "checkpoint-4": True, "checkpoint-6": False}
    assert not (tmp_path / "out" / "gradient_memory.safetensors").exists()


def test_a_checkpoint_of_another_trainer_is_refused(config, tmp_path: Path) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    stock = TrainingArguments(
        output_dir=str(tmp_path / "stock"), use_cpu=True, max_steps=1, save_strategy="steps", save_steps=1, report_to="none"
    )
    Trainer(model=model, args=stock, train_dataset=retain).train()
    trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget)
    with pytest.raises(ValueError, match="was not written by ScissorhandsTrainer"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "stock" / "checkpoint-1"))


def test_a_checkpoint_of_an_earlier_version_is_refused(config, tmp_path: Path) -> None:
    trainer = trainer_for(config(max_steps=2, save_strategy="steps", save_steps=2))
    trainer.train()
    checkpoint = tmp_path / "out" / "checkpoint-2"
    (checkpoint / "scissorhands_state.json").write_text('{"trim": {}}')
    with pytest.raises(ValueError, match=r"was written by an earlier version.*scissorhands_state\.json.*start anew"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match=r"holds no trainer_state\.json"):
        trainer.train(resume_from_checkpoint=str(tmp_path))


def test_the_record_of_a_run_is_in_the_checkpoints_own_state(config, tmp_path: Path) -> None:
    """Trainer's public way, which also works where Trainer itself restores the callbacks and puts new ones in their place."""
    common = {"num_train_epochs": 2, "save_strategy": "epoch"}
    whole = trainer_for(config(**common))
    whole.train()
    kept = json.loads((tmp_path / "out" / "checkpoint-6" / "trainer_state.json").read_text())
    attributes = kept["stateful_callbacks"]["UnlearningRecord"]["attributes"]
    assert attributes["trim"] == whole.trim_report
    assert attributes["last_forget_loss"] > 0

    resumed = trainer_for(config(**common, restore_callback_states_from_checkpoint=True))
    own = resumed.record
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    assert resumed.record is not own
    assert resumed.trim_report == whole.trim_report
    assert resumed.record.given_retain_loss == whole.record.given_retain_loss
    expected = whole.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.model.state_dict().items())


def test_resuming_without_a_complete_checkpoint_says_so(config, tmp_path: Path) -> None:
    (tmp_path / "out" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-3" / "trainer_state.json").write_text('{"epoch": 1.0, "glob')
    with pytest.raises(ValueError, match="no complete checkpoint"):
        trainer_for(config()).train(resume_from_checkpoint=True)


def interrupted(output: Path, how: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(RUN), "--output", str(output), "--how", how], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "kill-in-save", "disk-full"])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(how: str, tmp_path: Path) -> None:
    """In a process of its own: killed between steps, killed while it writes a checkpoint, or with no room left to write."""
    whole = interrupted(tmp_path / "whole", "not-at-all")
    assert whole.returncode == 0, whole.stderr
    broken = interrupted(tmp_path / "broken", how)
    assert broken.returncode != 0
    checkpoint = last_complete_checkpoint(tmp_path / "broken")
    assert checkpoint is not None
    assert AutoModelForSequenceClassification.from_pretrained(checkpoint) is not None

    resumed = interrupted(tmp_path / "broken", "resume")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout.splitlines()[-1]) == json.loads(whole.stdout.splitlines()[-1])
