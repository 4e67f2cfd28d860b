"""Steps 1 to 3 in a trainer: the batches that the sensitivity is measured on, the trim over processes, and its report."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..core import Cut, evaluation_mode, trim_model
from .initializer import initializer_of
from .paired_batches import FORGET, RETAIN, random_batches
from .run_callbacks import UnlearningRecord
from .scissorhands_config import ScissorhandsConfig
from .scopes import Scopes
from .stage_callback import StageCallback
from .training_sets import TrainingSet


logger = logging.getLogger(__name__)

# What matters before the first step alone.
TRIM_SETTINGS = (
    "trim_ratio",
    "trim_damage_limit",
    "saliency",
    "saliency_batches",
    "threshold_scope",
    "reinit_target_modules",
    "reinit_scale",
)
NOTHING_TRIMMED = {"threshold": None, "candidates": 0, "above_threshold": 0, "trimmed": 0, "per_module": {}}


def is_causal_language_model(model: nn.Module) -> bool:
    """Whether it predicts the next token and does nothing else, by the class that it is, or that PEFT has wrapped."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(inner).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def sensitivity_batches(args: ScissorhandsConfig, size: int, batch: int, seed: int) -> list[list[int]]:
    """Indices, of all processes together, of the forget batches that the sensitivity is summed over.

    Args:
        args (`ScissorhandsConfig`):
            Whose `saliency_batches` say how many.
        size (`int`):
            Of the forget set.
        batch (`int`):
            Examples in each.
        seed (`int`):
            Of their choice, where they are not the whole set.
    """
    if args.saliency_batches == -1:
        return [list(range(start, min(start + batch, size))) for start in range(0, size, batch)]
    return random_batches(size, batch, args.saliency_batches, seed)


