"""Taking a trim back, as far as it costs the retain set more than it may: the weights that harm most go back first."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from .sensitivity import is_finite, stream_gradients
from .threshold import exact_threshold
from .trim import Cut


# Of the log odds of the share that is put back: from one weight in ten thousand to all but one in ten thousand.
_FARTHEST = math.log(9_999)
_ROUNDS = 9


@torch.no_grad()
def apply_cuts(
    parameters: Mapping[str, nn.Parameter], cuts: Mapping[str, Cut], keep: Mapping[str, Tensor] | bool
) -> dict[str, int]:
    """Give cut weights their fresh or their old value, in place.

    Args:
        parameters (`Mapping[str, nn.Parameter]`):
            Those that were cut, by name.
        cuts (`Mapping[str, Cut]`):
            Of [`trim_weights`].
        keep (`Mapping[str, Tensor]` or `bool`):
            For each name which weights of the cut have the fresh value, bool (n,); or one answer for all.

    Returns:
        How many have, for each name.
    """
    kept = {}
    for name, cut in cuts.items():
        fresh = keep if isinstance(keep, bool) else keep[name]
        values = torch.where(fresh, cut.fresh, cut.old) if isinstance(fresh, Tensor) else cut.fresh if fresh else cut.old
        # By coordinates: a tensor may lie in memory in another order than it is flattened in.
        parameter = parameters[name] if parameters[name].ndim else parameters[name].view(1)
        parameter.index_put_(torch.unravel_index(cut.index, parameter.shape), values)
        kept[name] = int(fresh.sum()) if isinstance(fresh, Tensor) else len(cut.index) * fresh
    return kept


def cut_harm(
    losses: Iterable[Callable[[], Tensor]],
    parameters: Mapping[str, nn.Parameter],
    cuts: Mapping[str, Cut],
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """What each cut weight costs the retain set, to first order: `h_j = |fresh_j − old_j| · Σ_b |∂L_b/∂θ_j|`.

    Args:
        losses (`Iterable[Callable[[], Tensor]]`):
            Of retain batches, of the model as it was given: call [`apply_cuts`] with `False` before.
        parameters, cuts (`Mapping`):
            As for [`apply_cuts`].
        reduce (`Callable[[Tensor], Tensor]`, *optional*):
            Sums over processes.

    Returns:
        For each name a float32 tensor (n,).
    """
    harm = {name: torch.zeros(len(cut.index), dtype=torch.float32, device=cut.index.device) for name, cut in cuts.items()}

    def fold(name: str, gradient: Tensor) -> None:
        harm[name].add_(gradient.flatten()[cuts[name].index].abs())

    for compute_loss in losses:
        stream_gradients(compute_loss, {name: parameters[name] for name in cuts}, fold)
    for name, cut in cuts.items():
        if reduce is not None:
            harm[name].copy_(reduce(harm[name]))
        harm[name].mul_((cut.fresh.float() - cut.old.float()).abs())
        if not is_finite(harm[name]):
            raise ValueError(f"the gradient of the retain loss contains NaN or infinity for {name!r}")
    return harm


def fit_trim(
    parameters: Mapping[str, nn.Parameter],
    cuts: Mapping[str, Cut],
    harm: Mapping[str, Tensor],
    fits: Callable[[], bool],
) -> dict[str, int]:
    """Put back as few of the cut weights, the most harmful first, as are needed until the model fits, by bisection.

    Args:
        parameters, cuts (`Mapping`):
            As for [`apply_cuts`]; with all cuts in place the model does not fit.
        harm (`Mapping[str, Tensor]`):
            For each name how much each cut weight harms, >= 0, float32 (n,).
        fits (`Callable[[], bool]`):
            Looks at the model as it stands. The same on every process.

    Returns:
        How many weights of each name are still cut; none where the model fits with none alone.
    """
    scores = [values for values in harm.values() if values.numel()]
    lower, upper, best = -_FARTHEST, _FARTHEST, None
    for _ in range(_ROUNDS):
        middle = (lower + upper) / 2
        threshold, _ = exact_threshold(scores, 1 / (1 + math.exp(-middle)))
        apply_cuts(parameters, cuts, {name: values <= threshold for name, values in harm.items()})
        if fits():
            best, upper = threshold, middle
        else:
            lower = middle
    if best is None:
        return apply_cuts(parameters, cuts, False)
    return apply_cuts(parameters, cuts, {name: values <= best for name, values in harm.items()})
