"""Watched tasks: their result, their failures, their end by Cancel or because nobody watches, one at a time."""

import threading
import time

import pytest

from scissorhands_hf.trainer.run_progress import RunProgress
from spaces_demo import jobs
from spaces_demo.jobs import CancelFlag, Estimator, watch
from spaces_demo.limits import CancelledError


STAGES = {"first": 1.0, "second": 3.0}


@pytest.fixture(autouse=True)
def every_status(monkeypatch):
    monkeypatch.setattr(jobs, "LEAST_SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(jobs, "HEARTBEAT_SECONDS", 0.05)


def test_stages_losses_and_result():
    def task(tell):
        tell(RunProgress("first", 1, 2))
        tell(RunProgress("second", 1, 3))
        tell(RunProgress("second", 2, 3, retain_loss=0.5, forget_loss=2.0))
        return "made"

    seen = list(watch(task, Estimator(STAGES)))
    assert [(s.stage, s.step) for s in seen if not s.finished] == [("first", 1), ("second", 1), ("second", 2)]
    assert [round(s.share, 4) for s in seen] == [0.125, 0.5, 0.75, 1.0]
    assert seen[-1].finished and seen[-1].result == "made" and seen[-1].seconds_left == 0
    assert seen[-1].losses == [(2, 0.5, 2.0)] and seen[0].losses == []


def test_a_silent_task_still_shows_its_clock():
    def task(tell):
        tell(RunProgress("first", 0, 1))
        time.sleep(0.3)

    seen = list(watch(task, Estimator(STAGES)))
    assert len([s for s in seen if s.stage == "first" and not s.finished]) >= 3
    assert seen[-1].seconds >= 0.3


def test_what_a_task_raises_comes_out():
    def task(tell):
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        list(watch(task, Estimator(STAGES)))


def test_cancel_stops_the_task_at_what_it_tells_next(tmp_path):
    flag, told = CancelFlag(tmp_path / "session"), []

    def task(tell):
        for step in range(10**6):
            tell(RunProgress("first", step, 10**6))
            told.append(step)
            time.sleep(0.01)

    with pytest.raises(CancelledError):
        for status in watch(task, Estimator(STAGES), flag):
            if status.step >= 3:
                flag.set()
    count = len(told)
    time.sleep(0.1)
    assert len(told) == count < 100
    flag.clear()
    assert not flag.is_set()


def test_a_task_that_nobody_watches_ends():
    ended = threading.Event()

    def task(tell):
        try:
            while True:
                tell(RunProgress("first", 0, 1))
                time.sleep(0.01)
        finally:
            ended.set()

    watching = watch(task, Estimator(STAGES))
    next(watching)
    watching.close()
    assert ended.wait(5)


def test_one_task_at_a_time_unless_it_only_waits():
    at_work, most = [], []

    def task(tell):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.1)
        at_work.pop()

    def run(alone):
        most.clear()
        threads = [threading.Thread(target=lambda: list(watch(task, Estimator(STAGES), alone=alone))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return max(most)

    assert run(alone=True) == 1
    assert run(alone=False) > 1


def test_time_left_is_learned_from_the_last_run():
    estimator = Estimator(STAGES)
    assert estimator.share("second", 0, 1) == 0.25
    estimator.learn({"first": 3.0})  # a run that ended early teaches nothing
    assert estimator.share("second", 0, 1) == 0.25
    estimator.learn({"first": 3.0, "second": 1.0})
    assert estimator.share("second", 0, 1) == 0.75
