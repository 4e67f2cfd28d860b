"""An empty figure to draw a report on; matplotlib is imported when one is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**settings: Any) -> Figure:
    """
    A figure that belongs to no window and no other figure.

    Args:
        settings (*optional*):
            Of `matplotlib.figure.Figure`.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Plots need matplotlib: pip install 'scissorhands_hf[demo]'") from error
    return Figure(**settings)
