"""Which weights: patterns on parameter names, and the default scope of each architecture family."""

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..core.trim import is_normalization
from .scissorhands_config import ScissorhandsConfig


@dataclass(frozen=True)
class Scopes:
    """Names of the parameters that may be re-initialised, that are trained, and whose gradients are projected."""

    reinit: list[str]
    trained: list[str]
    projected: list[str]
    reinit_origin: str

    def describe(self, model: nn.Module) -> str:
        """One line with the counts of weights."""
        reinit, trained, projected = (
            f"{sum(model.get_parameter(name).numel() for name in names):,}"
            for names in (self.reinit, self.trained, self.projected)
        )
        return (
            f"Scopes: {trained} weights are trained, {projected} of them projected, {reinit} may be re-initialised "
            f"({self.reinit_origin})."
        )

    def freeze_others(self, model: nn.Module) -> None:
        """Leave `requires_grad` to the trained weights alone."""
        trained = set(self.trained)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)


def resolve_scopes(model: nn.Module, args: ScissorhandsConfig) -> Scopes:
    """Turn the patterns of `args` into parameter names. Tied weights match by any of their names and are kept once.

    Raises:
        ValueError: see [`match_parameters`] and [`default_reinit_scope`].
    """
    first_name = {id(parameter): name for name, parameter in model.named_parameters()}
    trainable = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}

    def select(argument: str, among: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        patterns = getattr(args, argument)
        return dict(among) if patterns is None else match_parameters(among, patterns, argument)

    def names(parameters: Mapping[str, nn.Parameter]) -> list[str]:
        return list(dict.fromkeys(first_name[id(parameter)] for parameter in parameters.values()))

    trained = select("trainable_target_modules", trainable)
    if args.reinit_target_modules is None and args.trim_ratio == 0:
        origin, reinit = "trim_ratio=0", {}
    elif args.reinit_target_modules is None:
        origin, reinit = default_reinit_scope(model, trained)
    else:
        origin, reinit = "reinit_target_modules", select("reinit_target_modules", trained)
    return Scopes(names(reinit), names(trained), names(select("projection_target_modules", trained)), origin)


def match_parameters(parameters: Mapping[str, nn.Parameter], patterns: Sequence[str], argument: str) -> dict[str, nn.Parameter]:
    """The parameters that any of `patterns` names.

    A pattern is a dotted part of a name (`"encoder.stages.3"` names all parameters below it), a glob over the whole name
    when it has one of `*?[` (`"*.attention.*"`), or a regular expression searched in the name after `"re:"`.

    Args:
        parameters (`Mapping[str, nn.Parameter]`):
            By full name.
        patterns (`Sequence[str]`):
            One or more.
        argument (`str`):
            The configuration field the patterns came from, for the error.

    Raises:
        ValueError: no patterns, one that is no valid regular expression, or one that matches nothing; the message lists near
            names.
    """
    if not patterns:
        raise ValueError(f"{argument}={patterns!r} holds no pattern; leave it at None for the default")
    matched: set[str] = set()
    for pattern in patterns:
        names = {name for name in parameters if _matches(name, pattern, argument)}
        if not names:
            raise ValueError(f"{argument}: the pattern {pattern!r} matches no parameter. {_near_names(parameters, [pattern])}")
        matched |= names
    return {name: parameter for name, parameter in parameters.items() if name in matched}


def _matches(name: str, pattern: str, argument: str) -> bool:
    if pattern.startswith("re:"):
        try:
            return re.search(pattern[3:], name) is not None
        except re.error as error:
            raise ValueError(f"{argument}={pattern!r} is no valid regular expression: {error}") from error
    if any(character in pattern for character in "*?["):
        return fnmatch.fnmatchcase(name, pattern)
    return f".{pattern.strip('.')}." in f".{name}."


def _near_names(parameters: Mapping[str, nn.Parameter], patterns: Sequence[str]) -> str:
    """Module and parameter names that look like the patterns, else where the names begin."""
    known = list(dict.fromkeys(".".join(n.split(".")[:depth]) for n in parameters for depth in range(1, n.count(".") + 2)))
    near = [m for p in patterns for m in difflib.get_close_matches(p.removeprefix("re:"), known, n=3, cutoff=0.5)]
    if near:
        return f"Near names: {', '.join(dict.fromkeys(near))}."
    return f"Names begin with: {', '.join(dict.fromkeys('.'.join(n.split('.')[:2]) for n in parameters))}."


def default_reinit_scope(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> tuple[str, dict[str, nn.Parameter]]:
    """The weights that are re-initialised when the user names none: the late, task-specific part of the model.

    ResNets: the last two of four stages and the head (the reference's layer3, layer4, fc). Other models (ViT, BERT, Llama and
    whatever repeats a block): the last third of the repeated blocks and the head. Embeddings, weights tied to them, and
    normalisation layers are never in it.

    Returns:
        A sentence for the log, and the parameters by name.

    Raises:
        ValueError: the model has no repeated blocks; the message says to give `reinit_target_modules`.
    """
    blocks_path, blocks = _repeated_blocks(model)
    if blocks is None:
        raise ValueError(
            f"reinit_target_modules=None, and {type(model).__name__} has no repeated blocks to derive a default from: name "
            f"the weights that may be re-initialised. {_near_names(parameters, [])}"
        )
    family = getattr(getattr(model, "config", None), "model_type", None) or type(model).__name__
    is_resnet = "resnet" in family.lower() or "regnet" in family.lower()
    kept = len(blocks) // 2 if is_resnet else len(blocks) - max(1, len(blocks) // 3)
    late = tuple(f"{path}." for path in blocks[kept:])

    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    order = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    last_of_blocks = max(index for index, name in enumerate(order) if name.startswith(tuple(f"{path}." for path in blocks)))
    head = {name for name in order[last_of_blocks + 1 :]}
    scope = {
        name: parameter
        for name, parameter in parameters.items()
        if (name.startswith(late) or name in head)
        and id(parameter) not in embeddings
        and not is_normalization(model.get_submodule(name.rpartition(".")[0]))
    }
    part, where = "stages" if is_resnet else "blocks", f" ({blocks_path.rstrip('.')})" if blocks_path else ""
    return f"{family}: the last {len(late)} of {len(blocks)} {part}{where} and the head", scope


def _repeated_blocks(model: nn.Module) -> tuple[str, list[str] | None]:
    """Path prefix and member paths of the container whose members, of one class, hold the most weights."""
    best: tuple[int, str, list[str]] | None = None
    for path, module in model.named_modules():
        children = list(module.named_children())
        numbered = [(name, child) for name, child in children if re.fullmatch(r"(layer)?\d+", name)]
        if len(numbered) < 2 or len({type(child) for _, child in numbered}) > 1:
            continue
        if any(not list(child.children()) for _, child in numbered):
            continue  # layers, not blocks
        size = sum(p.numel() for _, child in numbered for p in child.parameters())
        if best is None or size > best[0]:
            prefix = f"{path}." if path else ""
            best = (size, prefix, [prefix + name for name, _ in numbered])
    return (best[1], best[2]) if best else ("", None)
