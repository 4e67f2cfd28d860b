"""Hooks that move a module's weights or change how it computes: which there are, and where it computes by them."""

from collections.abc import Iterator
from typing import Any

import torch
from accelerate.hooks import ModelHook, SequentialHook
from torch import nn


def accelerate_hooks(module: nn.Module) -> list[ModelHook]:
    """Those of a single module, chained ones each by itself."""
    # accelerate has public classes of hooks, but no public question whether a module has one.
    found = [value for value in vars(module).values() if isinstance(value, ModelHook)]
    return [part for hook in found for part in (hook.hooks if isinstance(hook, SequentialHook) else [hook])]


def diffusers_hooks(module: nn.Module) -> dict[str, Any]:
    """Those of a single module, by the names that diffusers gives them."""
    from diffusers.hooks import HookRegistry

    registry = next((value for value in vars(module).values() if isinstance(value, HookRegistry)), None)
    return {} if registry is None else dict(registry.hooks)


def group_offloading(module: nn.Module) -> Any | None:
    """The configuration by which groups of a module's layers are offloaded; None without it."""
    return next(group_offloadings(module), None)


def group_offloadings(module: nn.Module) -> Iterator[Any]:
    """The configuration of each part whose layers are offloaded in groups, the module's own first."""
    for part in module.modules():
        hook = diffusers_hooks(part).get("group_offloading")
        if hook is not None:
            yield hook.config


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes, wherever its weights wait."""
    for part in module.modules():
        for hook in accelerate_hooks(part):
            if getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
    config = group_offloading(module)
    return module.device if config is None else config.onload_device
