"""`StageCallback`: tells of a trainer's stages, for whoever shows them: the command line, the Space, a caller's callback."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback


class StageCallback(TrainerCallback):
    """
    Tells how far a trainer is: "sensitivity" (batches, then what was trimmed) and "repair" (optimizer steps). What `tell`
    raises goes through the trainer and ends the run.

    Args:
        tell (`Callable`):
            Called as `tell(stage, step, total, **values)`, with fields of [`RunProgress`] as values; see [`Reporter.tell`].
        stage (`str`, defaults to `"repair"`):
            What the training loop is called: for a stock [`~transformers.Trainer`] it is no repair.
    """

    def __init__(self, tell: Callable[..., None], stage: str = "repair"):
        self.tell, self.stage = tell, stage
        self._losses: dict[str, float] = {}
        self._measured: tuple[str, int, int] | None = None
        self._batches = 1

    def on_sensitivity(self, step: int, total: int) -> None:
        """Called by [`ScissorhandsTrainer`] with the batches done; transformers knows no such event."""
        self._batches = total
        self.tell("sensitivity", step, total)

    def on_trim(self, report: dict[str, Any]) -> None:
        """Called by [`ScissorhandsTrainer`] with its trim report."""
        # With trim_ratio=0 nothing was compared, and the stage is over as it begins.
        counts = {"trimmed": report["trimmed"], "compared": report["candidates"]} if report["candidates"] else {}
        self.tell("sensitivity", self._batches, self._batches, **counts)
        self._batches = 1

    @contextmanager
    def measuring(self, stage: str, batches: int) -> Iterator[None]:
        """Within, the batches of evaluations are told as a stage. Those in the course of training are part of repair."""
        self._measured = stage, 0, batches
        self.tell(*self._measured)
        try:
            yield
        finally:
            self._measured = None

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._measured is not None:
            stage, done, total = self._measured
            self._measured = stage, min(done + 1, total), total
            self.tell(*self._measured)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._losses = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "retain_loss" in logs:
            self._losses = {name: logs[name] for name in ("retain_loss", "forget_loss") if name in logs}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tell(self.stage, state.global_step, state.max_steps, **self._losses)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The last steps' losses are logged only after their on_step_end.
        self.tell(self.stage, state.global_step, state.max_steps, **self._losses)
