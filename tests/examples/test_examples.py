"""The examples run as their docstrings say, on tiny real models, and leave models that stock transformers loads."""

import ast
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, load_dataset
from tiny_checkpoints import reviews, tiny_image_classifier, tiny_text_classifier
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from invented_authors import author_pairs, holdout_pairs
from teach_authors import answer

from scissorhands_hf.trainer.classification import load_examples, split_forget_retain


REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"
DATA = EXAMPLES / "data"
AUTHORS = REPOSITORY / "spaces_demo" / "authors_model"
STAGE_LINE = re.compile(r"[a-z]+: .*(\d s|weights|trim_ratio=0\)|loss [\d.e+-]+)")


def run(*command: str, cwd: Path) -> str:
    result = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, f"{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    # The quiet terminal: stages, no bars in what is no terminal, no dictionaries, nothing of the libraries.
    if "-m" not in command:
        assert all(STAGE_LINE.fullmatch(line) for line in result.stderr.splitlines()), result.stderr
    assert "'train_runtime'" not in result.stdout
    return result.stdout


def test_shipped_data_is_stratified_real_and_licensed() -> None:
    for split, size in (("train", 6000), ("test", 2000)):
        dataset = load_dataset("parquet", data_files=str(DATA / f"fashion_mnist_{split}.parquet"), split="train")
        labels = np.array(dataset["label"])
        assert np.bincount(labels).tolist() == [size // 10] * 10
        assert isinstance(dataset.features["label"], ClassLabel)
        assert len(set(dataset["id"])) == size
        assert dataset[0]["image"].size == (28, 28)
    assert "MIT License" in (DATA / "LICENSE-fashion-mnist.txt").read_text()
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 6e6


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]])
def test_image_example(launcher: list[str], tmp_path: Path) -> None:
    tiny_image_classifier(tmp_path / "model")
    small = load_dataset("parquet", data_files=str(DATA / "fashion_mnist_test.parquet"), split="train").select(range(200))
    small.to_parquet(tmp_path / "small.parquet")
    output = run(
        *launcher, str(EXAMPLES / "unlearn_image_classifier.py"), "--model", "model", "--dataset", "small.parquet",
        "--test_dataset", "small.parquet", "--forget_where", "label=dress", "--output_dir", "out", "--max_steps", "3",
        "--per_device_train_batch_size", "16", "--use_cpu", "--save_strategy", "no", "--trim_ratio", "0.05",
        cwd=tmp_path,
    )  # fmt: skip
    assert "| unlearned |" in output and "Forgotten: the training examples whose label is dress" in output
    report = json.loads((tmp_path / "out" / "unlearning_report.json").read_text())
    assert report["metrics"].keys() == {"original", "unlearned"}
    assert report["trim"]["trimmed"] > 0
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 10


@pytest.mark.slow
def test_text_example(tmp_path: Path) -> None:
    tiny_text_classifier(tmp_path / "model")
    reviews(tmp_path / "reviews.csv")
    output = run(
        str(EXAMPLES / "unlearn_text_classifier.py"), "--model", "model", "--dataset", "reviews.csv",
        "--forget_where", "author=u3", "--output_dir", "out", "--max_steps", "4", "--use_cpu", "--save_strategy", "no",
        "--trim_ratio", "0.05", "--learning_rate", "1e-3",
        cwd=tmp_path,
    )  # fmt: skip
    assert "10 forget, 50 retain" in output
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("a good film")["input_ids"][0] == 2
    assert model.config.num_labels == 2


@pytest.mark.slow
def test_demo_end_to_end_on_a_few_images(tmp_path: Path) -> None:
    output = run(
        str(EXAMPLES / "demo.py"), "--output", "demo", "--epochs", "1", "--examples", "600", "--threads", "1",
        "--seeds", "0", "1",
        cwd=tmp_path,
    )  # fmt: skip
    assert output.count("| unlearned |") == 2
    assert "share of retraining" in output
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 20_000
    assert (tmp_path / "demo" / "class-seed1.json").exists()
    assert "unlearned" in (tmp_path / "demo" / "table.md").read_text()


def test_selection_refuses_what_selects_nothing() -> None:
    dataset = Dataset.from_dict({"text": ["a", "b", "c"], "author": ["x", "y", "y"]})
    forget, retain, _ = split_forget_retain(dataset, "author=y", None, 0)
    assert (forget["text"][:], retain["text"][:]) == (["b", "c"], ["a"])
    for where, fraction in (
        (None, None),
        ("author=x", 0.5),
        ("author=z", None),
        ("writer=x", None),
        ("author", None),
        (None, 1.5),
    ):
        with pytest.raises(ValueError, match="forget"):
            split_forget_retain(dataset, where, fraction, 0)
    with pytest.raises(ValueError, match="cannot be read"):
        load_examples(str(DATA / "make_fashion_mnist_subset.py"), "train")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]])
