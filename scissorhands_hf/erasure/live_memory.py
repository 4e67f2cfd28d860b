"""How much memory a computation takes at most beside what it is given, counted on tensors without memory."""

import weakref
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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


class MemoryLeanAttention(TorchFunctionMode):
    """Without memory torch takes the way that keeps all pairs."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if function is nn.functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            return _Attention.apply(named["query"], named["key"], named["value"])
        return function(*args, **(kwargs or {}))


def checkpointed(module: Any, *args: Any) -> Any:
    """A block whose activations are computed again: in the backward pass, which leaves all modes, with the same attention."""
    return checkpoint.checkpoint(module, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), MemoryLeanAttention()))
