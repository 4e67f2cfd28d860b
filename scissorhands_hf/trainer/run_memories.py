"""The gradient memories of a run: made for its projected weights, renewed from forget batches, projected off, saved."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..core import GradientMemory, Projection, project_gradients, relearned_weights, renew_memories
from .scissorhands_config import ScissorhandsConfig


# Holds gradients of the forget loss, from which forget examples can be guessed: local disk only, never the Hub.
MEMORY_NAME = "gradient_memory.safetensors"


class RunMemories:
    """
    Gradient memories of weights in training, the same on every process.

    Args:
        args (`ScissorhandsConfig`):
            The run's settings.
        parameters (`dict[str, nn.Parameter]`):
            Whose gradients are remembered and projected, by name.
        accelerator (`Accelerator`):
            Averages over processes.
    """

    def __init__(self, args: ScissorhandsConfig, parameters: dict[str, nn.Parameter], accelerator: Accelerator):
        self.parameters = parameters
        self._memory = GradientMemory(
            size=args.memory_batches,
            margin=args.projection_margin,
            relative_margin=args.projection_margin_unit == "gradient",
            epsilon=args.projection_epsilon,
        )
        self._memory.allocate([parameter.detach() for parameter in parameters.values()])
        self._average = partial(accelerator.reduce, reduction="mean") if accelerator.num_processes > 1 else None

    def renew(self, forget_losses: Iterable[Iterable[Callable[[], Tensor]]]) -> bool:
        """Replace all memories by the gradients of M losses of this process, each in parts; whether they are finite."""
        losses = renew_memories(self._memory, self.parameters, forget_losses, self._average)
        return all(bool(torch.isfinite(loss)) for loss in losses)

    def project(self) -> Projection:
        """Project the gathered gradients of the weights, in place."""
        return project_gradients(self._memory, self.parameters.values())

    def relearned(self, radius: float) -> AbstractContextManager[None]:
        """Inside, the weights are moved by `radius` towards relearning."""
        return relearned_weights(self._memory, self.parameters.values(), radius)

    def save(self, folder: Path) -> None:
        """Into a checkpoint."""
        safetensors.torch.save_file(self._memory.state_dict(), folder / MEMORY_NAME)

    def load(self, folder: Path) -> None:
        """From a checkpoint that has them.

        Raises:
            ValueError: they are of other weights, or of another number.
        """
        self._memory.load_state_dict(safetensors.torch.load_file(folder / MEMORY_NAME))
