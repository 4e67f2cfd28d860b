"""Two processes (torchrun, as `accelerate launch` does): same trim, same model, same end after resuming."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


RUN = Path(__file__).parents[1] / "distributed_run.py"


def launch(output: Path, processes: int, *options: str) -> list[dict]:
    """Run distributed_run.py on ``processes`` CPU processes (gloo); what each of them wrote down."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command += [str(RUN), "--output", str(output), *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(path.read_text()) for path in sorted(output.glob("rank-*.json"))]


@pytest.mark.slow
def test_two_processes_agree_with_each_other_and_with_one(tmp_path: Path) -> None:
    ranks = launch(tmp_path / "two", 2)
    assert [rank["rank"] for rank in ranks] == [0, 1]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["trim"] == ranks[1]["trim"]
    assert ranks[0]["retain_loss"] == ranks[1]["retain_loss"]

    # One process over the same forget batches: the sums are the same but for the order of addition.
    (single,) = launch(tmp_path / "one", 1)
    assert ranks[0]["trim"]["candidates"] == single["trim"]["candidates"]
    assert ranks[0]["trim"]["threshold"] == pytest.approx(single["trim"]["threshold"], rel=1e-5)
    assert ranks[0]["trim"]["trimmed"] == pytest.approx(single["trim"]["trimmed"], abs=2)
    one, two = load_file(tmp_path / "one" / "trimmed.safetensors"), load_file(tmp_path / "two" / "trimmed.safetensors")
    differing = sum(int((one[name] != two[name]).sum()) for name in one)
    assert differing <= 2  # a weight at the threshold itself may fall on either side


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole = launch(tmp_path / "run", 2)
    resumed = launch(tmp_path / "run", 2, "--resume", str(tmp_path / "run" / "checkpoint-4"))
    assert resumed[0]["weights"] == resumed[1]["weights"] == whole[0]["weights"]
    memory = load_file(tmp_path / "run" / "checkpoint-4" / "gradient_memory.safetensors")
    assert all(torch.isfinite(row).all() for row in memory.values())
