"""Forget examples that are still in the retain set, without ids, are counted in a warning."""

import logging
from typing import Any

import pytest
import tiny_models
import torch
from datasets import Dataset
from tiny_data import examples
from torch.utils.data import Subset, TensorDataset

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.trainer.shared_examples import warn_of_shared_examples


BATCH = tiny_models.tiny_vit()[1]
TABLE = examples(BATCH, 12, 1).remove_columns("id")
OTHER = examples(BATCH, 5, 2).remove_columns("id")
TEXTS = Dataset.from_dict({"text": [f"text {i}" for i in range(9)], "bytes": [{"raw": bytes([i])} for i in range(9)]})
TENSORS = TensorDataset(torch.arange(40.0).view(10, 4), torch.arange(10))
ROWS = [{"image": torch.full((2, 2), float(i)), "tags": [i, str(i)]} for i in range(8)]


@pytest.mark.parametrize(
    ("retain", "forget", "shared"),
    [
        (TABLE, TABLE.select([3, 7]), 2),
        (TABLE, OTHER, 0),
        (TABLE.with_transform(lambda rows: rows), TABLE.select([3, 7, 8]), 3),
        (TEXTS, TEXTS.select([1, 2, 3, 4]), 4),
        (TEXTS.select(range(4)), TEXTS.select(range(4, 9)), 0),
        (Subset(TENSORS, range(8)), Subset(TENSORS, [6, 7, 8]), 2),
        (TensorDataset(*TENSORS[:8]), TensorDataset(*TENSORS[5:10]), 3),
        (ROWS[:6], ROWS[4:], 2),
        (ROWS[:4], ROWS[4:], 0),
    ],
)
def test_equal_content_is_counted(retain: Any, forget: Any, shared: int, caplog) -> None:
    before = torch.get_rng_state()
    with caplog.at_level(logging.WARNING):
        warn_of_shared_examples(retain, forget, ("id",))
    assert [line.split()[0] for line in caplog.messages] == ([str(shared)] if shared else [])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_trainer_says_so_at_construction_with_what_was_compared(config, caplog) -> None:
    model, _ = tiny_models.tiny_vit()
    ScissorhandsTrainer(model=model, args=config(), train_dataset=TABLE, forget_dataset=TABLE.select([0, 5]))
    assert any("2 forget examples are also in the retain set, by their content (the first 12 " in m for m in caplog.messages)
