"""`gpu` marks what needs a graphics card. On ZeroGPU it borrows one for the call, anywhere else it does nothing.

ZeroGPU runs a marked function in another process: arguments and what it yields are pickled, and what it changes in memory stays
there. Marked functions therefore take folders, and leave their models in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


try:
    # Importable on ZeroGPU Spaces; must be imported before torch.
    from spaces import GPU as _borrow
except ImportError:
    _borrow = None

ON_ZERO_GPU = _borrow is not None


def gpu(seconds: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function, or generator function, needs a graphics card for at most so long."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        return _borrow(duration=seconds)(function) if _borrow is not None else function

    return mark
