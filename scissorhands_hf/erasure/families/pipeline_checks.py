"""States of a pipeline in which its weights cannot be changed and saved as they are: each refused by name, with the way out."""

from collections.abc import Iterator
from typing import Any, NoReturn

from accelerate.hooks import AlignDevicesHook, CpuOffload
from accelerate.utils import OffloadedWeightsLoader, is_compiled_module
from torch import nn

from ...trainer.weight_states import (
    adapters,
    inference_weight,
    meta_weight,
    overlapping_weight,
    quantisation,
    sharded_weight,
)
from .hooks import accelerate_hooks, diffusers_hooks, group_offloadings


# Denoisers of pipelines, whose weights change; the other parts only have to compute.
DENOISERS = ("unet", "transformer", "transformer_2", "prior")
# Hooks of group offloading, as diffusers names them (0.42.1; the names are private there).
OFFLOADING = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


def refuse(pipe: Any, problem: str, way_out: str) -> NoReturn:
    """Raise the ValueError of an unsupported pipeline."""
    raise ValueError(f"{type(pipe).__name__} is not supported as it is: {problem}. {way_out}")


def check_pipeline(pipe: Any) -> None:
    """
    Refuse pipelines whose weights cannot change: quantised, compiled, spread over devices, mixed with adapters. Offloaded ones
    can, and other parts than the denoiser may be quantised.

    Raises:
        TypeError: `pipe` is no diffusers pipeline.
        ValueError: one of these states; the message names the component and the call that leads out of it.
    """
    if not isinstance(getattr(pipe, "components", None), dict) or not hasattr(pipe, "scheduler"):
        raise TypeError(
            f"pipe is a {type(pipe).__name__}; a diffusers pipeline is needed, as from DiffusionPipeline.from_pretrained(...)"
        )
    _check_placement(pipe)
    for name, component in _modules(pipe):
        changes = name in DENOISERS
        _check_wrapped(pipe, name, component)
        _check_hooks(pipe, name, component, changes)
        _check_weights(pipe, name, component, changes)
    fused = getattr(pipe, "fused_loras", None)
    if fused:
        refuse(
            pipe,
            f"LoRA weights are fused into it (pipe.fused_loras={sorted(fused)})",
            "To keep them for good, call pipe.save_pretrained(folder) and load that folder; to be without them, load the "
            "original pipeline.",
        )


def _modules(pipe: Any) -> Iterator[tuple[str, nn.Module]]:
    return ((name, part) for name, part in pipe.components.items() if isinstance(part, nn.Module))


def _check_placement(pipe: Any) -> None:
    if getattr(pipe, "hf_device_map", None) is not None:
        refuse(
            pipe,
            f"its components are spread over devices (pipe.hf_device_map={pipe.hf_device_map})",
            "Call pipe.reset_device_map() and pipe.to(device), or load it without device_map.",
        )


def _check_wrapped(pipe: Any, name: str, component: nn.Module) -> None:
    if is_compiled_module(component):
        # `_orig_mod` is private and yet what torch's own messages and state dicts name (torch 2.7 to 2.13).
        refuse(
            pipe,
            f"its {name} is a compiled module",
            f"Erase first and compile afterwards: pipe.{name} = pipe.{name}._orig_mod.",
        )
    if hasattr(component, "module") and isinstance(component.module, nn.Module):
        refuse(pipe, f"its {name} is wrapped in {type(component).__name__}", f"Unwrap it: pipe.{name} = pipe.{name}.module.")


def _check_hooks(pipe: Any, name: str, component: nn.Module, changes: bool) -> None:
    if changes:
        _check_offloading(pipe, name, component)
    for path, module in component.named_modules():
        where = f"{name}.{path}" if path else name
        for kind in diffusers_hooks(module):
            if kind in OFFLOADING or ("layerwise" in kind and not changes):
                continue
            if "layerwise" in kind:
                way_out = "Load the pipeline again without it, and switch it on after erasing."
            elif "cache" in kind or "pyramid" in kind or "fbc" in kind:
                way_out = f"Call pipe.{name}.disable_cache() first."
            else:
                way_out = (
                    "Remove it: diffusers.hooks.HookRegistry.check_if_exists_or_initialize"
                    f"(pipe.{where}).remove_hook({kind!r}, recurse=True)."
                )
            refuse(pipe, f"diffusers' hook {kind!r} changes how {where} computes", way_out)
        if getattr(module, "fused_projections", False):
            refuse(
                pipe,
                f"the attention projections of {where} are or were fused into copies beside the weights that count",
                "Load the pipeline without fuse_qkv_projections(), erase, and fuse afterwards.",
            )


