"""Run a long task in a thread of its own and watch it: named stages, losses, time left, and a Cancel that stops it.

for event in watch(lambda tell: erase(..., callback=tell), stages=STAGES, cancel=CancelFlag(folder)):
    ...                                    # Status objects, the last one with the result
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scissorhands_hf.trainer.run_progress import RunProgress
from spaces_demo.limits import CancelledError


# How often a watcher hears of a task that has nothing new to say, so that its clock goes on.
HEARTBEAT_SECONDS = 1.0
# Status objects are made at most this often: a page cannot draw faster, and each costs time that the task needs.
LEAST_SECONDS_BETWEEN = 0.5
# One task at a time in this process: more would only share the cores, and need the memory of each.
_WORKER = threading.Lock()


class CancelFlag:
    """A flag in the session's folder. A file, so that it also reaches a task in another process (ZeroGPU forks one)."""

    def __init__(self, folder: Path):
        self._path = folder / "cancel"

    def set(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)

    def is_set(self) -> bool:
        return self._path.exists()


@dataclass
class Status:
    """What a watcher shows.

    Args:
        stages: all of them, in order.
        stage: the current one; None before the first.
        share: done of the whole, 0 to 1, by the time that stages usually take.
        seconds, seconds_left: since the start; until the end, None while that is unknown.
        losses: (step, retain loss, forget loss) of repair so far.
        result: of the task, in the last status.
    """

    stages: Sequence[str]
    stage: str | None = None
    step: int = 0
    total: int = 1
    share: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    losses: list[tuple[int, float | None, float | None]] = field(default_factory=list)
    finished: bool = False
    result: Any = None


class Estimator:
    """Share done and seconds left, from the share of the time that each stage usually takes.

    Args:
        weights: usual seconds, or any multiple, of each stage in order; they are learned from finished runs by :meth:`learn`.
    """

    def __init__(self, weights: dict[str, float]):
        self.weights = dict(weights)
        self._lock = threading.Lock()

    def share(self, stage: str, step: int, total: int) -> float:
        names, whole = list(self.weights), sum(self.weights.values())
        before = sum(self.weights[name] for name in names[: names.index(stage)])
        return min(1.0, (before + self.weights[stage] * min(1.0, step / max(1, total))) / whole)

    def learn(self, seconds: dict[str, float]) -> None:
        """Take over how long the stages of a finished run took, if all of them are known."""
        with self._lock:
            if set(seconds) == set(self.weights) and sum(seconds.values()) > 0:
                self.weights = {name: max(1e-3, seconds[name]) for name in self.weights}


def watch(
    task: Callable[[Callable[[RunProgress], None]], Any],
    estimator: Estimator,
    cancel: CancelFlag | None = None,
    alone: bool = True,
) -> Iterator[Status]:
    """Run ``task`` in a thread and yield how far it is, at last its result.

    Args:
        task: takes the function to tell progress to, which raises `CancelledError` once ``cancel`` is set.
        estimator: knows the stages, in order.
        cancel: looked at whenever the task tells something.
        alone: wait for other tasks to end; False for one that mostly waits for the network.

    Raises:
        CancelledError: by Cancel. A task whose generator was closed is stopped, too, at the next thing that it tells.
        Exception: whatever the task raised.
    """
    events: queue.Queue[tuple[str, Any]] = queue.Queue()
    abandoned = threading.Event()

    def tell_if_cancelled() -> None:
        if abandoned.is_set() or (cancel is not None and cancel.is_set()):
            raise CancelledError("Cancelled.")

    def tell(progress: RunProgress) -> None:
        tell_if_cancelled()
        events.put(("progress", progress))

    def run() -> None:
        try:
            with _WORKER if alone else contextlib.nullcontext():
                tell_if_cancelled()
                events.put(("result", task(tell)))
        except BaseException as error:  # handed to the watcher, which raises it
            events.put(("error", error))

    worker = threading.Thread(target=run, name="task", daemon=True)
    status = Status(stages=list(estimator.weights))
    started, shown = time.perf_counter(), 0.0
    stage_started, stage_seconds = started, {}
    worker.start()
    try:
        while True:
            try:
                kind, value = events.get(timeout=HEARTBEAT_SECONDS)
            except queue.Empty:
                kind, value = "beat", None
            now = time.perf_counter()
            status.seconds = now - started
            if kind == "error":
                raise value
            if kind == "result":
                if status.stage is not None:
                    stage_seconds[status.stage] = stage_seconds.get(status.stage, 0.0) + now - stage_started
                estimator.learn(stage_seconds)
                status.share, status.seconds_left, status.finished, status.result = 1.0, 0.0, True, value
                yield replace(status, losses=list(status.losses))
                return
            if kind == "progress":
                if value.stage != status.stage:
                    if status.stage is not None:
                        stage_seconds[status.stage] = stage_seconds.get(status.stage, 0.0) + now - stage_started
                    stage_started = now
                status.stage, status.step, status.total = value.stage, value.step, value.total
                status.share = max(status.share, estimator.share(value.stage, value.step, value.total))
                pair = (value.retain_loss, value.forget_loss)
                # Means over some steps are told again at each of them; one point for each is enough.
                if pair != (None, None) and (not status.losses or status.losses[-1][1:] != pair):
                    if status.losses and status.losses[-1][0] == value.step:  # the last step's own, told at the end
                        status.losses.pop()
                    status.losses.append((value.step, *pair))
            if 0.03 < status.share < 1:
                status.seconds_left = status.seconds * (1 - status.share) / status.share
            if kind == "beat" or now - shown >= LEAST_SECONDS_BETWEEN:
                shown = now
                yield replace(status, losses=list(status.losses))
    finally:
        # Not waited for: a closed generator may be collected on the server's event loop. The next task waits for the lock.
        abandoned.set()
