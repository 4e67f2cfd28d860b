"""Leave no trace: after each of these blocks, however it ends, something is as it was before."""

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core.modes import evaluation_mode


@contextmanager
def random_states_kept(devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """
    The global random generators of Python, NumPy and torch go on afterwards as if nothing had been drawn.

    Args:
        devices (iterable of `torch.device`):
            Whose generators are kept beside the CPU's; only CUDA devices have one.
    """
    python, numpy = random.getstate(), np.random.get_state()
    cuda = sorted({torch.cuda.current_device() if d.index is None else d.index for d in devices if d.type == "cuda"})
    with torch.random.fork_rng(devices=cuda, device_type="cuda"):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def attributes_kept(thing: Any) -> Iterator[None]:
    """The object's own attributes are the same objects again: what was added goes, what was replaced or removed is back."""
    before = dict(vars(thing))
    try:
        yield
    finally:
        vars(thing).clear()
        vars(thing).update(before)


@contextmanager
def undisturbed(pipe: Any, seed: int | None = None) -> Iterator[None]:
    """
    Let a pipeline draw without a trace: all modules in evaluation mode, on a copy of the scheduler, without progress bars and
    safety checker. A safety checker blackens pictures after the fact, and the model itself is measured.

    Args:
        pipe (`DiffusionPipeline`):
            Whose attributes and modes, like the global random states, are as before afterwards.
        seed (`int`, *optional*):
            Of the global generators inside: some schedulers draw from them whatever they are given.
    """
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    with ExitStack() as stack:
        stack.enter_context(random_states_kept({p.device for module in modules for p in module.parameters()}))
        # Among them the settings of the progress bar, of which diffusers (0.42) has a public setter and no getter.
        stack.enter_context(attributes_kept(pipe))
        for module in modules:
            stack.enter_context(evaluation_mode(module))
        if seed is not None:
            torch.manual_seed(seed)
        pipe.scheduler = copy.deepcopy(pipe.scheduler)
        pipe.set_progress_bar_config(disable=True)
        if getattr(pipe, "safety_checker", None) is not None:
            pipe.safety_checker = None
        yield


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """
    A language model is in evaluation mode inside, and nothing is recorded for gradients; afterwards the modes of its modules,
    its own attributes and the global random states are as before. What changes its weights has to change them back itself.

    Args:
        model (`nn.Module`):
            Any module.
    """
    with ExitStack() as stack:
        stack.enter_context(random_states_kept({parameter.device for parameter in model.parameters()}))
        stack.enter_context(attributes_kept(model))
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        yield


@contextmanager
def weights_kept(module: nn.Module) -> Iterator[None]:
    """
    A module's weights and buffers have the same bits again afterwards, its gradients are the same objects, and what was frozen
    is; that takes a copy of them meanwhile.
    """
    tensors = [*module.parameters(), *module.buffers()]
    copies = [tensor.detach().clone() for tensor in tensors]
    flags = [(parameter, parameter.requires_grad, parameter.grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, copied in zip(tensors, copies, strict=True):
                tensor.copy_(copied)
        for parameter, requires_grad, gradient in flags:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
