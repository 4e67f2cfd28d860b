"""Watching a run: averages for the log, and the error that stops a ruinous run."""

import torch
from accelerate import Accelerator
from torch import Tensor

from .checkpoints import last_complete_checkpoint
from .scissorhands_config import ScissorhandsConfig


class UnlearningDivergedError(RuntimeError):
    """Repair ran away: a loss is not finite, or the retain loss rises instead of falling."""


class RunningMeans:
    """Weighted means of named scalars since the object was made. Values stay on their device until they are asked for."""

    def __init__(self):
        self._values: dict[str, list[Tensor]] = {}

    def add(self, name: str, value: Tensor | float, weight: float = 1.0) -> None:
        """`weight`: of the value beside others of its name, >= 0; with 0 the value must be finite all the same."""
        value = torch.as_tensor(value, dtype=torch.float32).detach()
        self._values.setdefault(name, []).append(torch.stack([value * weight, torch.full_like(value, weight)]))

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Over all processes; each must have added the same names. Left out is what weighs nothing."""
        own = {
            name: torch.stack([value.to(accelerator.device) for value in values]).sum(0)
            for name, values in self._values.items()
        }
        sums = {name: accelerator.reduce(value, reduction="sum").tolist() for name, value in own.items()}
        return {name: total / weight for name, (total, weight) in sums.items() if weight > 0}


def diverged(what: str, step: int, args: ScissorhandsConfig, weight: float, ceiling: float) -> UnlearningDivergedError:
    """The error of a run that is being ruined, with the last good checkpoint and what to lower.

    Args:
        what (`str`):
            Happened.
        step (`int`):
            Of the run.
        args (`ScissorhandsConfig`):
            Of the run.
        weight, ceiling (`float`):
            λ, and of the forget loss, in effect.
    """
    good = last_complete_checkpoint(args.output_dir)
    where = f"The last good checkpoint is {good.name} in output_dir" if good else "No checkpoint was saved"
    return UnlearningDivergedError(
        f"Unlearning diverged at step {step}: {what}. {where}; the model in memory is not to be used. Lower learning_rate "
        f"({args.learning_rate}), forget_weight ({weight}), projection_margin ({args.projection_margin}) or "
        f"forget_loss_ceiling ({ceiling:.3g}), or set max_grad_norm ({args.max_grad_norm})."
    )
