"""Step 3 of Scissorhands: re-initialise, in place, the weights that the forget set depends on most."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .sensitivity import connection_sensitivity, relative_sensitivity
from .threshold import exact_threshold


class NoInitialDistributionError(ValueError):
    """A weight is to be re-initialised whose module does not say how it was initialised."""


@dataclass(frozen=True)
class Cut:
    """
    The weights of one tensor that were re-initialised, and what they were.

    Args:
        index (`Tensor`):
            Where, int64 (n,), in the flattened tensor.
        old, fresh (`Tensor`):
            The values before and after, (n,), in the tensor's dtype.
    """

    index: Tensor
    old: Tensor
    fresh: Tensor


def is_normalization(module: nn.Module) -> bool:
    """Whether `module` normalises activations (Batch-, Layer-, Group-, InstanceNorm, RMSNorm and their kin)."""
    # Model libraries subclass nothing and rename freely (LlamaRMSNorm, T5LayerNorm), but all keep "Norm" in the name.
    return "norm" in type(module).__name__.lower()


@torch.no_grad()
def trim_weights(
    model: nn.Module,
    sensitivity: Mapping[str, Tensor],
    threshold: float | Mapping[str, float],
    targets: Mapping[str, nn.Parameter],
    seed: int,
    initialize: Callable[[nn.Module], object] | None = None,
    own_scale: bool = False,
    cuts: dict[str, Cut] | None = None,
) -> dict[str, int]:
    """Replace every target weight whose sensitivity exceeds `threshold` by a fresh draw of its module's own kind.

    Weights come from `initialize` (a model library's own scheme), else from the module's `reset_parameters`;
    biases become zero; normalisation layers are left alone. Only one layer's fresh weights exist at a time.

    The fresh weights are drawn inside the real module while every other tensor of the model stands in as a shape
    without memory ("meta"): initialisers that look at parents, at sizes or at flags of loaded tensors all see what
    they saw when the model was made, and cannot touch a weight that is not to be cut.

    Args:
        model (`nn.Module`):
            The module that owns `targets`; changed in place, same storage.
        sensitivity (`Mapping[str, Tensor]`):
            For each target's name a tensor of its shape; other names are ignored.
        threshold (`float` or `Mapping[str, float]`):
            Weights with a strictly greater sensitivity are re-initialised; one for all, or one for each target.
        targets (`Mapping[str, nn.Parameter]`):
            The parameters that may be re-initialised, by their full name in `model`; a tied parameter once.
        seed (`int`):
            Of the fresh draws; the same seed gives the same weights on every process of the same device type, and the
            global random state of all devices is as before afterwards.
        initialize (`Callable[[nn.Module], object]`, *optional*):
            Fills one module's parameters in place; called for the owner and then for each of its ancestors, as model
            libraries do when they build a model.
        own_scale (`bool`, *optional*, defaults to `False`):
            Bring the fresh weights of each tensor to the standard deviation that the tensor has: a model that was trained for
            long has left the scale of its initial weights behind.
        cuts (`dict[str, Cut]`, *optional*):
            Filled with what was replaced in each target, so that it can be undone; 16 bytes a weight of float32.

    Returns:
        How many weights were re-initialised, for each target outside normalisation layers.

    Raises:
        NoInitialDistributionError: neither `initialize` nor the module fills a target.
        ValueError: a target has no sensitivity. Both are raised before any weight is changed.
    """
    names = [name for name in targets if not is_normalization(_owner(model, name))]
    if missing := [name for name in names if name not in sensitivity]:
        raise ValueError(f"no sensitivity is given for the targets {missing}")
    # The smallest weight of each kind of module in each kind of surroundings: what decides whether it can be drawn.
    rehearsal: dict[tuple, str] = {}
    for name in sorted(names, key=lambda name: targets[name].numel()):
        path, _, leaf = name.rpartition(".")
        family = (model.get_submodule(path), *_ancestors(model, path))
        rehearsal.setdefault((leaf, *map(type, family)), name)
    counts: dict[str, int] = {}
    devices = sorted({p.device.index for p in targets.values() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), _shapes_only(model):
        for name in rehearsal.values():  # so that an error leaves every weight as it was
            _fresh_values(model, name, targets[name], initialize)
        torch.default_generator.manual_seed(seed)
        for index in devices:
            torch.cuda.default_generators[index].manual_seed(seed)
        for name in names:
            parameter = targets[name]
            fresh = _fresh_values(model, name, parameter, initialize)
            if own_scale and parameter.numel() > 1:
                spread = fresh.float().std()
                if spread > 0:  # biases are zero, and stay so
                    fresh *= (parameter.float().std() / spread).to(fresh.dtype)
            cut = sensitivity[name] > (threshold[name] if isinstance(threshold, Mapping) else threshold)
            if cuts is not None:
                cuts[name] = Cut(cut.flatten().nonzero().squeeze(1), parameter[cut], fresh.detach()[cut])
            parameter.copy_(torch.where(cut, fresh, parameter))
            counts[name] = int(cut.sum())
    return counts


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _fresh_values(
    model: nn.Module, name: str, parameter: nn.Parameter, initialize: Callable[[nn.Module], object] | None
) -> Tensor:
    """A fresh draw of the whole of `parameter` (full shape, its dtype and device), from its module's own scheme."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if leaf.startswith("bias") or leaf.endswith("bias"):
        return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    fresh = nn.Parameter(torch.full(parameter.shape, float("nan"), dtype=parameter.dtype, device=parameter.device))
    family = [owner, *_ancestors(model, path)]
    # torch's own dict of a module (private, as of torch 2.13): setattr would register and check anew, and there is no other
    # way to lay a tensor of another device in a parameter's place without the module's hooks and ties noticing.
    stand_in, owner._parameters[leaf] = owner._parameters[leaf], fresh
    try:
        if initialize is not None:
            for module in family:
                initialize(module)
        for module in family:
            # The second is what nn.MultiheadAttention and nn.Transformer call theirs (private, as of torch 2.13).
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if reset is not None and _unfilled(fresh):
                reset()
    finally:
        owner._parameters[leaf] = stand_in
    if _unfilled(fresh):
        raise NoInitialDistributionError(
            f"the weight {name!r} of a {type(owner).__name__} has no known initial distribution: neither its model's "
            "`_init_weights` nor a `reset_parameters` of its module fills it. Give the module a `reset_parameters` "
            "method, or leave it out of reinit_target_modules."
        )
    return fresh.data


def _unfilled(fresh: Tensor) -> bool:
    """Whether a value is still NaN: then the sum is, too, and it needs no memory."""
    return bool(fresh.detach().sum().isnan())


def _ancestors(model: nn.Module, path: str) -> Iterator[nn.Module]:
    """The modules above `path`, nearest first, the model itself last."""
    while path:
        path = path.rpartition(".")[0]
        yield model.get_submodule(path)


@contextmanager
def _shapes_only(model: nn.Module) -> Iterator[None]:
    """While inside, every parameter and buffer of `model` is a tensor of the same shape without memory.

    By torch's own dicts of a module (private, as of torch 2.13), as in [`_fresh_values`].
    """
    stand_ins: dict[int, Tensor] = {}

    def stand_in(tensor: Tensor) -> Tensor:
        if id(tensor) not in stand_ins:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            stand_ins[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
        return stand_ins[id(tensor)]

    modules = list(model.modules())
    saved = [(dict(module._parameters), dict(module._buffers)) for module in modules]
    try:
        for module in modules:
            for own in (module._parameters, module._buffers):
                for name, tensor in own.items():
                    if tensor is not None:
                        own[name] = stand_in(tensor)
        yield
    finally:
        for module, (parameters, buffers) in zip(modules, saved, strict=True):
            module._parameters.update(parameters)
            module._buffers.update(buffers)


@dataclass(frozen=True)
class TrimAccount:
    """What a trim did: counts, never which weights.

    Args:
        threshold (`float`, *optional*):
            τ; None where each tensor has its own.
        candidates (`int`):
            Weights compared.
        above_threshold (`int`):
            Asked for by the ratio.
        trimmed (`int`):
            Re-initialised.
        per_module (`dict[str, dict[str, int]]`):
            `{"trimmed": …, "weights": …}` of each module in the scope.
        seconds (`dict[str, float]`):
            Of `sensitivity` and `trim`.
    """

    threshold: float | None
    candidates: int
    above_threshold: int
    trimmed: int
    per_module: dict[str, dict[str, int]]
    seconds: dict[str, float]


def trim_model(
    model: nn.Module,
    forget_losses: Iterable[Callable[[], Tensor]],
    candidates: Mapping[str, nn.Parameter],
    targets: Mapping[str, nn.Parameter],
    ratio: float,
    seed: int,
    initialize: Callable[[nn.Module], object] | None = None,
    reduce: Callable[[Tensor], Tensor] | None = None,
    retain_losses: Iterable[Callable[[], Tensor]] | None = None,
    own_scale: bool = False,
    cuts: dict[str, Cut] | None = None,
    per_tensor: bool = False,
) -> TrimAccount:
    """Re-initialise, in place, those of `targets` that are among the top `ratio` of `candidates` by sensitivity.

    Args:
        model (`nn.Module`):
            In evaluation mode.
        forget_losses (`Iterable[Callable[[], Tensor]]`):
            B callables, each returning the loss of one forget batch.
        candidates (`Mapping[str, nn.Parameter]`):
            Parameters that the threshold is taken over, by name; must include the targets.
        targets (`Mapping[str, nn.Parameter]`):
            Parameters that may be re-initialised, by name.
        ratio (`float`):
            In (0, 1).
        seed (`int`):
            Of the fresh weights.
        initialize (`Callable[[nn.Module], object]`, *optional*):
            See [`trim_weights`].
        reduce (`Callable[[Tensor], Tensor]`, *optional*):
            Sums a tensor over data-parallel processes.
        retain_losses (`Iterable[Callable[[], Tensor]]`, *optional*):
            As many, each of one retain batch: the sensitivity is then taken relative to that of the retain set, see
            [`relative_sensitivity`].
        own_scale, cuts (*optional*):
            See [`trim_weights`].
        per_tensor (`bool`, *optional*, defaults to `False`):
            Take the top `ratio` of each target by itself, so that no layer is cut more than others.

    Returns:
        The account.
    """
    started = time.perf_counter()
    if retain_losses is None:
        sensitivity = connection_sensitivity(forget_losses, candidates, reduce)
    else:
        sensitivity = relative_sensitivity(forget_losses, retain_losses, candidates, reduce)
    measured = time.perf_counter()
    threshold: float | dict[str, float]
    if per_tensor:
        threshold = {name: exact_threshold([sensitivity[name]], ratio)[0] for name in targets}
        total = sum(sensitivity[name].numel() for name in targets)
        asked = sum(int(ratio * sensitivity[name].numel()) for name in targets)
    else:
        threshold, total = exact_threshold(list(sensitivity.values()), ratio)
        asked = int(ratio * total)
    counts = trim_weights(model, sensitivity, threshold, targets, seed, initialize, own_scale, cuts)
    finished = time.perf_counter()
    return TrimAccount(
        threshold=None if isinstance(threshold, dict) else threshold,
        candidates=total,
        above_threshold=asked,
        trimmed=sum(counts.values()),
        per_module=count_by_module(counts, targets),
        seconds={"sensitivity": measured - started, "trim": finished - measured},
    )


def count_by_module(counts: Mapping[str, int], targets: Mapping[str, nn.Parameter]) -> dict[str, dict[str, int]]:
    """`{"trimmed": …, "weights": …}` of each module that owns one of `targets`, from the counts of each by name."""
    per_module: dict[str, dict[str, int]] = {}
    for name, trimmed in counts.items():
        row = per_module.setdefault(name.rpartition(".")[0] or name, {"trimmed": 0, "weights": 0})
        row["trimmed"] += trimmed
        row["weights"] += targets[name].numel()
    return per_module
