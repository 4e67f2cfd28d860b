"""What a trainer finds out at construction by running a few examples: is there a loss, and where must ascent stop?"""

import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers.trainer_utils import has_length

from ..core.modes import evaluation_mode
from .ceilings import Ceiling, guess_ceiling, guess_of_tokens, mean_loss, with_labels_of_others
from .checks import check_batch_labels, check_ceiling, check_loss
from .paired_batches import FORGET, RETAIN
from .scissorhands_config import ScissorhandsConfig
from .training_sets import TrainingSet, model_columns, training_set


logger = logging.getLogger(__name__)

# The loss of a model that knows nothing lies about that of a guess, on either side; ascent must not depend on which.
_SLACK = 0.25


class ProbeMixin:
    """The probe of a trainer that has a `RepairMixin` and what is declared here; to be named before it."""

    args: ScissorhandsConfig
    model: nn.Module
    sets: dict[str, TrainingSet]
    """The "retain" and the "forget" set."""
    forget_batch_size: int
    """Per device."""

    def probe_losses(self) -> Ceiling:
        """Run one small batch of each set without gradients: is there a finite loss? Returns the ceiling of ascent."""
        args: ScissorhandsConfig = self.args
        with evaluation_mode(self.model), torch.no_grad(), self.accelerator.autocast():
            for part, argument in ((RETAIN, "train_dataset"), (FORGET, "forget_dataset")):
                batch = self._labelled_batch(part, argument)
                check_batch_labels(argument, batch, self.model)
                loss, outputs = self.compute_batch_loss(self.model, batch, return_outputs=True)
                check_loss(argument, loss)
                self.find_use_of_items(batch)
            self.check_objective(batch, outputs)
            chosen = args.forget_loss_ceiling is not None
            if chosen:
                ceiling = Ceiling(args.forget_loss_ceiling, "as given")
            elif self.objective.name != "ascent" or (self.forget_weight == 0 and not args.projection):
                ceiling = Ceiling(math.inf, "nothing ascends")
            else:
                ceiling = self.default_ceiling(batch, outputs, loss)
            logger.info("forget_loss_ceiling is %.4g (%s)", ceiling.value, ceiling.source)
            if math.isfinite(ceiling.value):
                first = mean_loss(self._first_batches(self.sets[FORGET]), partial(self.compute_batch_loss, self.model))
                check_ceiling(ceiling.value, first, chosen)
        return ceiling

    def default_ceiling(self, batch: dict[str, Any], outputs: Any, loss: Tensor) -> Ceiling:
        """The forget loss at which ascent stops when `forget_loss_ceiling` is left open.

        Args:
            batch, outputs, loss (`dict[str, Any]`):
                Of a few forget examples.

        Raises:
            ValueError: nothing says what a loss is that is high.
        """
        guess = guess_ceiling(batch, outputs, loss, self.args.label_smoothing_factor)
        if guess is not None:
            return guess
        loss_of = partial(self.compute_batch_loss, self.model)
        parts = self.eval_dataset if isinstance(self.eval_dataset, dict) else {}
        for name in ("unseen", "test"):
            if has_length(parts.get(name)) and len(parts[name]):
                columns = model_columns(self.model, self.label_names) if self.args.remove_unused_columns else None
                unseen = training_set(parts[name], self.data_collator, columns, type(self.model).__name__, name)
                value = mean_loss(self._first_batches(unseen), loss_of)
                if math.isfinite(value):
                    return Ceiling(value, f"the loss on the evaluation set {name!r}, which the model has not seen")
        values = []
        for examples in self.sets.values():  # examples to forget may all have one label, so those to keep are tried as well
            size = self.forget_batch_size
            batches = self._first_batches(examples, max(2, size)) if len(examples) > 1 else ()
            exchanged = (with_labels_of_others(batch, self.label_names, size) for batch in batches)
            values.append(mean_loss((batch for batch in exchanged if batch is not None), loss_of))
        values = [value for value in values if math.isfinite(value)]
        if not values:
            raise ValueError(
                "forget_loss_ceiling=None, and the batches hold no labels that could be exchanged to see what a high loss is "
                f"(label_names={self.label_names}). Pass the forget loss at which ascent should stop, or float('inf') for no "
                "ceiling; or give eval_dataset a set named 'unseen'."
            )
        uniform = guess_of_tokens(batch, outputs, loss)
        source = "the loss with the labels of other examples"
        if uniform is not None and uniform < max(values):
            values, source = [uniform], "the loss of a uniform guess of each token"
        return Ceiling(max(values) + _SLACK * abs(max(values)), f"{source}, and {_SLACK:.0%} of it")

    def _first_batches(self, examples: TrainingSet, size: int | None = None) -> Iterator[dict[str, Any]]:
        """Some batches of a set, as large as forget batches, on the model's device; those with nothing labelled left out."""
        size = size or self.forget_batch_size
        for start in range(0, min(len(examples), max(32, size)), size):
            stop = min(start + size, len(examples))
            # A loss may be a sum over its batch, so a smaller last one would be another measure.
            batch = send_to_device(examples.batch(range(max(0, stop - size), stop)), self.args.device)
            if self.batch_weight(batch):
                yield batch

    def _labelled_batch(self, part: str, argument: str) -> dict[str, Tensor]:
        """The first small batch of a set in which something is labelled.

        Raises:
            ValueError: there is none.
        """
        examples, size = self.sets[part], 2
        for start in range(0, len(examples), size):
            batch = examples.batch(range(start, min(start + size, len(examples))))
            if self.batch_weight(batch):
                return send_to_device(batch, self.args.device)
        raise ValueError(
            f"{argument}: every label of its {len(examples):,} examples is -100, which counts for nothing, so there is no loss "
            "to compute. Look at how its labels are made: is the answer cut off by the maximal length, or all of it masked?"
        )
