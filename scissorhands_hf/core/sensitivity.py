"""Step 1 of Scissorhands: how much does the forget set depend on each weight?"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn


# Of the mean retain sensitivity of a tensor: a weight that the retain set hardly depends on must not win by a division by
# almost nothing.
RELATIVE_FLOOR = 0.01


def stream_gradients(
    compute_loss: Callable[[], Tensor],
    parameters: Mapping[str, nn.Parameter],
    consume: Callable[[str, Tensor], None],
) -> Tensor:
    """Run one backward pass and hand over each gradient the moment it is complete, then free it.

    At no time do the gradients of all `parameters` exist together: what lives is the gradient in hand, which for a
    weight used twice (tied) is the sum of its uses. Gradients that were there before are discarded.

    Args:
        compute_loss (`Callable[[], Tensor]`):
            Runs the forward pass and returns a scalar loss.
        parameters (`Mapping[str, nn.Parameter]`):
            The parameters whose gradients are wanted, each with `requires_grad`; no others are computed.
        consume (`Callable[[str, Tensor], None]`):
            Called once for each parameter that the loss depends on, with its name and its gradient, same shape, dtype and
            device as the parameter. It may change the gradient in place.

    Returns:
        The detached loss.
    """

    def hand_over(name: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            gradient, parameter.grad = parameter.grad, None
            consume(name, gradient.to_dense() if gradient.is_sparse else gradient)

        return hook

    for parameter in parameters.values():
        parameter.grad = None
    handles = [p.register_post_accumulate_grad_hook(hand_over(name)) for name, p in parameters.items()]
    try:
        loss = compute_loss()
        loss.backward(inputs=list(parameters.values()))
    finally:
        for handle in handles:
            handle.remove()
        for parameter in parameters.values():
            parameter.grad = None
    return loss.detach()


def connection_sensitivity(
    losses: Iterable[Callable[[], Tensor]],
    parameters: Mapping[str, nn.Parameter],
    reduce: Callable[[Tensor], Tensor] | None = None,
    part: str = "forget",
) -> dict[str, Tensor]:
    """Connection sensitivity of each weight, `s_j = |θ_j| · Σ_b |∂L_b/∂θ_j|`.

    One float32 accumulator of the size of `parameters` is all the memory this needs beside the largest single
    gradient. The caller puts the model into evaluation mode.

    Args:
        losses (`Iterable[Callable[[], Tensor]]`):
            B callables, one for each forget batch; each runs a forward pass and returns that batch's loss. With `reduce`, a
            process may have none.
        parameters (`Mapping[str, nn.Parameter]`):
            The candidate weights by name; any shapes, floating dtype. Not changed.
        reduce (`Callable[[Tensor], Tensor]`, *optional*):
            Sums a tensor over processes that saw different batches, in place or not, and returns it; left out for a single
            process.
        part (`str`, *optional*, defaults to `"forget"`):
            What the batches are of, for messages.

    Returns:
        For each name a float32 tensor of the parameter's shape, on its device; zero where the loss does not depend on the
        weight.

    Raises:
        ValueError: no loss was given, or a loss, weight or gradient is not finite.
    """
    for name, parameter in parameters.items():
        if not is_finite(parameter.detach()):
            raise ValueError(f"the weights of {name!r} contain NaN or infinity")
    accumulators = {
        name: torch.zeros_like(parameter.detach(), dtype=torch.float32, memory_format=torch.preserve_format)
        for name, parameter in parameters.items()
    }

    def fold(name: str, gradient: Tensor) -> None:
        accumulators[name].add_(gradient.abs_())

    batches = 0
    for compute_loss in losses:
        loss = stream_gradients(compute_loss, parameters, fold)
        if not torch.isfinite(loss):
            raise ValueError(f"the {part} loss of sensitivity batch {batches} is {loss.item()}, not a finite number")
        batches += 1
    if batches == 0 and reduce is None:
        raise ValueError(f"connection sensitivity needs at least one {part} batch, got none")

    for name, accumulator in accumulators.items():
        if reduce is not None:
            accumulator.copy_(reduce(accumulator))
        accumulator.mul_(parameters[name].detach().abs())
        if not is_finite(accumulator):
            raise ValueError(f"the gradient of the {part} loss contains NaN or infinity for {name!r}")
    return accumulators


def relative_sensitivity(
    forget_losses: Iterable[Callable[[], Tensor]],
    retain_losses: Iterable[Callable[[], Tensor]],
    parameters: Mapping[str, nn.Parameter],
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Connection sensitivity on the forget set in units of that on the retain set, `s_j = f_j / (r_j + 1 % of r's mean)`.

    `f` and `r` are those of [`connection_sensitivity`], and the mean is taken over the tensor that holds weight j; where no
    retain batch depends on the tensor, over all of them. High are weights that the forget set needs and the retain set does
    not, rather than those that everything needs. Not in the paper.

    Two float32 accumulators of the size of `parameters` are all the memory this needs beside the largest single gradient;
    one of them is freed tensor by tensor.

    Args:
        forget_losses, retain_losses (`Iterable[Callable[[], Tensor]]`):
            As for [`connection_sensitivity`]. Only when both count as many batches are values near 1 those of weights that
            both sets depend on alike; the order of the weights does not depend on it.
        parameters, reduce (`Mapping[str, nn.Parameter]`):
            As for [`connection_sensitivity`].

    Returns:
        For each name a float32 tensor of the parameter's shape, on its device.

    Raises:
        ValueError: as [`connection_sensitivity`], or the retain loss depends on no weight at all.
    """
    retain = connection_sensitivity(retain_losses, parameters, reduce, part="retain")
    # In float64: a sum over billions of weights.
    means = {name: tensor.mean(dtype=torch.float64).item() if tensor.numel() else 0.0 for name, tensor in retain.items()}
    overall = sum(means[name] * tensor.numel() for name, tensor in retain.items()) / sum(t.numel() for t in retain.values())
    if overall == 0:
        raise ValueError("the retain loss depends on none of the weights, so there is nothing to relate sensitivity to")
    forget = connection_sensitivity(forget_losses, parameters, reduce)
    for name, sensitivity in forget.items():
        floor = RELATIVE_FLOOR * (means[name] or overall)
        sensitivity.div_(retain.pop(name).add_(floor))
        if not is_finite(sensitivity):
            raise ValueError(f"the relative sensitivity of {name!r} overflows: its retain sensitivity is almost zero")
    return forget


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are finite: their extremes are not if one is not, and finding those needs no memory."""
    return tensor.numel() == 0 or all(torch.isfinite(extreme).item() for extreme in tensor.aminmax())
