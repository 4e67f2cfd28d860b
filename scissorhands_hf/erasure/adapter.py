"""Repair by a low-rank adapter (LoRA, arXiv:2106.09685) over a frozen denoiser: made by PEFT, and merged by it at the end."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.modes import evaluation_mode
from ..trainer.scopes import match_parameters
from .families import Family
from .guard import in_float32
from .noisy_examples import NoisyExamples, PromptTable, collate


if TYPE_CHECKING:
    from peft import LoraConfig

# What of a merged model's predictions may differ from those of the unmerged one, as a share of their size: rounding of sums,
# and where weights are of half precision the rounding of merged weights to it.
ROUNDING = 1e-4
ROUNDINGS_OF_HALF_PRECISION = 4
CHECKED_EXAMPLES = 8
_INITIAL = (True, "gaussian")  # others of PEFT's ways to begin change the weights below


@dataclass(frozen=True)
class RepairAdapter:
    """
    What a run's adapter will be.

    Args:
        config (`LoraConfig`):
            PEFT's.
        layers (`frozenset[str]`):
            Names of the denoiser's layers that it is laid over.
        weights (`frozenset[str]`):
            Names of the weights that it is merged into.
    """

    config: LoraConfig
    layers: frozenset[str]
    weights: frozenset[str]

    def name(self, weight: str) -> str:
        """What a weight of the denoiser is called while the adapter lies over it."""
        layer, _, leaf = weight.rpartition(".")
        return f"{layer}.base_layer.{leaf}" if layer in self.layers else weight

    def plain_name(self, weight: str) -> str:
        """The same backwards."""
        return weight.replace(".base_layer.", ".")


def repair_adapter(value: Any, family: Family, patterns: Sequence[str] | None) -> RepairAdapter | None:
    """
    The adapter of a run.

    Args:
        value (`int` or `LoraConfig`, *optional*):
            `repair_adapter` of the settings.
        family (`Family`):
            Of the pipeline.
        patterns (list of `str`, *optional*):
            `trainable_target_modules`: of a rank, the linear and convolutional layers whose weights they name. Default: those
            of attention.

    Raises:
        ImportError: PEFT is missing.
        TypeError, ValueError: no rank and no configuration that can be merged, or layers that the denoiser does not have.
    """
    if value is None:
        return None
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"repair_adapter={value!r} needs PEFT: pip install 'scissorhands_hf[peft]'") from error
    denoiser = family.denoiser
    if isinstance(value, peft.LoraConfig):
        for field, allowed in (("bias", ("none",)), ("modules_to_save", (None, [])), ("target_parameters", (None, [])),
                               ("layer_replication", (None,)), ("init_lora_weights", _INITIAL)):  # fmt: skip
            if getattr(value, field, allowed[0]) not in allowed:
                raise ValueError(
                    f"repair_adapter has {field}={getattr(value, field)!r}: only {' or '.join(map(repr, allowed))} leaves the "
                    "weights below as they are until it is merged"
                )
        config = value
    elif isinstance(value, int) and not isinstance(value, bool):
        named = dict(denoiser.named_parameters())
        chosen = match_parameters(named, patterns or family.adapter_patterns, "trainable_target_modules")
        layers = {name.rpartition(".")[0] for name in chosen}
        layers = sorted(name for name in layers if isinstance(denoiser.get_submodule(name), nn.Linear | nn.Conv2d))
        if not layers:
            raise ValueError(
                f"repair_adapter={value} needs linear or convolutional layers, and trainable_target_modules={patterns!r} names "
                "none"
            )
        config = peft.LoraConfig(r=value, lora_alpha=value, target_modules=layers)
    else:
        raise TypeError(f"repair_adapter={value!r} must be a rank or a peft.LoraConfig")
    shapes = on_meta(denoiser)
    try:
        peft.inject_adapter_in_model(config, shapes, low_cpu_mem_usage=True)
    except ValueError as error:
        raise ValueError(f"repair_adapter does not fit the {type(denoiser).__name__}: {error}") from error
    layers = {name for name, module in shapes.named_modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")}
    return RepairAdapter(config, frozenset(layers), frozenset(f"{layer}.weight" for layer in layers))


def on_meta(module: nn.Module) -> nn.Module:
    """A copy of a diffusers model that has shapes and no memory."""
    with torch.device("meta"):
        return type(module).from_config(module.config).eval()


def adapter_weights(denoiser: nn.Module) -> list[str]:
    """Names of the adapter's own weights."""
    return [name for name, _ in denoiser.named_parameters() if ".lora_" in name]


