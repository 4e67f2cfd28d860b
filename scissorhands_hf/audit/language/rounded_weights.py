"""Is forgotten knowledge back when weights are rounded, as for int8 or 4-bit inference? (Zhang et al., arXiv:2410.16454)"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..rounding import round_to_nearest


def linear_weights(model: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """
    What libraries of quantisation round: the weights of linear layers but that of the output layer, each with its output axis.

    Raises:
        ValueError: there are none, or their values are not floating point.
    """
    last = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    tied = None if last is None else last.weight
    found: dict[nn.Parameter, int] = {}
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and module.weight is not tied:
            found[module.weight] = 1 if isinstance(module, Conv1D) else 0
    if not found or not all(weight.is_floating_point() for weight in found):
        raise ValueError(
            "rounding: the model has no linear layers with floating-point weights to round; leave it out with rounding=()"
        )
    return list(found.items())


@contextmanager
def weights_rounded(model: nn.Module, bits: int) -> Iterator[None]:
    """The model computes with rounded linear weights inside; afterwards each is as it was, bit for bit.

    Args:
        model (`nn.Module`):
            Changed in place, and back.
        bits (`int`):
            2 to 8.
    """
    weights = linear_weights(model)
    kept = [weight.detach().clone() for weight, _ in weights]
    try:
        with torch.no_grad():
            for weight, axis in weights:
                weight.copy_(round_to_nearest(weight, bits, axis))
        yield
    finally:
        with torch.no_grad():
            for (weight, _), before in zip(weights, kept, strict=True):
                weight.copy_(before)
