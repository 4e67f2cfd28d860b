"""Offloaded pipelines: their own hooks draw; while weights change the denoiser has none, and it has them back afterwards. But
under an adapter layers may stay offloaded one by one, for they do not change."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from typing import Any

import accelerate
from accelerate.hooks import AlignDevicesHook, CpuOffload, add_hook_to_module, remove_hook_from_module
from torch import nn

from ..trainer.weight_states import quantisation
from .families.hooks import accelerate_hooks, execution_device, group_offloading
from .families.pipeline_checks import OFFLOADING


def offloaded_by_leaves(denoiser: nn.Module) -> bool:
    """Whether each layer comes to the device when it is asked and leaves it when it has answered, by itself and at once."""
    config = group_offloading(denoiser)
    return config is not None and config.offload_type.value == "leaf_level" and config.stream is None


@contextmanager
def hooks_off(pipe: Any, denoiser: nn.Module, stays: bool = False) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """
    Inside, the denoiser of an offloaded pipeline is a plain module on the device that it computes on; afterwards it is
    offloaded as before, with the weights that it has by then. Other parts keep their hooks, and wait in main memory.

    Args:
        pipe (`DiffusionPipeline`):
            The pipeline.
        denoiser (`nn.Module`):
            Its denoiser.
        stays (`bool`, *optional*, defaults to `False`):
            Leave the denoiser offloaded as it is.

    Yields:
        A context manager's function: inside of that the hooks are back, to draw with.
    """
    # Text encoders and the autoencoder, which their hooks left where they last computed, leave the device. It does nothing for
    # pipelines without `enable_model_cpu_offload`.
    pipe.maybe_free_model_hooks()
    if stays:
        yield nullcontext
        return
    device = execution_device(denoiser)
    attach = _take_off(denoiser)

    @contextmanager
    def hooks_back() -> Iterator[None]:
        nonlocal attach
        if attach is None:
            yield
            return
        _put_back(denoiser, attach)
        try:
            yield
        finally:
            pipe.maybe_free_model_hooks()
            attach = _take_off(denoiser)
            denoiser.to(device)

    if attach is None:
        yield hooks_back
        return
    try:
        denoiser.to(device)
        yield hooks_back
    finally:
        _put_back(denoiser, attach)


def _put_back(denoiser: nn.Module, attach: Callable[[], Any]) -> None:
    denoiser.to("cpu")  # where offloaded weights wait
    attach()


def _take_off(denoiser: nn.Module) -> Callable[[], Any] | None:
    """Without hooks all weights are in main memory. Returns what puts the like back; None where there is none."""
    hooks = [hook for module in denoiser.modules() for hook in accelerate_hooks(module)]
    if (whole := next((hook for hook in hooks if isinstance(hook, CpuOffload)), None)) is not None:
        remove_hook_from_module(denoiser, recurse=True)
        denoiser.to("cpu")
        # The very hook: the next one in the pipeline's chain sends the denoiser away by it.
        return lambda: add_hook_to_module(denoiser, whole)
    layers = [hook for hook in hooks if isinstance(hook, AlignDevicesHook) and hook.offload]
    if layers:
        device, buffers = layers[0].execution_device, layers[0].offload_buffers
        preloaded = {
            type(module).__name__
            for module in denoiser.modules()
            if any(True for _ in module.children())
            and any(getattr(hook, "place_submodules", False) for hook in accelerate_hooks(module))
        }
        remove_hook_from_module(denoiser, recurse=True)
        return lambda: accelerate.cpu_offload(
            denoiser, device, offload_buffers=buffers, preload_module_classes=sorted(preloaded) or None
        )
    config = group_offloading(denoiser)
    if config is None:
        return None
    from diffusers.hooks import HookRegistry, apply_group_offloading

    registry = HookRegistry.check_if_exists_or_initialize(denoiser)
    for name in OFFLOADING:
        registry.remove_hook(name, recurse=True)
    # All but where the module is, which is found out anew, and the stream, which is made anew.
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in ("module_prefix", "stream")}
    return lambda: apply_group_offloading(denoiser, **values, use_stream=config.stream is not None)


@contextmanager
def only_denoiser_on_device(pipe: Any, denoiser: nn.Module) -> Iterator[None]:
    """While the denoiser trains, the other parts of a pipeline on an accelerator wait in main memory; but those that are
    offloaded, which are there anyway, and quantised ones, which not all kernels let go elsewhere."""
    device = denoiser.device
    others = [part for part in pipe.components.values() if isinstance(part, nn.Module) and part is not denoiser]
    moved = [
        (part, part.device)
        for part in others
        if device.type != "cpu"
        and part.device.type not in ("cpu", "meta")
        and not any(accelerate_hooks(module) for module in part.modules())
        and group_offloading(part) is None
        and quantisation(part) is None
    ]
    try:
        for part, _ in moved:
            part.to("cpu")
        yield
    finally:
        for part, where in moved:
            part.to(where)
