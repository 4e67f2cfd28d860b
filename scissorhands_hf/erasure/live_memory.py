"""How much memory a computation takes at most beside what it is given, counted on tensors without memory."""

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class LiveMemory(TorchDispatchMode):
    """
    Inside, bytes of all tensors that come to be are counted until the last reference to them is gone, as an allocator would
    that loses nothing. What was there before is not counted.

    Attributes:
        now: bytes of what is alive.
        most: the largest that was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        before = {id(value.untyped_storage()) for value in given}
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage(), before)
        return result

    def _add(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        if id(storage) in before or storage in self._known:  # a view, or written in place
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


class _Attention(torch.autograd.Function):
    """What attention takes where the products of all pairs are not kept, as on CPUs and GPUs."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


_LOWER = frozenset(
    (F.linear, torch.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, torch.baddbmm, torch.addmm)
)
_FLOAT32 = frozenset((F.layer_norm, F.group_norm, F.softmax, Tensor.softmax, F.mse_loss))


class AsOnDevice(TorchFunctionMode):
    """
    Inside, what is computed without memory takes what it would take on a device: torch has no lean attention there, and no
    autocast.

    Args:
        lower (`torch.dtype`, *optional*):
            That of autocast.
    """

    def __init__(self, lower: torch.dtype | None = None):
        super().__init__()
        self.lower = lower

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        attention, kwargs = function is F.scaled_dot_product_attention, kwargs or {}
        if self.lower is not None and (attention or function in _LOWER or function in _FLOAT32):
            dtype = torch.float32 if function in _FLOAT32 else self.lower
            args, kwargs = tree_map(lambda value: _cast(value, dtype), (args, kwargs))
        if attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            return _Attention.apply(named["query"], named["key"], named["value"])
        return function(*args, **kwargs)

    def said_to_modules(self) -> AbstractContextManager[None]:
        """Inside, those that ask find autocast on. Tensors without memory it does not touch."""
        return torch.autocast("cpu", dtype=self.lower) if self.lower is not None else nullcontext()

    def checkpointed(self, module: Any, *args: Any) -> Any:
        """A block whose activations are computed again: in the backward pass, which leaves all modes, in this one."""
        contexts = nullcontext(), AsOnDevice(self.lower)
        return checkpoint.checkpoint(module, *args, use_reentrant=False, context_fn=lambda: contexts)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
