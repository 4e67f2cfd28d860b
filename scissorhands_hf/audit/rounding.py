"""What a weight is after rounding to few bits, as for int8 or 4-bit inference; computed in floating point."""

import torch
from torch import Tensor


def round_to_nearest(weight: Tensor, bits: int, output_axis: int = 0) -> Tensor:
    """
    The values that a weight has after symmetric rounding to nearest, with a scale for each output channel: the largest
    magnitude of a channel is 2^(bits - 1) - 1 steps.

    Args:
        weight (`Tensor`):
            Of two axes or more, floating point.
        bits (`int`):
            2 to 8.
        output_axis (`int`, *optional*, defaults to 0):
            Which axis numbers the output channels.

    Returns:
        A new tensor of the same shape and dtype.
    """
    values, most = weight.detach().float(), 2 ** (bits - 1) - 1
    others = [axis for axis in range(weight.ndim) if axis != output_axis]
    step = values.abs().amax(dim=others, keepdim=True) / most
    rounded = torch.where(step > 0, (values / step).round() * step, 0.0)
    return rounded.to(weight.dtype)
