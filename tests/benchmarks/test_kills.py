"""`erase_concept` under Ctrl-C at random moments and on a full disk: a few of what `benchmarks/kills.py` does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_interrupted_runs_and_full_disks_leave_all_as_it_was(tmp_path):
    rows = tmp_path / "kills.json"
    command = [sys.executable, str(SCRIPT), "--kills", "2", "--full-disks", "1", "--output", str(rows)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    ended = [row["ended"] for row in json.loads(rows.read_text())]
    assert len(ended) == 3 and not all(how == "whole" for how in ended)
