"""Steps 1 to 3 in a trainer: which forget batches the sensitivity is measured on, the trim over processes, and its report."""

import dataclasses
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from ..core import evaluation_mode, trim_model
from .initializer import initializer_of
from .paired_batches import random_batches
from .scissorhands_config import ScissorhandsConfig
from .scopes import Scopes


logger = logging.getLogger(__name__)

# What matters before the first step alone.
TRIM_SETTINGS = ("trim_ratio", "saliency_batches", "threshold_scope", "reinit_target_modules")
NOTHING_TRIMMED = {"threshold": None, "candidates": 0, "above_threshold": 0, "trimmed": 0, "per_module": {}}


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
    forget_losses: Iterable[Callable[[], Tensor]],
    accelerator: Accelerator,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Re-initialise, in place, the weights in scope that the forget set depends on most.

    Args:
        model (`nn.Module`):
            Outside DistributedDataParallel; its modes are as before afterwards.
        scopes (`Scopes`):
            Of the run.
        args (`ScissorhandsConfig`):
            Of the run, with `trim_ratio` > 0.
        forget_losses (`Iterable[Callable[[], Tensor]]`):
            This process's part of the batches.
        accelerator (`Accelerator`):
            Sums over processes.

    Returns:
        The report, JSON-ready, and the seconds of "sensitivity" and "trim".
    """
    scope = {name: model.get_parameter(name) for name in scopes.reinit}
    candidates = scope if args.threshold_scope == "reinit" else {name: model.get_parameter(name) for name in scopes.trained}
    total = partial(accelerator.reduce, reduction="sum") if accelerator.num_processes > 1 else None
    with evaluation_mode(model):
        account = trim_model(model, forget_losses, candidates, scope, args.trim_ratio, args.seed, initializer_of(model), total)
    report = dataclasses.asdict(account)
    seconds = report.pop("seconds")
    if account.trimmed == 0:
        logger.warning(
            "No weight was re-initialised: none in the scope is among the top %s of %s weights. A larger trim_ratio or "
            "threshold_scope='reinit' would cut some.",
            args.trim_ratio,
            f"{account.candidates:,}",
        )
    logger.info(
        "Trimmed %s weights (threshold %.3e over %s): %s",
        f"{account.trimmed:,}",
        account.threshold,
        f"{account.candidates:,}",
        ", ".join(f"{name} {row['trimmed']:,}" for name, row in account.per_module.items() if row["trimmed"]),
    )
    return report, seconds
