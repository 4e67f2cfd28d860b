"""Small sets of examples for the tiny models, in the formats that users have."""

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from tiny_models import CLASSES, VOCABULARY, Batch


def examples(batch: Batch, count: int, seed: int = 0) -> Dataset:
    """``count`` random examples with the columns and shapes of ``batch``, each with an ``id`` that no other has."""
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, Any] = {"id": [f"{seed}-{index}" for index in range(count)]}
    for name, tensor in batch.items():
        shape = (count, *tensor.shape[1:])
        if name == "labels" and tensor.ndim == 1:
            columns[name] = (torch.arange(count) % CLASSES).tolist()
        elif tensor.is_floating_point():
            columns[name] = torch.randn(shape, generator=generator).tolist()
        elif name == "attention_mask":
            columns[name] = torch.ones(shape, dtype=torch.long).tolist()
        else:
            columns[name] = torch.randint(3, VOCABULARY, shape, generator=generator).tolist()
    if "input_ids" in columns and batch["labels"].ndim == 2:
        columns["labels"] = columns["input_ids"]
    return Dataset.from_dict(columns).with_format("torch")


def retain_and_forget(
    build: Callable[..., tuple[Any, Batch]], retain: int = 20, forget: int = 6
) -> tuple[Any, Dataset, Dataset]:
    """A tiny model with its retain and forget set."""
    model, batch = build()
    return model, examples(batch, retain, seed=1), examples(batch, forget, seed=2)


def padded_text(count: int, seed: int, lengths: tuple[int, ...] = (2, 12, 3, 9, 5, 2, 7, 11), width: int = 12) -> Dataset:
    """Texts of very uneven numbers of labels; the rest of each is padding, labelled -100."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (count, width), generator=generator)
    labels = tokens.clone()
    for row in range(count):
        labels[row, lengths[row % len(lengths)] :] = -100
    return Dataset.from_dict({"input_ids": tokens.tolist(), "labels": labels.tolist()}).with_format("torch")
