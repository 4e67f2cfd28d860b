"""How far a run is: told to the caller's callback, which may end the run by raising."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback


STAGES = ("before", "pictures", "prompts", "targets", "sensitivity", "repair", "report")


@dataclass(frozen=True)
class ErasureProgress:
    """
    Where a run stands.

    Args:
        stage: one of `STAGES`: pictures for the report before anything is changed, pictures to learn from, prompts to edit text
            layers by, what is to be predicted on the pictures, the connection sensitivity with the trim, repair, and the
            report's pictures afterwards.
        step, total: within the stage, 0 ≤ step ≤ total.
        retain_loss, forget_loss: means since the last log, in the stage "repair".
        seconds: since the run began.
    """

    stage: str
    step: int
    total: int
    retain_loss: float | None = None
    forget_loss: float | None = None
    seconds: float = 0.0


class Reporter:
    """Passes progress on to a callback, from all stages alike."""

    def __init__(self, callback: Callable[[ErasureProgress], None] | None, started: float):
        self.callback, self.started = callback, started

    def tell(self, stage: str, step: int, total: int, retain: float | None = None, forget: float | None = None) -> None:
        if self.callback is not None:
            self.callback(ErasureProgress(stage, step, total, retain, forget, time.perf_counter() - self.started))

    def trainer_callback(self) -> TrainerCallback:
        return _RepairCallback(self)


class _RepairCallback(TrainerCallback):
    def __init__(self, reporter: Reporter):
        self.reporter, self.losses = reporter, {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.reporter.tell("sensitivity", 0, 1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "retain_loss" in logs:
            self.losses = {"retain": logs["retain_loss"], "forget": logs.get("forget_loss")}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.reporter.tell("sensitivity", 1, 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.reporter.tell("repair", state.global_step, state.max_steps, **self.losses)
