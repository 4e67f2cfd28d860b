"""`scissorhands card` and `scissorhands push` as processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer


def run(environment: dict[str, str], *words: str, code: int = 0) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "scissorhands_hf.cli", *words], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == code, f"{result.stdout}\n{result.stderr[-3000:]}"
    return result.stdout if code == 0 else result.stderr


@pytest.mark.slow
def test_card_offline_then_push(hub: HubServer, environment: dict[str, str], run_folder: Path, token: str) -> None:
    """A saved run gets its card without a network, and goes up with the command that a failed push names."""
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    (run_folder / "README.md").write_text("---\nthumbnail: t.png\n---\nMine.\n")
    run(offline, "card", str(run_folder), "--license", "mit", "--base_model", "me/base", "--disclose", "none")
    card = (run_folder / "README.md").read_text()
    assert "license: mit" in card and "base_model: me/base" in card and "thumbnail: t.png" in card and "Mine." in card
    assert "What it was is not disclosed." in card and hub.log == []
    report = json.loads((run_folder / "unlearning_report.json").read_text())
    for value in report["metrics"]["unlearned"].values():
        assert f"{value:.4g}" in card
    run(offline, "card", str(run_folder))
    assert (run_folder / "README.md").read_text() == card

    said = run({**offline, "HF_TOKEN": token}, "push", str(run_folder), "model", code=1)
    assert said.rstrip().endswith(f"scissorhands push {run_folder} model") and token not in said
    said = run({**environment, "HF_TOKEN": token}, "push", str(run_folder), "model", "--private")
    repository = hub.repositories["tester/model"]
    assert said.strip() == f"{hub.endpoint}/tester/model/commit/{repository.branches['main']}"
    assert repository.private and 'from_pretrained("tester/model")' in repository.files()["README.md"].decode()
    said = run({**environment, "HF_TOKEN": token}, "push", str(run_folder), "model", "--new", code=1)
    assert "The name tester/model is taken" in said
    assert "holds no saved model" in run(environment, "card", str(run_folder.parent), code=2)


@pytest.mark.slow
def test_the_example(hub: HubServer, environment: dict[str, str], token: str, tmp_path: Path) -> None:
    """`examples/push_unlearned.py`, on few images, pushes a card with the figures that it measured."""
    script = Path(__file__).parents[2] / "examples" / "push_unlearned.py"
    result = subprocess.run(
        [
            sys.executable, str(script), "--output", "push", "--repo_id", "no-dress", "--private", "--examples", "400",
            "--epochs", "1", "--threads", "1",
        ],
        env={**environment, "HF_TOKEN": token}, cwd=tmp_path, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    repository = hub.repositories["tester/no-dress"]
    assert f"Pushed: {hub.endpoint}/tester/no-dress/commit/{repository.branches['main']}" in result.stdout
    files = repository.files()
    report = json.loads(files["unlearning_report.json"])
    assert set(report["metrics"]) == {"original", "retrained", "unlearned"}
    card = files["README.md"].decode()
    assert "those of the class 'dress'" in card and "image-classification" in card and "avg. gap" in card
    assert all(f"{value:.1f}" in card for value in report["metrics"]["unlearned"].values() if value >= 10)
