"""States of a model in which its weights cannot be trimmed and trained one by one.

Each function finds one and says what it found; how that is refused, and what leads out of it, is for the door through which the
model came.
"""

from collections.abc import Callable

from torch import nn


def sharded_weight(model: nn.Module) -> str | None:
    """The name of the first weight of which each process holds a part (a DTensor)."""
    return _first(model, lambda weight: hasattr(weight, "to_local"))


def meta_weight(model: nn.Module) -> str | None:
    """The name of the first weight that has no memory, as offloading leaves it (device "meta")."""
    return _first(model, lambda weight: weight.is_meta)


def inference_weight(model: nn.Module) -> str | None:
    """The name of the first weight that was made inside of `torch.inference_mode()`, and never can want a gradient."""
    return _first(model, lambda weight: weight.is_inference())


def overlapping_weight(model: nn.Module) -> str | None:
    """The name of the first weight of which several entries are one number in memory, as `expand` makes them."""
    return _first(model, lambda weight: any(s == 0 and n > 1 for s, n in zip(weight.stride(), weight.shape, strict=True)))


def quantisation(model: nn.Module) -> str | None:
    """What the weights are quantised by, or the first weight that is held in another way than as floats of 16 bits or more.

    Args:
        model (`nn.Module`):
            As loaded; sharded weights look quantised here, so [`sharded_weight`] is to be asked before.
    """
    method = getattr(model, "quantization_method", None)  # transformers' and diffusers' name for it
    flagged = getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None
    if flagged or method is not None:
        return str(getattr(method, "value", method) or "by a quantizer")
    odd = _first(
        model,
        # A tensor subclass stands for other values than it holds; a subclass of Parameter is still one.
        lambda weight: not weight.is_floating_point() or weight.element_size() < 2 or nn.Parameter not in type(weight).__mro__,
    )
    if odd is None:
        return None
    weight = model.get_parameter(odd)
    return f"{type(weight).__name__} of {weight.dtype} at {odd}"


def dequantised(model: nn.Module) -> bool:
    """Whether the weights were read from a GGUF file: floats, of a model that is still marked as quantised."""
    method = getattr(model, "quantization_method", None)
    return str(getattr(method, "value", method)) == "gguf" and all(p.is_floating_point() for p in model.parameters())


def adapters(model: nn.Module) -> list[str] | None:
    """Names of the PEFT adapters that the model has, empty where there are only their layers; None without any."""
    configured = getattr(model, "peft_config", None)
    if configured:
        return list(configured) if isinstance(configured, dict) else []
    return [] if any(hasattr(module, "lora_A") for module in model.modules()) else None


def _first(model: nn.Module, has: Callable[[nn.Parameter], bool]) -> str | None:
    return next((name for name, parameter in model.named_parameters() if has(parameter)), None)
