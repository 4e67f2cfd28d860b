"""The commands run as processes of their own, on real tiny models, and leave what the stock libraries load."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from diffusers import DiffusionPipeline
from PIL import Image
from tiny_checkpoints import reviews, tiny_image_classifier, tiny_text_classifier
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from scissorhands_hf.cli.main import main


REPOSITORY = Path(__file__).parents[2]
PIPELINE = REPOSITORY / "spaces_demo" / "fashion_pipeline"
JUDGE = REPOSITORY / "spaces_demo" / "fashion_judge"
AUTHORS = REPOSITORY / "spaces_demo" / "authors_model"
COMMAND = ["-m", "scissorhands_hf.cli"]
LAUNCHED = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "scissorhands_hf.cli"]
# Enough to run every part, not enough to forget.
QUICK = (
    "max_steps: 4\nevaluations: 1\npictures_per_concept: 8\nretain_pictures: 16\nnum_inference_steps: 3\nreport_images: 2\n"
    "learning_rate: 1e-3\n"
)


def start(*words: str, cwd: Path) -> subprocess.Popen:
    def hear_interrupts() -> None:
        # What was started in the background of a script ignores them, and so do its children.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=hear_interrupts,
    )  # fmt: skip


def run(*words: str, cwd: Path, code: int = 0) -> tuple[str, str]:
    process = start(*words, cwd=cwd)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == code, f"{output[-2000:]}\n{errors[-3000:]}"
    return output, errors


@pytest.mark.slow
@pytest.mark.parametrize("python", [COMMAND, LAUNCHED], ids=["alone", "accelerate launch"])
def test_erase_leaves_a_stock_pipeline_and_its_report(python: list[str], tmp_path: Path):
    (tmp_path / "settings.yaml").write_text(QUICK + "trim_ratio: 0.02\nkeep: [coat, shirt]\n")
    output, errors = run(
        *python, "erase", str(PIPELINE), "dress", "bag", "--output", "out", "--config", "settings.yaml",
        "--concept_type", "object", "--judge", str(JUDGE), "--trim_ratio", "0.05", "--seed", "5",
        "--disclose", "summary", "--license", "mit",
        cwd=tmp_path,
    )  # fmt: skip
    assert "| concept |" in output and "Saved to out" in output
    if python == COMMAND:  # the launcher has things of its own to say
        stages = ["load", "before", "pictures", "targets", "sensitivity", "trim", "repair", "report"]
        names = [line.partition(":")[0] for line in errors.splitlines()]
        assert [name for name in names if name in stages] == stages
        # What the user can act on is said, and nothing else.
        assert all(name.startswith(("The denoising loss", "The kept prompt")) for name in names if name not in stages)
    report = json.loads((tmp_path / "out" / "unlearning_report.json").read_text())
    assert report["concepts"] == ["dress", "bag"] and report["edit"]["types"] == ["object", "object"]
    assert report["settings"]["trim_ratio"] == 0.05 and report["settings"]["seed"] == 5
    assert report["settings"]["learning_rate"] == 1e-3 and report["measure"]["num_inference_steps"] == 3
    assert {score["label"] for score in report["prompts"]} >= {"dress", "bag", "coat", "shirt"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit" in card and "dress" not in card
    with Image.open(tmp_path / "out" / "report.png") as picture:
        assert picture.width > 300

    assert json.loads((tmp_path / "out" / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    erased, original = (DiffusionPipeline.from_pretrained(folder) for folder in (tmp_path / "out", PIPELINE))
    assert erased.unet.dtype == torch.float32
    changed = [not torch.equal(a, b) for a, b in zip(erased.unet.parameters(), original.unet.parameters(), strict=True)]
    assert np.mean(changed) > 0.9
    for part in ("text_encoder", "vae"):
        pairs = zip(getattr(erased, part).parameters(), getattr(original, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["erase", "nowhere/at-all", "dress"], "nowhere/at-all"),
        (["erase", str(PIPELINE), "dress", "--keep", "dress"], "dress"),
        (["erase", str(PIPELINE), "dress", "--recipe", "concpt"], "Did you mean 'concept'"),
        (["erase", str(JUDGE), "dress"], "model_index.json"),
        (["erase", str(PIPELINE), "dress", "bag", "hat", "--concept_type", "object", "style"], "2 entries for 3 concepts"),
        (["unlearn", str(PIPELINE), "--dataset", "reviews.csv", "--forget_fraction", "0.1"], "fashion_pipeline"),
    ],
)
def test_what_cannot_work_is_one_line_and_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reviews(tmp_path / "reviews.csv")
    assert main([*words, "--output", "out"]) == 2
    errors = capsys.readouterr().err
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"scissorhands {words[0]}: error: ") and message in last
    assert "Traceback" not in errors and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_interrupting_is_quiet_and_saves_nothing(tmp_path: Path):
    process = start(*COMMAND, "erase", str(PIPELINE), "dress", "--output", "out", cwd=tmp_path)
    seen = ""
    deadline = time.monotonic() + 120
    while "before: " not in seen and time.monotonic() < deadline:
        seen += process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().endswith("scissorhands erase: error: interrupted") and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_unlearn_an_image_classifier(tmp_path: Path):
    tiny_image_classifier(tmp_path / "model")
    data = REPOSITORY / "examples" / "data" / "fashion_mnist_test.parquet"
    load_dataset("parquet", data_files=str(data), split="train").select(range(200)).to_parquet(tmp_path / "small.parquet")
    (tmp_path / "settings.yaml").write_text("max_steps: 3\nuse_cpu: true\nsave_strategy: no\ntrim_ratio: 0.5\n")
    output, _ = run(
        *COMMAND, "unlearn", "model", "--dataset", "small.parquet", "--test_dataset", "small.parquet", "--forget_where",
        "label=dress", "--output", "out", "--config", "settings.yaml", "--trim_ratio", "0.05",
        cwd=tmp_path,
    )  # fmt: skip
    assert "| unlearned |" in output and "whose label is dress" in output
    report = json.loads((tmp_path / "out" / "unlearning_report.json").read_text())
    assert report["settings"]["trim_ratio"] == 0.05 and report["trim"]["trimmed"] > 0
    assert set(report["metrics"]["unlearned"]) == {"forget accuracy", "retain accuracy", "test accuracy"}
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 10


@pytest.mark.slow
def test_unlearn_a_language_model(tmp_path: Path) -> None:
    author = json.loads((AUTHORS / "authors.jsonl").read_text().splitlines()[0])["author"]
    output, errors = run(
        *COMMAND, "unlearn", str(AUTHORS), "--dataset", str(AUTHORS / "authors.jsonl"), "--forget_where", f"author={author}",
        "--general", str(AUTHORS / "general.txt"), "--output", "out", "--use_cpu", "--max_steps", "2", "--save_strategy", "no",
        "--trim_ratio", "0",
        cwd=tmp_path,
    )  # fmt: skip
    assert f"whose author is {author}. Of 10 forget, 190 retain rows" in output and "| unlearned |" in output
    stages = ["load", "original", "trim", "repair", "unlearned"]
    assert [line.partition(":")[0] for line in errors.splitlines() if line.partition(":")[0] in stages] == stages
    figures = json.loads((tmp_path / "out" / "unlearning_report.json").read_text())["metrics"]["unlearned"]
    assert {"forget loss", "forget extraction", "retain loss", "retain extraction", "perplexity"} <= set(figures)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.float32
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


@pytest.mark.slow
def test_unlearn_a_text_classifier(tmp_path, monkeypatch, capsys):
    tiny_text_classifier(tmp_path / "model")
    reviews(tmp_path / "reviews.csv")
    words = ["unlearn", "model", "--dataset", "reviews.csv", "--forget_where", "author=u3", "--output", "out", "--use_cpu"]
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--text_column", "review"]) == 2
    assert "--text_column review: the forget examples have only the columns text, label, author" in capsys.readouterr().err
    words += ["--max_steps", "2", "--save_strategy", "no"]
    output, errors = run(*COMMAND, *words, cwd=tmp_path)
    assert "10 forget, 50 retain" in output
    stages = ["load", "original", "sensitivity", "trim", "repair", "unlearned"]
    assert [line.partition(":")[0] for line in errors.splitlines()] == stages and "'train_loss'" not in output
    output, errors = run(*COMMAND, *words, "--overwrite", "--verbose", cwd=tmp_path)
    assert "'train_loss'" in output and "Loading weights" in errors and "Scissorhands settings in effect" in errors
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.num_labels == 2
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a good film")["input_ids"][0] == 2
