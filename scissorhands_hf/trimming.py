"""Steps 1 to 3 on a whole model: sensitivity, threshold, trim, and the account of what was cut."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .core import connection_sensitivity, exact_threshold, trim_weights


def trim_model(
    model: nn.Module,
    forget_losses: Iterable[Callable[[], Tensor]],
    candidates: Mapping[str, nn.Parameter],
    targets: Mapping[str, nn.Parameter],
    ratio: float,
    seed: int,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Re-initialise, in place, those of ``targets`` that are among the top ``ratio`` of ``candidates`` by sensitivity.

    Args:
        model: in evaluation mode.
        forget_losses: B callables, each returning the loss of one forget batch.
        candidates: parameters that the threshold is taken over, by name; must include the targets.
        targets: parameters that may be re-initialised, by name.
        ratio: in (0, 1).
        seed: of the fresh weights.
        reduce: sums a tensor over data-parallel processes.

    Returns:
        The account (``threshold``, ``candidates``, ``above_threshold`` asked for, ``trimmed``, ``per_module`` counts; never
        which weights), and the seconds of ``sensitivity`` and ``trim``.
    """
    started = time.perf_counter()
    sensitivity = connection_sensitivity(forget_losses, candidates, reduce)
    measured = time.perf_counter()
    threshold, total = exact_threshold(list(sensitivity.values()), ratio)
    counts = trim_weights(model, sensitivity, threshold, targets, seed, initializer_of(model))
    finished = time.perf_counter()

    per_module: dict[str, dict[str, int]] = {}
    for name, trimmed in counts.items():
        row = per_module.setdefault(name.rpartition(".")[0] or name, {"trimmed": 0, "weights": 0})
        row["trimmed"] += trimmed
        row["weights"] += targets[name].numel()
    account = {
        "threshold": threshold,
        "candidates": total,
        "above_threshold": int(ratio * total),
        "trimmed": sum(counts.values()),
        "per_module": per_module,
    }
    return account, {"sensitivity": measured - started, "trim": finished - measured}


def initializer_of(model: nn.Module) -> Callable[[nn.Module], None]:
    """How the modules of ``model`` get their first weights: the `_init_weights` of the nearest `PreTrainedModel` around each.

    Modules outside any `PreTrainedModel` are left to their own `reset_parameters`, but transformers' `Conv1D`, which has none,
    is drawn as its constructor does.
    """
    keeper: dict[nn.Module, PreTrainedModel] = {}
    for module in model.modules():  # parents come before their children, so the nearest one is written last
        if isinstance(module, PreTrainedModel):
            keeper.update(dict.fromkeys(module.modules(), module))

    def initialize(module: nn.Module) -> None:
        if module in keeper:
            keeper[module]._init_weights(module)
        elif isinstance(module, Conv1D):
            nn.init.normal_(module.weight, std=0.02)

    return initialize
