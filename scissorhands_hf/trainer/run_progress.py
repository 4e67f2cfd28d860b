"""How far a run is: told to the caller's function, which may end the run by raising. Imports nothing heavy."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class RunProgress:
    """
    Where a run stands.

    Args:
        stage (`str`):
            Name of the part of the work; which there are depends on the run.
        step, total (`int`):
            Within the stage, 0 ≤ step ≤ total.
        retain_loss, forget_loss (`float`, *optional*):
            Means since the last log, in the stage "repair".
        seconds (`float`, defaults to 0):
            Since the run began.
        trimmed, compared (`int`, *optional*):
            Weights that were re-initialised, and all whose sensitivity was compared; at the end of the stage "sensitivity".
    """

    stage: str
    step: int
    total: int
    retain_loss: float | None = None
    forget_loss: float | None = None
    seconds: float = 0.0
    trimmed: int | None = None
    compared: int | None = None


class Reporter:
    """
    Passes progress on from all stages of a run alike.

    Args:
        callback (`Callable[[RunProgress], None]`, *optional*):
            The caller's; what it raises ends the run.
        started (`float`, *optional*, defaults to now):
            `time.perf_counter()` when the run began.
    """

    def __init__(self, callback: Callable[[RunProgress], None] | None, started: float | None = None):
        self.callback = callback
        self.started = time.perf_counter() if started is None else started

    def tell(self, stage: str, step: int, total: int, **values: float | int | None) -> None:
        """`values`: further fields of [`RunProgress`]."""
        if self.callback is not None:
            self.callback(RunProgress(stage, step, total, seconds=time.perf_counter() - self.started, **values))
