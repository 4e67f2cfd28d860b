"""Leave a pipeline as it was found: dtype, devices, flags and random state after any run, all weights after a failed one."""

import errno
import gc
import logging
import math
import re
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.utils import parametrize

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
def original_state(denoiser: nn.Module, changed: Collection[str] | None = None) -> Iterator[Callable[[], float]]:
    """Run a block that changes the denoiser's weights: all else is as before afterwards, and after an error they are, too. It
    gets a function that says how far the weights have moved by then, see [`weights_back_after_failure`].

    Args:
        denoiser (`nn.Module`):
            Of the pipeline.
        changed (collection of `str`, *optional*):
            Names of the weights that the block may change. Default: all.
    """
    with (
        weights_back_after_failure(denoiser, changed) as moved,
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
def weights_back_after_failure(module: nn.Module, changed: Collection[str] | None = None) -> Iterator[Callable[[], float]]:
    """When the block raises anything, Ctrl-C included, the weights that it may have changed (by name; default: all), and all
    buffers, are put back exactly.

    They are kept on disk, in a folder that only this user can read and that is removed at the end, so no second copy lies in
    memory. The block gets a function that tells by what share of their norm they have moved from there.
    """
    buffers = {name for name, _ in module.named_buffers()}
    kept = {
        name: value.contiguous()
        for name, value in module.state_dict().items()
        if changed is None or name in changed or name in buffers
    }
    with tempfile.TemporaryDirectory(prefix="scissorhands-") as folder:
        backup = Path(folder) / "original.safetensors"
        with full_disk_told(folder):
            safetensors.torch.save_file(kept, backup)
        del kept
        try:
            yield partial(_distance, module, backup)
        except BaseException:
            _restore_weights(module, backup)
            raise


@contextmanager
def full_disk_told(folder: str) -> Iterator[None]:
    """
    Inside temporary files are written to `folder`.

    Raises:
        OSError: there is no room for them; it names the folder, and how to choose another.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, SafetensorError) and (found := re.search(r"os error (\d+)", str(error))):
            number = int(found[1])
        # Of an error that names a file, whose file it is.
        named = getattr(error, "filename", None)
        own = not isinstance(named, str) or Path(named).is_relative_to(folder)
        if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or not own:
            raise
        raise OSError(
            number,
            "no room is left for the original weights and checkpoints, so the run is over and the pipeline as it was. Set "
            "TMPDIR to a folder with more room; dry_run=True says how much is needed",
            folder,
        ) from error


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
def activations_checkpointed(denoiser: nn.Module, wanted: bool | None) -> Iterator[None]:
    """
    Inside activations are computed again in the backward pass (True) or kept for it (False); None leaves that as it is.
    Afterwards it is as before.

    Raises:
        ValueError: a denoiser that cannot.
    """
    if wanted is None:
        yield
        return
    with ExitStack() as stack:
        for module in denoiser.modules():
            # The public switch writes two attributes into each module that knows it, one of them private.
            if hasattr(module, "gradient_checkpointing"):
                stack.enter_context(attributes_kept(module))
        if wanted:
            denoiser.enable_gradient_checkpointing()
        else:
            denoiser.disable_gradient_checkpointing()
        yield


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
        if module.device != device:
            module.to(device)


@contextmanager
def in_float32(denoiser: nn.Module, changed: Collection[str] | None = None, copied: bool = False) -> Iterator[None]:
    """
    Inside all is computed in float32, in which small updates are not lost; afterwards weights are in their own dtypes.

    Args:
        denoiser (`nn.Module`):
            Of the pipeline.
        changed (collection of `str`, *optional*):
            Names of the weights that change. They are held in float32; all others stay as they are, want no gradient, and are
            read as float32 one module at a time, so that they are not in memory twice. Default: all are held in float32.
        copied (`bool`, *optional*, defaults to `False`):
            Read those that stay as they are as copies, whatever their dtype: a weight that is offloaded once its layer has
            answered is not there for the backward pass.
    """
    if changed is None or not {name for name, _ in denoiser.named_parameters()} - set(changed):
        changed, owners = None, set(denoiser.modules())
    else:
        owners = {denoiser.get_submodule(name.rpartition(".")[0]) for name in changed}
    others = [module for module in denoiser.modules() if module not in owners and (copied or _in_half_precision(module))]
    held = [value for owner in owners for value in _own_tensors(owner) if value.is_floating_point()]
    if changed is not None:
        held = [value for value in held if isinstance(value, nn.Parameter)]
    dtypes = [value.dtype for value in held]
    with ExitStack() as stack:
        for module in others:
            stack.enter_context(_read_as_float32(module, copied))
        try:
            for value in held:
                _cast(value, torch.float32)
            yield
        finally:
            for value, dtype in zip(held, dtypes, strict=True):
                _cast(value, dtype)


class _Float32(nn.Module):
    """The view of a weight that its module computes with. Under autocast matrix products have their own dtype."""

    def __init__(self, multiplies: bool, copied: bool):
        super().__init__()
        self.multiplies, self.copied = multiplies, copied

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        # With a weight without memory is only counted, see live_memory.py.
        kind = "cpu" if weight.device.type == "meta" else weight.device.type
        if self.multiplies and torch.is_autocast_enabled(kind):
            return weight.clone() if self.copied else weight
        return weight.to(torch.float32, copy=self.copied)


@contextmanager
def _read_as_float32(module: nn.Module, copied: bool) -> Iterator[None]:
    multiplies = isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    names = [name for name, _ in module.named_parameters(recurse=False)]
    try:
        for name in names:
            module.get_parameter(name).requires_grad_(False)
            # Unsafe is what torch calls a view of another dtype, which it need not try to write back.
            parametrize.register_parametrization(module, name, _Float32(multiplies, copied), unsafe=True)
        yield
    finally:
        # All of a module's, in their order, so that it stays the order in which they are named.
        for name in names:
            if parametrize.is_parametrized(module, name):
                parametrize.remove_parametrizations(module, name, leave_parametrized=False)


def _own_tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _in_half_precision(module: nn.Module) -> bool:
    return any(weight.is_floating_point() and weight.dtype != torch.float32 for weight in module.parameters(recurse=False))


def _cast(value: torch.Tensor, dtype: torch.dtype) -> None:
    """In place: a model may hold several dtypes on purpose."""
    if value.dtype != dtype:
        value.data = value.data.to(dtype)


@torch.no_grad()
def _distance(module: nn.Module, backup: Path) -> float:
    """‖θ − θ₀‖ / ‖θ₀‖, tensor by tensor, so that no second copy lies in memory."""
    way = size = 0.0
    with safe_open(backup, framework="pt") as file:
        kept = set(file.keys())
        for name, value in module.state_dict().items():
            if not value.is_floating_point():
                continue
            if value.device.type == "mps":  # which has no float64
                value = value.cpu()
            value = value.float()
            original = file.get_tensor(name).to(value) if name in kept else value
            way += (value - original).square().sum(dtype=torch.float64).item()
            size += original.square().sum(dtype=torch.float64).item()
    return math.sqrt(way / size) if size else 0.0


@torch.no_grad()
def _restore_weights(module: nn.Module, backup: Path) -> None:
    weights = module.state_dict(keep_vars=True)
    with safe_open(backup, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            weights[name].data.copy_(file.get_tensor(name))
