"""The loss of a batch as a mean over what is labelled in it, and what each micro-batch counts for in an accumulated step."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .other_answers import OTHER_ANSWER
from .paired_batches import FORGET, RETAIN
from .reference_scores import INDEX
from .scissorhands_config import ScissorhandsConfig


_IGNORED = -100


def labelled_items(batch: dict[str, Any], shifted: bool = False, ignored: int | None = None) -> int | None:
    """
    How many labels of a batch count, as [`~transformers.Trainer`] counts them for `num_items_in_batch`.

    Args:
        batch (`dict[str, Any]`):
            Of a model.
        shifted (`bool`, *optional*, defaults to `False`):
            The loss predicts the next token, so no row's first label counts.
        ignored (`int`, *optional*):
            A label that counts for nothing beside -100.

    Returns:
        None where there is no tensor of labels to count.
    """
    labels = batch.get("shift_labels")
    if labels is None:
        labels = batch.get("labels")
        if isinstance(labels, Tensor) and shifted:
            labels = labels[..., 1:]
    if not isinstance(labels, Tensor):
        return None
    counts = labels.ne(_IGNORED)
    if ignored is not None:
        counts &= labels.ne(ignored)
    return int(counts.sum())


def plain_batch(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch as the model takes it: without its examples' indices and other answers."""
    return {name: value for name, value in batch.items() if name not in (INDEX, OTHER_ANSWER)}


class BatchLossMixin:
    """
    Losses that are means, kept apart from their weight in the step; to be named before Trainer. Each part of an accumulated
    step, retain and forget, is averaged over the labelled tokens of all its micro-batches and processes; where there are none
    to count, or nothing that is told of them (neither the model nor a `compute_loss_func` takes `num_items_in_batch`), over
    the micro-batches that have a label, as [`~transformers.Trainer`] does.
    """

    args: ScissorhandsConfig
    accelerator: Accelerator
    model: nn.Module

    # `compute_loss` weighs each micro-batch itself, so Trainer must not divide by the accumulation steps.
    loss_is_scaled_for_ga = True
    # Whether `compute_loss_func` makes use of the number of items that it is given, as is asked of it; some take a mean.
    _loss_func_divides = True

    def compute_batch_loss(
        self, model: nn.Module, batch: dict[str, Any], return_outputs: bool = False, num_items_in_batch: int | None = None
    ) -> Any:
        """L of a flat batch as a mean over its labelled tokens, as Trainer computes it (`compute_loss_func`, label smoothing).

        Args:
            model, batch (`nn.Module`):
                On one device.
            return_outputs (`bool`, *optional*, defaults to `False`):
                Return the model's outputs beside it.
            num_items_in_batch (`int`, *optional*):
                Labelled tokens of the whole step, for a `compute_loss_func`; default: those of the batch.

        Returns:
            The loss; zero, with zero gradients, where nothing is labelled.
        """
        own = self.labelled(batch)
        # A model is told of no number: what it returns then is its mean. (Told one, some take the mean all the same, and for
        # others transformers 5.23 counts one label too many in each row, as for GPT-2.)
        step = own if num_items_in_batch is None else num_items_in_batch
        given = None if own is None or self.compute_loss_func is None else max(step, 1)
        loss, outputs = self._stock_loss(model, batch, given)
        if own == 0:
            loss = _zero(loss, outputs)
        elif given is not None and given != own and self._loss_func_divides:
            loss = loss * (given / own)
        return (loss, outputs) if return_outputs else loss

    def _stock_loss(self, model: nn.Module, batch: dict[str, Any], items: int | None) -> tuple[Tensor, Any]:
        """Trainer's own loss, without its factor for the average over processes that follows in a step."""
        count = None if items is None else torch.tensor(float(items), device=self.args.device)
        # A new dictionary, for Trainer takes the labels out of what it is given.
        loss, outputs = super().compute_loss(model, plain_batch(batch), True, count)
        # The condition is Trainer's.
        if count is not None and self.args.average_tokens_across_devices and isinstance(loss, Tensor):
            loss = loss / self.accelerator.num_processes
        return loss, outputs

    def find_use_of_items(self, batch: dict[str, Any]) -> None:
        """Try whether `compute_loss_func` divides by the number of items; called once, without gradients."""
        if self.compute_loss_func is None or not self.labelled(batch):
            return
        once, twice = (self._stock_loss(self.model, batch, items)[0] for items in (1, 2))
        self._loss_func_divides = not bool(twice.abs() > 0.75 * once.abs())

    # ---- Weights ----

    @property
    def _counts_items(self) -> bool:
        """Whether someone is told how many items there are; else Trainer averages micro-batches alike, and so do we."""
        return self.model_accepts_loss_kwargs or self.compute_loss_func is not None

    @property
    def shifts_labels(self) -> bool:
        """Whether the model's loss predicts the next token."""
        # Private (as of transformers 5.23): there is no public name for whether a model's loss shifts its labels. It misses
        # causal models that are called otherwise, as GPT2LMHeadModel.
        inner = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        return self._loss_shifts_labels or type(inner).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()

    def labelled(self, batch: dict[str, Any]) -> int | None:
        """How many labels of a batch count; see [`labelled_items`]."""
        ignored = getattr(getattr(self.model, "config", None), "semantic_loss_ignore_index", None)
        return labelled_items(batch, self.shifts_labels, ignored)

    def part_weight(self, part: str, batch: dict[str, Any]) -> int:
        """What the mean of a "retain" or "forget" half counts for beside those of other micro-batches."""
        return self.batch_weight(batch)

    def batch_weight(self, batch: dict[str, Any]) -> int:
        """What a micro-batch's mean counts for beside others: its labelled tokens, or 1 where micro-batches count alike."""
        items = self.labelled(batch)
        if items is None:
            return 1
        return items if self._counts_items else min(items, 1)

    def share_of(self, weight: int, total: float) -> float:
        """The factor of the mean loss of what weighs `weight` in a whole of `total`, of whose parts processes take the mean
        afterwards."""
        processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return weight * processes / max(total, 1)

    def total_weights(self, weights: list[int]) -> list[float]:
        """The sums over processes, where they are averaged over (`average_tokens_across_devices`)."""
        total = torch.tensor(weights, dtype=torch.float64, device=self.args.device)
        if self.args.average_tokens_across_devices and self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, reduction="sum")
        return total.tolist()

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """The micro-batches of a step, and what all of them weigh together: `{"retain": …, "forget": …}`."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        parts = (RETAIN, FORGET)
        weights = [sum(self.part_weight(part, batch[part]) for batch in batches if part in batch) for part in parts]
        return batches, dict(zip(parts, self.total_weights(weights), strict=True))


def _zero(loss: Tensor, outputs: Any) -> Tensor:
    """Zero by way of the outputs: a mean over nothing is NaN, and other processes wait for this one's backward pass."""
    tensors = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, tuple) else ()
    for tensor in tensors:
        if isinstance(tensor, Tensor) and tensor is not loss and tensor.numel() > 1 and tensor.is_floating_point():
            return 0.0 * tensor.float().sum()
    return 0.0 * loss.nan_to_num(0.0)
