"""States of a pipeline in which its weights cannot be changed and saved as they are: each refused by name, with the way out."""

from collections.abc import Iterator
from typing import Any, NoReturn

from accelerate.hooks import ModelHook
from accelerate.utils import is_compiled_module
from torch import nn

from ...trainer.weight_states import (
    adapters,
    inference_weight,
    meta_weight,
    overlapping_weight,
    quantisation,
    sharded_weight,
)


def refuse(pipe: Any, problem: str, way_out: str) -> NoReturn:
    """Raise the ValueError of an unsupported pipeline."""
    raise ValueError(f"{type(pipe).__name__} is not supported as it is: {problem}. {way_out}")


def check_pipeline(pipe: Any) -> None:
    """
    Refuse pipelines whose weights are offloaded, quantised, compiled, or mixed with adapters.

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
        _check_wrapped(pipe, name, component)
        _check_hooks(pipe, name, component)
        _check_weights(pipe, name, component)
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


def _check_hooks(pipe: Any, name: str, component: nn.Module) -> None:
    from diffusers.hooks import HookRegistry

    for path, module in component.named_modules():
        where = f"{name}.{path}" if path else name
        # Both libraries have public classes of hooks, but no public question whether a module has one.
        if (hook := _attribute_of_kind(module, ModelHook)) is not None:
            refuse(
                pipe,
                f"accelerate's {type(hook).__name__} moves the weights of {where} (offloading or a device map)",
                "Call pipe.remove_all_hooks() and pipe.to(device) first, or load it without offloading.",
            )
        registry = _attribute_of_kind(module, HookRegistry)
        if registry is not None and registry.hooks:
            kind = next(iter(registry.hooks))
            if "group_offload" in kind or "layerwise" in kind:
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


def _attribute_of_kind(module: nn.Module, kind: type) -> Any:
    return next((value for value in vars(module).values() if isinstance(value, kind)), None)


def _check_weights(pipe: Any, name: str, component: nn.Module) -> None:
    if (weight := sharded_weight(component)) is not None:
        refuse(pipe, f"the weight {weight} of its {name} is sharded over processes", "Load it without a parallel plan.")
    if (weight := meta_weight(component)) is not None:
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
    if (kind := quantisation(component)) is not None:
        refuse(
            pipe,
            f"the weights of its {name} are quantised ({kind})",
            "Load the pipeline without quantization_config (in bfloat16 if memory is short), erase, and quantise the result.",
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
