"""Watching a run: averages for the log, and the error that stops a ruinous run."""

import torch
from accelerate import Accelerator
from torch import Tensor


class UnlearningDivergedError(RuntimeError):
    """Repair ran away: a loss is not finite, or the retain loss rises instead of falling."""


class RunningMeans:
    """Means of named scalars since the object was made. Values stay on their device until they are asked for."""

    def __init__(self):
        self._values: dict[str, list[Tensor]] = {}

    def add(self, name: str, value: Tensor | float) -> None:
        self._values.setdefault(name, []).append(torch.as_tensor(value, dtype=torch.float32).detach())

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Over all processes; each must have added the same names."""
        own = {
            name: torch.stack([value.to(accelerator.device) for value in values]).mean()
            for name, values in self._values.items()
        }
        return {name: accelerator.reduce(value, reduction="mean").item() for name, value in own.items()}
