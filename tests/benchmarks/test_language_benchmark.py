"""The benchmark of language models, on the shipped small one: results a run, nothing measured twice, and the table of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scissorhands_hf.audit.language.benchmark_figures import forget_quality


REPOSITORY = Path(__file__).parents[2]
AUTHORS = REPOSITORY / "spaces_demo" / "authors_model"


def run(*words: str) -> str:
    result = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "language.py"), *words],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_runs_are_kept_and_make_the_table(tmp_path: Path) -> None:
    words = [
        "--original", str(AUTHORS), "--retrained", str(AUTHORS / "control"), "--authors_seed", "0", "--output", str(tmp_path),
        "--seeds", "3", "--methods", "simnpo", "--steps", "2", "--every", "30", "--cpu", "--max_new_tokens", "20",
    ]  # fmt: skip
    first = run(*words)
    assert {path.name for path in tmp_path.iterdir()} == {"original-3.json", "retrained-3.json", "simnpo-3.json"}
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = run(*words)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert first.endswith(again) and run("--output", str(tmp_path), "--table") == again
    record = json.loads((tmp_path / "simnpo-3.json").read_text())
    assert record["settings"]["forget_objective"] == "simnpo" and record["seed"] == 3 and len(record["answers"]) == 3
    rows = [line.split(" | ")[0] for line in again.splitlines()[2:]]
    assert rows == ["| original", "| retrained", "| simnpo"]
    # Two steps forget nothing: the table says so.
    assert "forget extraction <= 5" in again.splitlines()[-1]
    retrained = json.loads((tmp_path / "retrained-3.json").read_text())
    assert len(record["truth_ratios"]) == 20 and record["truth_ratios"] != retrained["truth_ratios"]
    cells = [[cell.strip() for cell in line.split("|")] for line in again.splitlines()]
    retrained_quality, quality = (cells[row][cells[0].index("forget quality")] for row in (3, 4))
    expected = forget_quality(record["truth_ratios"], retrained["truth_ratios"])
    assert retrained_quality == "" and float(quality) == pytest.approx(expected, rel=0.05)
