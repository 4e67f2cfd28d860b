"""Step 2 of Scissorhands: the threshold, found exactly without gathering or sorting the sensitivities."""

from collections.abc import Collection

import torch
from torch import Tensor


_DIGIT_BITS = 16
_CHUNK = 1 << 20  # elements widened to int64 at a time: large enough to be fast, small enough to stay in cache
_BIT_VIEWS = {torch.float32: torch.int32, torch.float64: torch.int64}


def exact_threshold(
    scores: Collection[Tensor],
    ratio: float,
) -> tuple[float, int]:
    """The exact value τ that the top `ratio` of all scores exceed.

    With n scores and `k = ⌊ratio · n⌋`, τ is the (n − k)-th smallest score, so at most k scores are strictly greater, and
    exactly k when none ties with τ.

    A radix selection: the bits of non-negative floats order like the floats, so counting the leading 16 bits finds the
    bucket that holds the wanted rank, and counting the next 16 bits inside that bucket finds the value (float32: two
    passes, float64: four). No score is moved, copied as a whole, or sorted.

    Args:
        scores (`Collection[Tensor]`):
            Tensors of any shapes, one common dtype (float32 or float64), all values finite and >= 0, and no -0.0, as
            absolute values are.
        ratio (`float`):
            Share of scores that may exceed the threshold, in (0, 1).

    Returns:
        `(tau, n)`: the threshold and the number of scores.

    Raises:
        ValueError: the ratio is outside (0, 1), there are no scores, dtypes differ or are unsupported, or a score is
            negative or not finite.
    """
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"ratio={ratio!r} must lie strictly between 0 and 1")
    dtypes = {tensor.dtype for tensor in scores}
    if len(dtypes) != 1 or not dtypes <= _BIT_VIEWS.keys():
        raise ValueError(f"scores must share one dtype, float32 or float64; got {sorted(map(str, dtypes)) or 'no scores'}")
    dtype = dtypes.pop()
    bits = torch.finfo(dtype).bits
    smallest_bad = int(torch.tensor(float("inf"), dtype=dtype).view(_BIT_VIEWS[dtype])) >> (bits - _DIGIT_BITS)

    rank = prefix = None
    count = 0
    for shift in range(bits - _DIGIT_BITS, -1, -_DIGIT_BITS):
        histogram = _digit_histogram(scores, _BIT_VIEWS[dtype], shift, prefix).cpu()
        if rank is None:
            # Infinity and NaN have the largest exponent bits, negative numbers the sign bit, which comes before all.
            if histogram[smallest_bad:].any():
                raise ValueError("scores must be finite and not negative")
            count = int(histogram.sum())
            if count == 0:
                raise ValueError("there are no scores to take a threshold of")
            rank = count - int(ratio * count)  # 1-based rank from below
        cumulative = histogram.cumsum(0)
        digit = int(torch.searchsorted(cumulative, rank))
        rank -= int(cumulative[digit] - histogram[digit])
        prefix = digit if prefix is None else (prefix << _DIGIT_BITS) | digit
    return torch.tensor(prefix, dtype=_BIT_VIEWS[dtype]).view(dtype).item(), count


def _digit_histogram(scores: Collection[Tensor], bit_view: torch.dtype, shift: int, prefix: int | None) -> Tensor:
    """Counts, int64 of shape (65536,), of the 16 bits above `shift`, among scores whose higher bits are `prefix`."""
    histogram = torch.zeros(1 << _DIGIT_BITS, dtype=torch.int64, device=next(iter(scores)).device)
    for tensor in scores:
        for chunk in tensor.detach().reshape(-1).split(_CHUNK):
            pattern = chunk.view(bit_view)
            if prefix is not None:
                pattern = pattern[(pattern >> (shift + _DIGIT_BITS)) == prefix]
            digits = (pattern >> shift).to(torch.int64) & ((1 << _DIGIT_BITS) - 1)
            histogram += torch.bincount(digits, minlength=1 << _DIGIT_BITS).to(histogram.device)
    return histogram