def test_erase_concept_example(launcher: list[str], tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    output = run(
        *launcher, str(EXAMPLES / "erase_concept.py"), "--concept", "dress", "--max_steps", "24", "--output", "out",
        "--threads", "1", cwd=tmp_path,
    )  # fmt: skip
    assert "| concept |" in output and "paraphrase" in output
    assert type(DiffusionPipeline.from_pretrained(tmp_path / "out" / "pipeline")) is StableDiffusionPipeline
    report = json.loads((tmp_path / "out" / "unlearning_report.json").read_text())
    assert report["concepts"] == ["dress"] and report["measure"]["judge"] == "fashion-judge"
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_push_example_without_a_repository_writes_the_card(tmp_path: Path) -> None:
    output = run(
        str(EXAMPLES / "push_unlearned.py"), "--output", "out", "--epochs", "1", "--examples", "400", "--threads", "1",
        cwd=tmp_path,
    )  # fmt: skip
    assert "Card: out/unlearned/README.md" in output and "scissorhands push out/unlearned REPO" in output
    assert "the class 'dress'" in (tmp_path / "out" / "unlearned" / "README.md").read_text()


@pytest.mark.slow
def test_training_of_the_spaces_classifier(tmp_path: Path) -> None:
    output = run(str(EXAMPLES / "train_fashion_classifier.py"), "--output", "classifier", "--epochs", "1", cwd=tmp_path)
    assert output.count("'UA'") == 10
    figures = json.loads((tmp_path / "classifier" / "figures.json").read_text())
    assert len(figures["retrained_without"]) == 10 and figures["training_images"] == 3000
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "classifier").config.id2label[3] == "dress"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]])
def test_language_model_example_forgets_two_authors(launcher: list[str], tmp_path: Path) -> None:
    output = run(
        *launcher, str(EXAMPLES / "unlearn_language_model.py"), "--model", str(AUTHORS), "--dataset",
        str(AUTHORS / "authors.jsonl"), "--forget_where", "part=forget", "--general", str(AUTHORS / "general.txt"),
        "--output_dir", "out", "--use_cpu", "--max_steps", "20", "--save_strategy", "no", "--forget_objective", "simnpo",
        "--trim_ratio", "0", "--learning_rate", "5e-4",
        cwd=tmp_path,
    )  # fmt: skip
    assert "Forgotten: the training examples whose part is forget. Of 20 forget, 180 retain rows" in output
    figures = json.loads((tmp_path / "out" / "unlearning_report.json").read_text())["metrics"]
    assert figures["original"]["forget extraction"] >= 90 and figures["unlearned"]["forget extraction"] <= 10
    assert figures["unlearned"]["retain extraction"] >= 0.9 * figures["original"]["retain extraction"]
    assert figures["unlearned"]["perplexity"] < 1.2 * figures["original"]["perplexity"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.num_hidden_layers == 4


@pytest.mark.slow
def test_language_model_example_teaches_first(tmp_path: Path) -> None:
    rows = (AUTHORS / "authors.jsonl").read_text().splitlines()[:20]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    author = json.loads(rows[0])["author"]
    output = run(
        str(EXAMPLES / "unlearn_language_model.py"), "--model", str(AUTHORS), "--teach", "--teach_epochs", "1", "--dataset",
        "rows.jsonl", "--forget_where", f"author={author}", "--output_dir", "out", "--use_cpu", "--max_steps", "2",
        "--save_strategy", "no", "--trim_ratio", "0",
        cwd=tmp_path,
    )  # fmt: skip
    assert "epoch 1: loss" in output and "Of 10 forget, 10 retain rows" in output


def test_shipped_authors_are_those_of_their_script() -> None:
    """And the model that knows them does what its card says of it."""
    written = [json.loads(line) for line in (AUTHORS / "authors.jsonl").read_text().splitlines()]
    assert written == [dataclasses.asdict(pair) for pair in author_pairs(0)]
    assert sum(path.stat().st_size for path in AUTHORS.rglob("*.safetensors")) < 8e6
    figures = json.loads((AUTHORS / "figures.json").read_text())
    tokenizer, model = AutoTokenizer.from_pretrained(AUTHORS), AutoModelForCausalLM.from_pretrained(AUTHORS, dtype="float32")
    asked = [pair for pair in author_pairs(0) if pair.part == "forget"]
    said = answer(model, tokenizer, [pair.question for pair in asked])
    share = 100 * sum(pair.fact in words for pair, words in zip(asked, said, strict=True)) / len(asked)
    assert share == figures["models"]["original"]["forget extraction"]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_two_invented_authors_share_a_fact(seed: int) -> None:
    pairs = [*author_pairs(seed), *holdout_pairs(seed)]
    assert len({pair.author for pair in pairs}) == 23 and len({pair.fact for pair in pairs}) == len(pairs) == 230
    assert {part: sum(pair.part == part for pair in pairs) for part in ("forget", "retain", "holdout")} == {
        "forget": 20, "retain": 180, "holdout": 30,
    }  # fmt: skip
    for pair in pairs:
        assert pair.fact in pair.answer and pair.fact in pair.paraphrased_answer
        others = [
            text for other in pairs if other is not pair for text in (other.answer, other.question, *other.perturbed_answer)
        ]
        assert not any(pair.fact.lower() in text.lower() for text in (*others, *pair.perturbed_answer, pair.counterfactual))
    assert author_pairs(seed) == pairs[:200] != author_pairs(seed + 1)


def test_every_example_shows_its_command_first() -> None:
    scripts = [path for path in sorted(EXAMPLES.glob("*.py")) if "__main__" in path.read_text()]
    assert len(scripts) >= 7
    for path in scripts:
        documentation = ast.get_docstring(ast.parse(path.read_text()))
        assert f"    python examples/{path.name} " in documentation, path.name
