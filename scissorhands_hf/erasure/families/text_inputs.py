"""What layers of a denoiser read of the text alone, and which places of two prompts belong together."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class TextInputs:
    """
    What some linear layers read of prompts, whatever the picture.

    Args:
        inputs (`Tensor`):
            (n, places, width); places are tokens, or a single one for a summary of the prompt.
        layers (`tuple[str, ...]`):
            Names of the `nn.Linear`s in the denoiser that read them.
        read (`Tensor`, *optional*):
            Bool (n, places), False where the denoiser does not look; None: everywhere.
        summary (`bool`, *optional*, defaults to `False`):
            Whether the one place is a summary.
    """

    inputs: Tensor
    layers: tuple[str, ...]
    read: Tensor | None = None
    summary: bool = False


def linear_layers(denoiser: nn.Module, endings: Sequence[str]) -> tuple[str, ...]:
    """Names of the linear layers whose name ends so, dots included."""
    return tuple(
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and f".{name}".endswith(tuple(endings))
    )


def matching_places(old: Sequence[int], new: Sequence[int], length: int) -> list[tuple[int, int]]:
    """
    For each place of a prompt the place of another one that answers for it.

    Words that both begin with, and those that both end with, belong together; what stands between is matched from its end,
    where an encoder that reads from left to right has read all of it; the padding follows the end of the text.

    Args:
        old, new (`Sequence[int]`):
            Tokens of the two, start and end included, padding left out; at most `length`.
        length (`int`):
            Places of a padded prompt.

    Returns:
        Pairs of places, of the old prompt in order; places of the padding that have no counterpart are left out.
    """
    shortest = min(len(old), len(new))
    prefix = next((i for i in range(shortest) if old[i] != new[i]), shortest)
    suffix = next((i for i in range(shortest - prefix) if old[-1 - i] != new[-1 - i]), shortest - prefix)
    shift = len(new) - len(old)
    # Where the other prompt has nothing between, the last word before it answers.
    first = prefix if len(new) - suffix > prefix else max(0, prefix - 1)
    pairs = [(place, place) for place in range(prefix)]
    pairs += [(place, max(first, place + shift)) for place in range(prefix, len(old) - suffix)]
    pairs += [(place, place + shift) for place in range(len(old) - suffix, length) if place + shift < length]
    return pairs
