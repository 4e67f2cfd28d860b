"""Leave a pipeline as it was found: dtype, devices, flags and random state after any run, all weights after a failed one."""

import gc
import logging
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from .families import Family


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
def original_state(pipe: Any, family: Family) -> Iterator[None]:
    """Run a block that changes the denoiser's weights.

    The original weights are kept on disk, in a folder that only this user can read and that is removed at the end, so no
    second copy lies in memory. When the block raises anything, Ctrl-C included, they are put back exactly.
    """
    denoiser = family.denoiser
    modes = {module: module.training for module in denoiser.modules()}
    wanted = {name: parameter.requires_grad for name, parameter in denoiser.named_parameters()}
    device, attributes = denoiser.device, dict(vars(denoiser))
    with tempfile.TemporaryDirectory(prefix="scissorhands-") as folder:
        backup = Path(folder) / "original.safetensors"
        safetensors.torch.save_file({name: value.contiguous() for name, value in denoiser.state_dict().items()}, backup)
        try:
            with _random_state(device):
                try:
                    yield
                finally:
                    denoiser.to(device)
                    _restore_attributes(denoiser, attributes)
                    for name, parameter in denoiser.named_parameters():
                        parameter.grad = None
                        parameter.requires_grad_(wanted[name])
                    for module, mode in modes.items():
                        module.training = mode
        except BaseException:
            _restore_weights(denoiser, backup)
            raise


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
def only_denoiser_on_device(pipe: Any, family: Family) -> Iterator[None]:
    """While the denoiser trains, the other parts of a pipeline on an accelerator wait in main memory."""
    device = family.denoiser.device
    others = [part for part in pipe.components.values() if isinstance(part, nn.Module) and part is not family.denoiser]
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
def _restore_weights(module: nn.Module, backup: Path) -> None:
    with safe_open(backup, framework="pt") as file:
        for name, value in module.state_dict(keep_vars=True).items():
            value.data.copy_(file.get_tensor(name))


def _restore_attributes(module: nn.Module, attributes: dict[str, Any]) -> None:
    """Accelerate puts a wrapped `forward` on the model it prepares (mixed precision); no trace of that may stay."""
    for name in set(vars(module)) - set(attributes):
        delattr(module, name)
    for name, value in attributes.items():
        if vars(module).get(name) is not value:
            vars(module)[name] = value


@contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    """Trainer seeds all global generators; they go on afterwards as if it had not."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], device_type="cuda"):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