def _check_offloading(pipe: Any, name: str, denoiser: nn.Module) -> None:
    """What [`hooks_off`] can take off and put back: model offloading, offloading layer by layer, and in groups."""
    for path, module in denoiser.named_modules():
        where = f"{name}.{path}" if path else name
        for hook in accelerate_hooks(module):
            layers = isinstance(hook, AlignDevicesHook) and (hook.offload or hook.io_same_device)
            if not layers and not (isinstance(hook, CpuOffload) and module is denoiser):
                refuse(
                    pipe,
                    f"accelerate's {type(hook).__name__} changes how {where} computes or where its weights are",
                    "Call pipe.remove_all_hooks() and pipe.to(device) first.",
                )
            # Files are read again by each step; what was erased would have to be written into them.
            if layers and hook.offload and isinstance(getattr(hook.weights_map, "dataset", None), OffloadedWeightsLoader):
                refuse(
                    pipe, f"weights of {where} are offloaded to disk", "Offload to main memory, or load it without offloading."
                )
    if getattr(denoiser, "hf_device_map", None) is not None:
        refuse(
            pipe,
            f"the layers of its {name} are spread over devices (pipe.{name}.hf_device_map)",
            "Load it without device_map, and offload the pipeline if memory is short: pipe.enable_model_cpu_offload().",
        )
    configs = list(group_offloadings(denoiser))
    if any(config.offload_to_disk_path is not None for config in configs):
        refuse(pipe, f"groups of layers of its {name} are offloaded to disk", "Leave out offload_to_disk_path.")
    if len({(c.onload_device, c.offload_device, c.offload_type, c.num_blocks_per_group) for c in configs}) > 1:
        refuse(
            pipe,
            f"layers of its {name} are offloaded in groups of several kinds",
            f"Load the pipeline again and offload all of it alike: pipe.{name}.enable_group_offload(...).",
        )


def _check_weights(pipe: Any, name: str, component: nn.Module, changes: bool) -> None:
    if (weight := sharded_weight(component)) is not None:
        refuse(pipe, f"the weight {weight} of its {name} is sharded over processes", "Load it without a parallel plan.")
    offloaded = any(accelerate_hooks(module) for module in component.modules())
    if not offloaded and (weight := meta_weight(component)) is not None:
        refuse(
            pipe,
            f"the weight {weight} of its {name} has no memory (device 'meta')",
            "Load the pipeline without offloading or device_map.",
        )
    if (weight := inference_weight(component)) is not None:
        refuse(
            pipe,
            f"the weight {weight} of its {name} was made inside of torch.inference_mode() and cannot be trained or changed",
            "Load the pipeline, and convert its weights, outside of that block.",
        )
    if changes and (kind := quantisation(component)) is not None:
        refuse(
            pipe,
            f"the weights of its {name} are quantised ({kind})",
            f"Load the {name} without quantization_config (in bfloat16 if memory is short), erase, and quantise the result. "
            "Text encoders may stay quantised.",
        )
    if (weight := overlapping_weight(component)) is not None:
        refuse(
            pipe,
            f"entries of the weight {weight} of its {name} share their memory (expand), so that none can change alone",
            f"Give each its own: weight = pipe.{name}.get_parameter({weight!r}); weight.data = weight.data.contiguous().",
        )
    if (found := adapters(component)) is not None:
        names = f" ({', '.join(map(repr, found))})" if found else ""
        refuse(
            pipe,
            f"its {name} has LoRA adapters{names}, which could be switched off or on again afterwards",
            "Take them off with pipe.unload_lora_weights() (after pipe.unfuse_lora() if they are fused); or, to keep them for "
            "good, call pipe.fuse_lora(), pipe.unload_lora_weights(), pipe.save_pretrained(folder) and load that folder.",
        )