def trim_by_sensitivity(
    model: nn.Module,
    scopes: Scopes,
    args: ScissorhandsConfig,
    ratio: float,
    forget_losses: Iterable[Callable[[], Tensor]],
    accelerator: Accelerator,
    retain_losses: Iterable[Callable[[], Tensor]] | None = None,
    cuts: dict[str, Cut] | None = None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Re-initialise, in place, the weights in scope that the forget set depends on most.

    Args:
        model (`nn.Module`):
            Outside DistributedDataParallel; its modes are as before afterwards.
        scopes (`Scopes`):
            Of the run.
        args (`ScissorhandsConfig`):
            Of the run.
        ratio (`float`):
            The `trim_ratio` in effect, > 0.
        forget_losses (`Iterable[Callable[[], Tensor]]`):
            This process's part of the batches.
        accelerator (`Accelerator`):
            Sums over processes.
        retain_losses (`Iterable[Callable[[], Tensor]]`, *optional*):
            As many as forget batches, of retain batches: the sensitivity is taken relative to theirs.
        cuts (`dict[str, Cut]`, *optional*):
            Filled with what was replaced.

    Returns:
        The report, JSON-ready, and the seconds of "sensitivity" and "trim".
    """
    scope = {name: model.get_parameter(name) for name in scopes.reinit}
    candidates = {name: model.get_parameter(name) for name in scopes.trained} if args.threshold_scope == "all" else scope
    total = partial(accelerator.reduce, reduction="sum") if accelerator.num_processes > 1 else None
    with evaluation_mode(model):
        account = trim_model(
            model,
            forget_losses,
            candidates,
            scope,
            ratio,
            args.seed,
            initializer_of(model),
            total,
            retain_losses,
            own_scale=args.reinit_scale == "own",
            cuts=cuts,
            per_tensor=args.threshold_scope == "tensor",
        )
    report = dataclasses.asdict(account)
    seconds = report.pop("seconds")
    if account.trimmed == 0:
        logger.warning(
            "No weight was re-initialised: none in the scope is among the top %s of %s weights. A larger trim_ratio or "
            "threshold_scope='reinit' would cut some.",
            ratio,
            f"{account.candidates:,}",
        )
    logger.info(
        "Trimmed %s weights (threshold %s over %s): %s",
        f"{account.trimmed:,}",
        "of each tensor" if account.threshold is None else f"{account.threshold:.3e}",
        f"{account.candidates:,}",
        ", ".join(f"{name} {row['trimmed']:,}" for name, row in account.per_module.items() if row["trimmed"]),
    )
    return report, seconds


class TrimMixin:
    """The trim of a trainer that has a `RepairMixin` and what is declared here; to be named before it."""

    args: ScissorhandsConfig
    accelerator: Accelerator
    model: nn.Module
    scopes: Scopes
    record: UnlearningRecord
    sets: dict[str, TrainingSet]
    """The "retain" and the "forget" set."""
    forget_batch_size: int
    """Per device."""
    data_seed: int

    # ---- The losses whose gradients are taken ----

    def forget_losses(self, batches: list[list[int]]) -> Iterator[Callable[[], Tensor]]:
        """For each batch of forget indices a callable that computes its loss on the model outside DDP."""
        for indices in batches:
            yield self._weighed_loss(self._forget_batch(indices), 1.0)

    def shared_forget_losses(self, batches: list[list[int]], at_once: int) -> Iterator[list[Callable[[], Tensor]]]:
        """
        The same of batches that processes share, in parts.

        Args:
            batches (`list[list[int]]`):
                This process's share of each.
            at_once (`int`):
                Most examples of a part.

        Returns:
            For each batch the losses of its parts, weighed so that the mean over processes of their sum is the batch's loss.
        """
        for indices in batches:
            own = [indices[start : start + at_once] for start in range(0, len(indices), at_once)]
            parts = [self._forget_batch(examples) for examples in own]
            # What has no labels to count is weighed by its examples, for the last part is smaller.
            weights = [
                len(examples) if self.labelled(part) is None else self.batch_weight(part)
                for examples, part in zip(own, parts, strict=True)
            ]
            (total,) = self.total_weights([sum(weights)])
            yield [self._weighed_loss(part, self.share_of(weight, total)) for part, weight in zip(parts, weights, strict=True)]

    def _forget_batch(self, indices: list[int]) -> dict[str, Any]:
        return send_to_device(self.sets[FORGET].batch(indices), self.args.device)

    def _weighed_loss(self, batch: dict[str, Any], share: float) -> Callable[[], Tensor]:
        def compute() -> Tensor:
            with self.compute_loss_context_manager():
                return share * self.compute_sensitivity_loss(self.model, batch)

        return compute

    def retain_losses(self, batches: list[list[int]]) -> Iterator[Callable[[], Tensor]]:
        """The same for batches of retain indices, to which `saliency="relative"` relates the sensitivity."""
        for indices in batches:
            batch = send_to_device(self.sets[RETAIN].batch(indices), self.args.device)

            def compute(batch: dict[str, Any] = batch) -> Tensor:
                with self.compute_loss_context_manager():
                    return self.compute_retain_sensitivity_loss(self.model, batch)

            yield compute

    # ---- The trim ----

    @property
    def trim_ratio(self) -> float:
        """That of the settings, or where it is left open, by the kind of model."""
        if self.args.trim_ratio is not None:
            return self.args.trim_ratio
        return 0.0 if is_causal_language_model(self.model) else 0.03

    def effective_trim_settings(self) -> dict[str, float]:
        """What is in effect of settings that may be left open."""
        return {"trim_ratio": self.trim_ratio, "trim_damage_limit": self.damage_limit}

    def stage_callbacks(self) -> list[StageCallback]:
        """Those that are told of stages which Trainer has no event for."""
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, StageCallback)]

    def trim(self) -> dict[str, Any]:
        """Re-initialise the weights that the forget set depends on most (paper, section 3.1). `train()` calls this once.

        Returns:
            The trim report: `threshold` τ, `candidates` (weights compared), `above_threshold` asked for by trim_ratio,
            `trimmed` in all and `per_module`, and where trim_damage_limit made some be `put_back`, how many.
            With `trim_ratio=0` nothing is measured or cut.
        """
        args: ScissorhandsConfig = self.args
        if self.trim_ratio == 0:
            return dict(NOTHING_TRIMMED)
        if self.record.given_retain_loss is None:  # called alone
            self.note_given_loss()
        size, seed = self.forget_batch_size, self.data_seed
        forget = sensitivity_batches(args, len(self.sets[FORGET]), size, seed)
        # As many of the retain set, which may be far larger; from another order than that of the first epoch.
        relative = args.saliency == "relative"
        retain = random_batches(len(self.sets[RETAIN]), size, len(forget), seed + 1) if relative else []
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        forget_mine, retain_mine = forget[rank::world], retain[rank::world]
        batches = len(retain_mine) + len(forget_mine)
        cuts: dict[str, Cut] | None = {} if math.isfinite(self.damage_limit) else None
        disabled = args.disable_tqdm or not self.is_local_process_zero()
        with tqdm(total=batches, desc="Connection sensitivity", disable=disabled) as bar:
            report, seconds = trim_by_sensitivity(
                self.model,
                self.scopes,
                args,
                self.trim_ratio,
                self._told(self.forget_losses(forget_mine), bar, len(retain_mine)),
                self.accelerator,
                self._told(self.retain_losses(retain_mine), bar, 0) if relative else None,
                cuts,
            )
        if cuts is not None and report["trimmed"]:
            report |= self.limit_trim(report["trimmed"], cuts)
        self.record.seconds.update(seconds)
        return {**report, "saliency_batches": len(forget)}

    def _told(self, losses: Iterator[Callable[[], Tensor]], bar: tqdm, first: int) -> Iterator[Callable[[], Tensor]]:
        """The losses, with how many are done, `first` of others among them, told to the bar and to the stage callbacks."""
        for done, loss in enumerate(losses, first):
            for callback in self.stage_callbacks():
                callback.on_sensitivity(done, bar.total)
            yield loss
            bar.update()