class LaidAdapter:
    """
    An adapter that lies over a denoiser.

    Args:
        denoiser (`nn.Module`):
            Its layers are wrapped in place.
        adapter ([`RepairAdapter`]):
            What it is.
        device (`torch.device`):
            Where it is trained; the layers below may be offloaded.
    """

    def __init__(self, denoiser: nn.Module, adapter: RepairAdapter, device: torch.device):
        from peft import get_peft_model

        self.denoiser, self.adapter = denoiser, adapter
        self._waits = denoiser.device
        self._wrapper: Any = get_peft_model(denoiser, adapter.config)
        self._expected: list[Tensor] = []
        self._move(device)

    def _move(self, device: torch.device) -> None:
        for name in adapter_weights(self.denoiser):
            weight = self.denoiser.get_parameter(name)
            weight.data = weight.data.to(device)

    def held(self, changed: Collection[str]) -> set[str]:
        """Names, as they are now, of what is held in float32 of the weights that change otherwise than by the merge, and of the
        adapter's own."""
        return {self.adapter.name(name) for name in changed} | set(adapter_weights(self.denoiser))

    def remember(self, family: Family, examples: Sequence[NoisyExamples], table: PromptTable) -> None:
        """What is predicted now, on some examples of each set."""
        self._inputs = [collate([part[index] for index in range(min(CHECKED_EXAMPLES, len(part)))]) for part in examples]
        self._expected = self._predict(family, table)

    def merge(self, family: Family, table: PromptTable) -> None:
        """Add it to the weights below, and check that they predict what was remembered.

        Raises:
            RuntimeError: they do not.
        """
        self._move(self._waits)
        self._wrapper.merge_and_unload(safe_merge=True)
        self._wrapper = None
        with in_float32(self.denoiser, ()):
            found = self._predict(family, table)
        dtypes = {self.denoiser.get_parameter(name).dtype for name in self.adapter.weights}
        allowed = max(ROUNDING, *(ROUNDINGS_OF_HALF_PRECISION * torch.finfo(d).eps for d in dtypes if d != torch.float32), 0)
        for now, before in zip(found, self._expected, strict=True):
            error = ((now - before).norm() / before.norm()).item()
            if not error <= allowed:
                raise RuntimeError(
                    f"the adapter does not merge: predictions are {100 * error:.2g} % from those of the unmerged denoiser, and "
                    f"rounding explains {100 * allowed:.2g} %. Choose another repair_adapter"
                )

    def _predict(self, family: Family, table: PromptTable) -> list[Tensor]:
        with torch.no_grad(), evaluation_mode(self.denoiser):
            return [
                torch.cat(
                    [
                        family.predict(
                            self.denoiser,
                            batch["noisy"][row : row + 1].to(family.device),
                            batch["timesteps"][row : row + 1],
                            table[batch["prompt"][row : row + 1]],
                        )
                        .float()
                        .cpu()
                        for row in range(len(batch["noisy"]))
                    ]
                )
                for batch in self._inputs
            ]

    def take_off(self) -> None:
        """Leave the weights below as they are."""
        if self._wrapper is not None:
            self._wrapper.unload()
            self._wrapper = None


@contextmanager
def laid_over(
    denoiser: nn.Module, adapter: RepairAdapter | None, seed: int, device: torch.device
) -> Iterator[LaidAdapter | None]:
    """Inside, the adapter lies over the denoiser on that device, and does nothing yet; unless it was merged, it is gone
    afterwards."""
    if adapter is None:
        yield None
        return
    torch.manual_seed(seed)
    laid = LaidAdapter(denoiser, adapter, device)
    try:
        yield laid
    finally:
        laid.take_off()
