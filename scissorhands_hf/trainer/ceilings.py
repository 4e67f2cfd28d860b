"""The forget loss at which ascent stops when `forget_loss_ceiling` is left open: by what the task's own loss is."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Ceiling:
    """
    A loss, and how it was come by.

    Args:
        value (`float`):
            In the unit of the model's loss.
        source (`str`):
            For the log and the report.
    """

    value: float
    source: str


def guess_ceiling(batch: dict[str, Any], outputs: Any, loss: Tensor, smoothing: float = 0.0) -> Ceiling | None:
    """Twice the loss of a uniform guess, of a classifier of whole examples: 2·ln K of one of K labels, 2·ln 2 of several.

    Args:
        batch (`dict[str, Any]`):
            With its labels.
        outputs (`Any`):
            Of the model, with logits of shape (examples, K).
        loss (`Tensor`):
            Of the batch. Only if it is the cross-entropy of these logits does K say anything of it.
        smoothing (`float`, *optional*, defaults to `0.0`):
            Of the labels.

    Returns:
        None where the loss is another.
    """
    labels, logits = batch.get("labels"), logits_of(outputs)
    if not isinstance(labels, Tensor) or logits is None or logits.ndim != 2 or logits.shape[-1] < 2:
        return None
    if labels.ndim == 1 and len(labels) == len(logits) and not labels.is_floating_point():
        if _same(loss, F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)):
            return Ceiling(2 * math.log(logits.shape[-1]), f"2 ln {logits.shape[-1]}: twice the loss of a uniform guess")
    elif labels.shape == logits.shape and _same(loss, F.binary_cross_entropy_with_logits(logits.float(), labels.float())):
        return Ceiling(2 * math.log(2), "2 ln 2: twice the loss of a uniform guess")
    return None


def guess_of_tokens(batch: dict[str, Any], outputs: Any, loss: Tensor) -> float | None:
    """ln K, the loss of a uniform guess, where the loss is the cross-entropy of each token; else None."""
    labels, logits = batch.get("labels"), logits_of(outputs)
    if not isinstance(labels, Tensor) or logits is None or logits.ndim != 3 or logits.shape[:-1] != labels.shape:
        return None
    for shift in (0, 1):
        scores = logits[:, : logits.shape[1] - shift].float().flatten(0, 1)
        if _same(loss, F.cross_entropy(scores, labels[:, shift:].flatten())):
            return math.log(logits.shape[-1])
    return None


def logits_of(outputs: Any, first: int = 1) -> Tensor | None:
    """The logits in a model's outputs, in a tuple the entry `first`: after the loss, which is left out without labels."""
    logits = outputs.get("logits") if isinstance(outputs, dict) else outputs[first] if len(outputs) > first else None
    return logits if isinstance(logits, Tensor) else None


def _same(loss: Tensor, other: Tensor) -> bool:
    return bool((loss.float() - other.float()).abs() <= 0.02 * other.float().abs() + 1e-6)


def with_labels_of_others(batch: dict[str, Any], label_names: Sequence[str], size: int) -> dict[str, Any] | None:
    """
    The first `size` examples of a batch, each with the labels of another of its examples.

    Args:
        batch (`dict[str, Any]`):
            Of at least two examples; what belongs to an example lies along the first axis of tensors, or in lists.
        label_names (`Sequence[str]`):
            Keys of labels. What is made from them ("decoder_input_ids", …) goes with them.
        size (`int`):
            Of the batch that is returned.

    Returns:
        None where there are no labels to exchange.
    """
    names = {*label_names, "decoder_input_ids", "decoder_attention_mask", "shift_labels"}
    labels = [batch[name] for name in label_names if name in batch]
    if not labels or not all(isinstance(value, (Tensor, list, tuple)) for value in labels):
        return None
    count = len(labels[0])

    def of_others(name: str, value: Any) -> Any:
        if (
            not isinstance(value, (Tensor, list, tuple))
            or (isinstance(value, Tensor) and value.ndim == 0)
            or len(value) != count
        ):
            return value
        if name in names:
            value = torch.roll(value, 1, 0) if isinstance(value, Tensor) else [value[-1], *value[:-1]]
        return value[:size]

    return {name: of_others(name, value) for name, value in batch.items()}


def mean_loss(batches: Iterable[dict[str, Any]], loss_of: Callable[[dict[str, Any]], Tensor]) -> float:
    """The mean of the finite losses of batches; NaN where there are none."""
    losses = [loss_of(batch).item() for batch in batches]
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else math.nan
