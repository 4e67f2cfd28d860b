"""What a run costs the retain set: its loss on some fixed examples, from the model as it was given to the end of the run."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn

from ..core.modes import evaluation_mode
from ..core.trim import Cut, count_by_module
from ..core.undo import apply_cuts, cut_harm, fit_trim
from .ceilings import guess_ceiling, guess_of_tokens, with_labels_of_others
from .monitoring import UnlearningDivergedError
from .paired_batches import RETAIN
from .run_callbacks import UnlearningRecord
from .scissorhands_config import ScissorhandsConfig
from .training_sets import TrainingSet


logger = logging.getLogger(__name__)

# Of the loss of a model that knows nothing: added to losses before they are compared, for twice 0.01 nats is no damage.
_FLOOR = 0.01
# Of trim_damage_limit: a short repair at Trainer's own learning rate wins hardly anything back, and a long one not all
# (docs/measurements.md).
_TRIM_DAMAGE = 1.1


def loss_limit(given: float, factor: float, floor: float) -> float:
    """The highest loss that counts as no more than `factor` times the given one, `floor` added to both."""
    return given + (factor - 1) * (abs(given) + floor)


class DamageMixin:
    """The watch over the retain loss of a trainer that has a `RepairMixin` and what is declared here; named before it."""

    args: ScissorhandsConfig
    accelerator: Accelerator
    model: nn.Module
    record: UnlearningRecord
    sets: dict[str, TrainingSet]
    """The "retain" and the "forget" set."""
    data_seed: int
    trim_ratio: float
    """In effect."""
    _diverged: Callable[[str], UnlearningDivergedError]

    # How many retain examples the loss is measured on.
    checked_examples = 64

    def _init_damage(self) -> None:
        """Before `Trainer.__init__`, and again at the start of each run."""
        self._checked: list[dict[str, Any]] | None = None

    # ---- Measuring ----

    @property
    def damage_limit(self) -> float:
        """The factor in effect by which the trim may raise the retain loss."""
        limit = self.args.trim_damage_limit
        return self.default_damage_limit() if limit is None else limit

    def default_damage_limit(self) -> float:
        """Where `trim_damage_limit` is left open."""
        return _TRIM_DAMAGE

    @property
    def watches_damage(self) -> bool:
        """Whether anything is done about what is measured."""
        return math.isfinite(self.args.divergence_factor) or math.isfinite(self.damage_limit)

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """No gradients, no dropout, and random numbers, of collators or of models that mask, that are the same each time."""
        devices = [self.args.device.index or 0] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), evaluation_mode(self.model), torch.no_grad():
            torch.manual_seed(self.data_seed)
            yield

    def _checked_batches(self) -> list[dict[str, Any]]:
        """This process's part of the examples, collated once; the same ones in every run of the same seed."""
        if self._checked is None:
            retain, size = self.sets[RETAIN], self.args.per_device_eval_batch_size
            generator = torch.Generator().manual_seed(self.data_seed + 2)
            order = torch.randperm(len(retain), generator=generator)[: self.checked_examples].tolist()
            batches = [order[start : start + size] for start in range(0, len(order), size)]
            mine = batches[self.accelerator.process_index :: self.accelerator.num_processes]
            self._checked = [retain.batch(indices) for indices in mine]
        return self._checked

    def measure_retain_loss(self) -> float:
        """The mean retain loss on the fixed examples of all processes, without dropout."""
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        with self._undisturbed():
            for kept in self._checked_batches():
                batch = send_to_device(kept, self.args.device)
                weight = self.batch_weight(batch)
                if weight:
                    with self.compute_loss_context_manager():
                        loss = self.compute_batch_loss(self.model, batch)
                    total += torch.tensor([float(loss) * weight, weight], dtype=torch.float64, device=self.args.device)
        loss, weight = self.accelerator.reduce(total, reduction="sum").tolist()
        return loss / weight if weight else math.nan

    def _checked_losses(self) -> Iterator[Callable[[], Tensor]]:
        """The losses of the same examples, batch by batch, with gradients."""
        for kept in self._checked_batches():
            batch = send_to_device(kept, self.args.device)

            def compute(batch: dict[str, Any] = batch) -> Tensor:
                with self.compute_loss_context_manager():
                    return self.compute_retain_sensitivity_loss(self.model, batch)

            yield compute

    def loss_floor(self) -> float:
        """What is added to retain losses before they are compared: a hundredth of that of a model that knows nothing."""
        value = math.nan
        with self._undisturbed():
            for kept in self._checked_batches()[:1]:
                batch = send_to_device(kept, self.args.device)
                with self.compute_loss_context_manager():
                    loss, outputs = self.compute_batch_loss(self.model, batch, return_outputs=True)
                    value = float(self._loss_of_knowing_nothing(batch, loss, outputs))
        # Each process has looked at an example of its own.
        values = self.accelerator.gather(torch.tensor([value], dtype=torch.float32, device=self.args.device))
        values = values[torch.isfinite(values)]
        return _FLOOR * abs(values.mean().item()) if len(values) else 0.0

    def _loss_of_knowing_nothing(self, batch: dict[str, Any], loss: Tensor, outputs: Any) -> Tensor | float:
        guess = guess_ceiling(batch, outputs, loss, self.args.label_smoothing_factor)
        if guess is not None:
            return guess.value / 2  # which is twice a uniform guess
        tokens = guess_of_tokens(batch, outputs, loss)
        if tokens is not None:
            return tokens
        others = with_labels_of_others(batch, self.label_names, self.args.per_device_eval_batch_size)
        return loss if others is None else self.compute_batch_loss(self.model, others)

    # ---- The trim ----

    def note_given_loss(self) -> None:
        """Before any weight is changed: what all later losses are compared with."""
        if self.watches_damage:
            self.record.loss_floor = self.loss_floor()
            self.record.given_retain_loss = self.measure_retain_loss()

    def limit_trim(self, trimmed: int, cuts: Mapping[str, Cut]) -> dict[str, Any]:
        """Undo as much of a trim as exceeds `trim_damage_limit`, the most harmful weights first.

        Args:
            trimmed (`int`):
                How many weights were cut.
            cuts (`Mapping[str, Cut]`):
                What was replaced.

        Returns:
            What changes in the report of the trim; nothing where it fits.
        """
        given = self.record.given_retain_loss
        allowed = loss_limit(given, self.damage_limit, self.record.loss_floor)
        cost = self.measure_retain_loss()
        if cost <= allowed:
            return {}
        parameters = {name: self.model.get_parameter(name) for name in cuts}
        total = partial(self.accelerator.reduce, reduction="sum") if self.accelerator.num_processes > 1 else None
        apply_cuts(parameters, cuts, False)
        with evaluation_mode(self.model):
            harm = cut_harm(self._checked_losses(), parameters, cuts, total)
        counts = fit_trim(parameters, cuts, harm, lambda: self.measure_retain_loss() <= allowed)
        kept = sum(counts.values())
        logger.warning(
            "The trim of %s weights took the retain loss from %.4g to %.4g, and trim_damage_limit=%s allows %.4g: the %s most "
            "harmful ones were put back, %s stay re-initialised. A smaller trim_ratio, saliency='relative' or other "
            "reinit_target_modules cut where it harms less.",
            f"{trimmed:,}", given, cost, self.damage_limit, allowed, f"{trimmed - kept:,}", f"{kept:,}",
        )  # fmt: skip
        return {"trimmed": kept, "per_module": count_by_module(counts, parameters), "put_back": trimmed - kept}

    # ---- In the course of a run ----

    def note_trimmed_loss(self) -> dict[str, float]:
        """After the trim, where repair begins; for its report."""
        record = self.record
        if not self.watches_damage:
            return {}
        record.lowest_retain_loss = self.measure_retain_loss()
        figures = {"retain_loss_before": record.given_retain_loss, "retain_loss_after": record.lowest_retain_loss}
        return {name: value for name, value in figures.items() if math.isfinite(value)}

    def check_retain_loss(self) -> None:
        """Stop a run that is being ruined, not repaired: its retain loss exceeds that of the model as it was given, and the
        lowest since the trim, by `divergence_factor`."""
        record, step = self.record, self.state.global_step
        if not self.watches_damage or record.given_retain_loss is None or record.checked_step == step:
            return
        loss = self.measure_retain_loss()
        record.checked_step, record.last_retain_loss = step, loss
        self.log({"retain_check_loss": loss})
        reference = max(record.given_retain_loss, record.lowest_retain_loss)
        if not loss <= loss_limit(reference, self.args.divergence_factor, record.loss_floor):
            raise self._diverged(
                f"the retain loss, {record.given_retain_loss:.3g} of the model as it was given and "
                f"{record.lowest_retain_loss:.3g} at its lowest since the trim, is {loss:.3g} "
                f"(divergence_factor={self.args.divergence_factor})"
            )
        record.lowest_retain_loss = min(record.lowest_retain_loss, loss)

    def check_end(self) -> None:
        """At the end of a run, of the weights that it leaves: say aloud, and in the report, what repair did not bring back."""
        record = self.record
        if not self.watches_damage or record.given_retain_loss is None:
            return
        if self.args.load_best_model_at_end or record.checked_step != self.state.global_step:
            record.last_retain_loss = self.measure_retain_loss()
        given, loss = record.given_retain_loss, record.last_retain_loss
        if loss <= loss_limit(given, self.args.divergence_factor, record.loss_floor):
            return
        note = (
            f"The model is damaged: the loss on {min(self.checked_examples, len(self.sets[RETAIN]))} retain examples is "
            f"{loss:.3g}, and was {given:.3g} before the run (divergence_factor={self.args.divergence_factor})."
        )
        record.notes.append(note)
        logger.warning(
            "%s Train for longer, or lower trim_ratio (%s), forget_weight (%s) or learning_rate (%s).",
            note, self.trim_ratio, self.forget_weight, self.args.learning_rate,
        )  # fmt: skip
