"""ZeroGPU runs what is marked in another process: nothing that a page needs may stay behind in that one's memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).resolve().parents[2]
# In the way of the package `spaces`: GPU(duration=…) makes a function run in a forked process; what it yields is pickled.
SPACES = """
import multiprocessing, pickle

calls = []

def GPU(duration):
    def mark(function):
        def run(*arguments):
            calls.append((function.__name__, duration))
            context = multiprocessing.get_context("fork")
            answers = context.Queue()
            arguments = pickle.dumps(arguments)
            def work():
                try:
                    for value in function(*pickle.loads(arguments)):
                        answers.put(pickle.dumps(("value", value)))
                    answers.put(pickle.dumps(("end", None)))
                except Exception as error:
                    answers.put(pickle.dumps(("error", error)))
            process = context.Process(target=work)
            process.start()
            try:
                while True:
                    kind, value = pickle.loads(answers.get(timeout=300))
                    if kind == "error":
                        raise value
                    if kind == "end":
                        return
                    yield value
            finally:
                process.join(60)
        return run
    return mark
"""
SCRIPT = """
import json, sys
from pathlib import Path
from spaces_demo import gpu, logic, tasks
from spaces_demo.limits import CancelledError
import spaces

assert gpu.ON_ZERO_GPU
tasks.SHIPPED_SAMPLING = logic.SHIPPED_SAMPLING = {"num_inference_steps": 2, "guidance_scale": 4.0}
bench = logic.Workbench(Path(sys.argv[1]))
last = lambda statuses: list(statuses)[-1].result
cancelled = False
try:
    for status in bench.erase("page", "bag", steps=4, images=2):
        if status.stage == "pictures":
            bench.cancel("page")
except CancelledError:
    cancelled = True
erased = last(bench.erase("page", "dress", steps=4, images=2))
compared = last(bench.compare("page", "a dress", images=2))
card, _ = bench.card("page", "no-dress", "The name of the concept, prompts and pictures", {"license": "mit"})
print(json.dumps({
    "cancelled": cancelled,
    "calls": spaces.calls,
    "concepts": erased.report.concepts,
    "pictures": sum(len(pair["unlearned"]) for pair in erased.report.pictures.values()),
    "compared": [len(compared.original), len(compared.unlearned)],
    "change": compared.score.change,
    "card": "dress" in card,
}))
bench.close()
"""


def test_without_zero_gpu_a_marked_function_is_the_function_itself():
    from spaces_demo.gpu import ON_ZERO_GPU, gpu

    def function():
        return 1

    assert not ON_ZERO_GPU and gpu(10)(function) is function


@pytest.mark.slow
def test_with_zero_gpu_models_come_back_through_their_folder(tmp_path):
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "spaces.py").write_text(SPACES)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'fake'}{os.pathsep}{REPOSITORY}"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "work")], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["cancelled"] and seen["concepts"] == ["dress"] and seen["card"]
    assert [name for name, _ in seen["calls"]] == ["erase_events", "erase_events", "draw_events"]
    assert seen["pictures"] >= 16 and seen["compared"] == [2, 2] and seen["change"] > 0
