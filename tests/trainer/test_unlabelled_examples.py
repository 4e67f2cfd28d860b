"""Examples whose labels are all -100 count for nothing: in a step, the sensitivity, the memories, the logs and the probe."""

import copy

import pytest
import tiny_models
import torch
from datasets import Dataset, concatenate_datasets
from tiny_data import padded_text
from torch import nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from scissorhands_hf import ScissorhandsTrainer


def unlabelled_text(count: int, seed: int) -> Dataset:
    rows = padded_text(count, seed)[:]
    columns = {"input_ids": rows["input_ids"].tolist(), "labels": torch.full_like(rows["labels"], -100).tolist()}
    return Dataset.from_dict(columns).with_format("torch")


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


SETTINGS = {
    "optim": "sgd", "learning_rate": 0.1, "lr_scheduler_type": "constant", "max_steps": 1, "max_grad_norm": 0.0,
    "per_device_train_batch_size": 1,
}  # fmt: skip


def test_a_step_with_an_unlabelled_retain_example_is_stock_trainers(config, tmp_path) -> None:
    retain = concatenate_datasets([padded_text(3, 1), unlabelled_text(1, 2)])
    model = tiny_models.tiny_llama()[0]
    reference = copy.deepcopy(model)
    args = config(
        **SETTINGS, gradient_accumulation_steps=4, trim_ratio=0, projection=False, forget_weight=0.0, forget_loss_ceiling=1e9
    )
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=padded_text(4, 3))
    trainer.train()
    stock = TrainingArguments(
        output_dir=str(tmp_path / "stock"), use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no",
        gradient_accumulation_steps=4, **SETTINGS,
    )  # fmt: skip
    before = weights(reference)
    Trainer(model=reference, args=stock, train_dataset=retain).train()
    moved = weights(reference) - before
    assert (weights(model) - weights(reference)).norm() <= 3e-6 * moved.norm()


@pytest.mark.parametrize("batch", [1, 2])
def test_unlabelled_examples_change_neither_the_trim_nor_the_step_nor_the_log(batch: int, config) -> None:
    """Twice the forget examples, half of them unlabelled, in twice as many batches: the same trim, to the last weight."""
    labelled = padded_text(4, 2, (5, 5, 5, 5))
    mixed = concatenate_datasets([labelled, unlabelled_text(4, 3)])
    runs = []
    for forget in (labelled, mixed):
        model = tiny_models.tiny_llama()[0]
        args = config(
            **{**SETTINGS, "max_steps": -1, "per_device_train_batch_size": batch}, trim_ratio=0.1, forget_weight=0.2,
            per_device_forget_batch_size=batch, gradient_accumulation_steps=8 // batch, forget_schedule="once",
            projection=False, forget_loss_ceiling=1e9,
        )  # fmt: skip
        trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=padded_text(8, 1), forget_dataset=forget)
        trainer.train()
        (log,) = [row for row in trainer.state.log_history if "retain_loss" in row]
        runs.append((weights(model), trainer.trim_report, log))
    (plain, plain_trim, plain_log), (with_unlabelled, trim, log) = runs
    assert trim["trimmed"] == plain_trim["trimmed"] > 0
    assert trim["threshold"] == plain_trim["threshold"]
    assert log["forget_loss"] == pytest.approx(plain_log["forget_loss"], rel=1e-5)
    torch.testing.assert_close(with_unlabelled, plain, rtol=1e-4, atol=1e-6)


def test_a_run_over_sets_that_begin_with_unlabelled_examples(config) -> None:
    """The first batches of both sets, which the constructor tries, have no labels; every memory is one such example or not."""
    retain = concatenate_datasets([unlabelled_text(4, 1), padded_text(4, 2)])
    forget = concatenate_datasets([unlabelled_text(3, 3), padded_text(3, 4)])
    model = tiny_models.tiny_llama()[0]
    args = config(per_device_train_batch_size=1, per_device_forget_batch_size=1, memory_batches=3, num_train_epochs=2)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    trainer.train()
    assert torch.isfinite(weights(model)).all()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == 16
    assert sum("retain_loss" in row for row in rows) == 8  # a step in which nothing is labelled has no such mean


class MaskedMean(nn.Module):
    """A language model that divides by its own number of labels, and is told of no other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(tiny_models.VOCABULARY, 8), nn.Linear(8, tiny_models.VOCABULARY)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits, mask = self.head(self.embed(input_ids)), labels != -100
        losses = F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten(), reduction="none")
        return {"loss": (losses * mask.flatten()).sum() / mask.sum(), "logits": logits}


def test_a_model_whose_own_mean_would_be_nan(config) -> None:
    retain = concatenate_datasets([padded_text(3, 1), unlabelled_text(1, 2)])
    model = MaskedMean()
    args = config(**SETTINGS, gradient_accumulation_steps=4, reinit_target_modules="head", memory_batches=2)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=retain.select([3, 0]))
    trainer.train()
    assert torch.isfinite(weights(model)).all()


@pytest.mark.parametrize("argument", ["train_dataset", "forget_dataset"])
@pytest.mark.parametrize("kind", ["datasets", "list"])
def test_a_set_with_nothing_labelled_is_refused_by_name(argument: str, kind: str, config) -> None:
    sets = {"train_dataset": padded_text(4, 1), "forget_dataset": padded_text(4, 2), argument: unlabelled_text(5, 3)}
    if kind == "list":
        sets[argument] = [dict(row) for row in sets[argument]]
    with pytest.raises(ValueError, match=f"{argument}: every label of its 5 examples is -100"):
        ScissorhandsTrainer(model=tiny_models.tiny_llama()[0], args=config(), **sets)
