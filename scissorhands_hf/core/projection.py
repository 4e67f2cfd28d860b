"""Gradient memories of a model in training: filling them, projecting the gradients that backward left, and looking ahead."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .memory import GradientMemory, Projection
from .sensitivity import stream_gradients


def renew_memories(
    memory: GradientMemory,
    parameters: Mapping[str, nn.Parameter],
    forget_losses: Iterable[Iterable[Callable[[], Tensor]]],
    average: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Replace all memories by the gradients of `forget_losses`, streamed, a sum of losses for each memory.

    Args:
        memory (`GradientMemory`):
            Allocated for `parameters`, in their order.
        parameters (`Mapping[str, nn.Parameter]`):
            Whose gradients are remembered.
        forget_losses (`Iterable[Iterable[Callable[[], Tensor]]]`):
            For each of the M memories callables, each returning the loss of a part of its forget batch, of the model as it
            stands, weighed so that their sum is the batch's.
        average (`Callable[[Tensor], Tensor]`, *optional*):
            Averages a tensor over data-parallel processes, so that all remember the same.

    Returns:
        The M losses.
    """
    memory.clear()
    position = {name: index for index, name in enumerate(parameters)}
    losses = []
    for number, parts in enumerate(forget_losses):

        def store(name: str, gradient: Tensor, number: int = number) -> None:
            memory.store(number, position[name], gradient)

        losses.append(sum((stream_gradients(compute_loss, parameters, store) for compute_loss in parts), torch.zeros(())))
    if average is not None:
        for row in memory.rows:
            row.copy_(average(row))
    memory.close_refresh()
    return losses


def project_gradients(memory: GradientMemory, parameters: Iterable[nn.Parameter]) -> Projection:
    """Project the `.grad` of `parameters`, in place."""
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:  # unused in this step: its gradient is zero, and the projection may move it from there
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    return memory.project(gradients)


@contextmanager
def relearned_weights(memory: GradientMemory, parameters: Iterable[nn.Parameter], radius: float) -> Iterator[None]:
    """Inside, the weights are where relearning would take them: `θ + ρ·m/‖m‖`, m the sum of the memories.

    Sharpness-aware minimisation (arXiv:2010.01412) as unlearning uses it (arXiv:2502.05374): what is asked of the forget set
    is asked where an attacker arrives who descends its loss. A memory is `−∇L(D_f)`, so it points there.

    Args:
        memory (`GradientMemory`):
            Filled for `parameters`, in their order.
        parameters (`Iterable[nn.Parameter]`):
            In float32; moved in place and put back, up to rounding.
        radius (`float`):
            ρ, > 0, the length of the step in weight space.
    """
    pairs = [(parameter, row.sum(0).view_as(parameter)) for row, parameter in zip(memory.rows, parameters, strict=True)]
    length = memory.gram.sum().sqrt().item()  # ‖Σ m_i‖² = Σ_ij ⟨m_i, m_j⟩
    scale = radius / length if length > 0 else 0.0
    with torch.no_grad():
        for parameter, direction in pairs:
            parameter.add_(direction, alpha=scale)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, direction in pairs:
                parameter.sub_(direction, alpha=scale)
