"""Memory is given back: ten visitors' erasures leave no more behind than two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).resolve().parents[2]
# In a process of its own: what other tests hold must not count. Few steps of everything, but every stage of a real run.
SCRIPT = """
import json, sys
from pathlib import Path
import psutil
from spaces_demo import logic, tasks

tasks.SHIPPED_SAMPLING = logic.SHIPPED_SAMPLING = {"num_inference_steps": 2, "guidance_scale": 4.0}
bench = logic.Workbench(Path(sys.argv[1]))
memory = []
for number in range(10):
    for status in bench.erase(f"page-{number}", "dress", steps=4, images=2):
        pass
    for status in bench.compare(f"page-{number}", "a bag", images=2):
        pass
    memory.append(psutil.Process().memory_full_info().uss)
bench.close()
print(json.dumps(memory))
"""


@pytest.mark.slow
def test_memory_after_ten_erasures_is_that_after_two(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "work")], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    memory = json.loads(run.stdout.splitlines()[-1])
    print([round(value / 1e6) for value in memory])
    assert memory[9] <= 1.15 * memory[1]
