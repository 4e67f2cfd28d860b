"""Leave a pipeline as it was found: dtype, devices, flags and random state after any run, all weights after a failed one."""

import gc
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from ..audit.untouched import attributes_kept, random_states_kept
from ..core.modes import training_modes_kept


logger = logging.getLogger(__name__)


def warn_of_shared_parts(pipe: Any, denoiser: nn.Module) -> list[str]:
    """Name other pipelines in this process that use the same denoiser: they forget as well."""
    from diffusers import DiffusionPipeline

    others = {
        type(other).__name__
        for other in gc.get_objects()
        if issubclass(type(other), DiffusionPipeline)
        and other is not pipe
        and any(part is denoiser for part in vars(other).values())
    }
    warnings = [
        f"The {type(denoiser).__name__} is shared with another pipeline in memory ({name}), which forgets as well."
        for name in sorted(others)
    ]
    for text in warnings:
        logger.warning(text)
    return warnings


@contextmanager
def original_state(denoiser: nn.Module) -> Iterator[Callable[[], float]]:
    """Run a block that changes the denoiser's weights: all else is as before afterwards, and after an error they are, too. It
    gets a function that says how far the weights have moved by then, see [`weights_back_after_failure`]."""
    with (
        weights_back_after_failure(denoiser) as moved,
        memory_layout_kept(denoiser),
        random_states_kept([denoiser.device]),  # Trainer seeds all global generators
        training_modes_kept(denoiser),
        gradients_kept_off(denoiser),
        unfrozen(denoiser),
        # Accelerate puts a wrapped `forward` on the model it prepares (mixed precision).
        attributes_kept(denoiser),
        device_kept(denoiser),
    ):
        yield moved


@contextmanager
def weights_back_after_failure(module: nn.Module) -> Iterator[Callable[[], float]]:
    """When the block raises anything, Ctrl-C included, the weights are put back exactly.

    They are kept on disk, in a folder that only this user can read and that is removed at the end, so no second copy lies in
    memory. The block gets a function that tells by what share of their norm they have moved from there.
    """
    with tempfile.TemporaryDirectory(prefix="scissorhands-") as folder:
        backup = Path(folder) / "original.safetensors"
        safetensors.torch.save_file({name: value.contiguous() for name, value in module.state_dict().items()}, backup)
        try:
            yield partial(_distance, module, backup)
        except BaseException:
            _restore_weights(module, backup)
            raise


@contextmanager
def gradients_kept_off(module: nn.Module) -> Iterator[None]:
    """Afterwards no parameter has a gradient, and those that wanted one before want one again."""
    wanted = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    try:
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(wanted[name])


@contextmanager
def unfrozen(module: nn.Module) -> Iterator[None]:
    """Inside all weights want gradients: which are trained is for the settings to say, and no matter of how the pipeline was
    loaded. Afterwards each wants them or not as before."""
    wanted = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    try:
        module.requires_grad_(True)
        yield
    finally:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(wanted[name])


@contextmanager
def memory_layout_kept(module: nn.Module) -> Iterator[None]:
    """Inside all weights are contiguous, as files want them; afterwards each has the strides that it had, with its values as
    they are by then (`torch.channels_last`, a transposed matrix)."""
    strides = {name: value.stride() for name, value in module.state_dict().items() if not value.is_contiguous()}
    weights = module.state_dict(keep_vars=True)
    try:
        for name in strides:
            weights[name].data = weights[name].data.contiguous()
        yield
    finally:
        weights = module.state_dict(keep_vars=True)
        for name, stride in strides.items():
            value = weights[name].data
            laid_out = torch.empty_strided(value.shape, stride, dtype=value.dtype, device=value.device)
            weights[name].data = laid_out.copy_(value)


@contextmanager
def plain_torch() -> Iterator[None]:
    """Inside torch is as outside of all of its blocks: with gradients, without inference mode and autocast, tensors on the CPU
    unless said otherwise. Whoever calls may draw in such blocks; training in them fails, or is of another precision."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda", "xpu")):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def device_kept(module: nn.Module) -> Iterator[None]:
    """A module that was moved is moved back."""
    device = module.device
    try:
        yield
    finally:
        module.to(device)


@contextmanager
def in_float32(denoiser: nn.Module) -> Iterator[None]:
    """Inside, all floating-point weights are float32, in which small updates are not lost; afterwards in their own dtypes."""
    dtypes = {name: value.dtype for name, value in _floating(denoiser)}
    try:
        _cast(denoiser, dict.fromkeys(dtypes, torch.float32))
        yield
    finally:
        _cast(denoiser, dtypes)


@contextmanager
def only_denoiser_on_device(pipe: Any, denoiser: nn.Module) -> Iterator[None]:
    """While the denoiser trains, the other parts of a pipeline on an accelerator wait in main memory."""
    device = denoiser.device
    others = [part for part in pipe.components.values() if isinstance(part, nn.Module) and part is not denoiser]
    moved = [(part, part.device) for part in others if device.type != "cpu" and part.device.type != "cpu"]
    try:
        for part, _ in moved:
            part.to("cpu")
        yield
    finally:
        for part, where in moved:
            part.to(where)


def _floating(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, value) for name, value in module.state_dict(keep_vars=True).items() if value.is_floating_point())


def _cast(module: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
    """In place, tensor by tensor: a model may hold several dtypes on purpose."""
    for name, value in _floating(module):
        if value.dtype != dtypes[name]:
            value.data = value.data.to(dtypes[name])


@torch.no_grad()
def _distance(module: nn.Module, backup: Path) -> float:
    """‖θ − θ₀‖ / ‖θ₀‖, tensor by tensor, so that no second copy lies in memory."""
    way = size = 0.0
    with safe_open(backup, framework="pt") as file:
        for name, value in _floating(module):
            original = file.get_tensor(name).float()
            way += (value.detach().cpu().float() - original).square().sum(dtype=torch.float64).item()
            size += original.square().sum(dtype=torch.float64).item()
    return math.sqrt(way / size) if size else 0.0


@torch.no_grad()
def _restore_weights(module: nn.Module, backup: Path) -> None:
    with safe_open(backup, framework="pt") as file:
        for name, value in module.state_dict(keep_vars=True).items():
            value.data.copy_(file.get_tensor(name))
