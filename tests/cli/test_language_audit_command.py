"""`scissorhands audit` of language models: a tiny one in a folder, rows in files, and what it writes."""

import json
from pathlib import Path

import pytest
from tiny_language import byte_tokenizer, pairs, tiny_model

from scissorhands_hf.cli import main
from scissorhands_hf.report import LanguageReport, UnlearningReport
from scissorhands_hf.report.markdown import without_escapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, another beside it, and rows."""
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    tiny_model(1).save_pretrained(folder / "retrained")
    rows = [{**row, "part": "forget" if index < 2 else "retain"} for index, row in enumerate(pairs(range(4)))]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "holdout.json").write_text(json.dumps(pairs([5, 6])))
    (folder / "general.txt").write_text("Water boils.\nThe moon is far away.\n")
    return folder


def sets(folder: Path) -> list[str]:
    return ["--forget", f"{folder}/rows.jsonl?part=forget", "--retain", f"{folder}/rows.jsonl?part=retain"]


QUICK = ["--max_new_tokens", "8", "--relearn-steps", "1", "--rounding", "8"]


def test_everything_from_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    more = ["--general", f"{folder}/general.txt", "--holdout", f"{folder}/holdout.json", "--retrained", f"{folder}/retrained"]
    words = ["audit", str(folder), *sets(folder), *more, *QUICK, "--dtype", "bfloat16", "--output", str(tmp_path / "out")]
    assert main.main(words) == 0
    report = UnlearningReport.load(tmp_path / "out" / "audit_report.json")
    assert isinstance(report, LanguageReport) and list(report.metrics) == ["retrained", "unlearned"]
    assert {"perplexity", "MIA loss", "PrivLeak", "forget quality", "int8 ROUGE-L"} <= report.metrics["unlearned"].keys()
    assert "int4 ROUGE-L" not in report.metrics["unlearned"] and report.measure["dtype"] == "bfloat16"
    assert report.sets == {"forget": 2, "retain": 2, "holdout": 2, "general": 2} and report.examples == []
    shown = capsys.readouterr()
    assert (tmp_path / "out" / "audit.md").read_text() == report.to_markdown()
    assert without_escapes(report.to_markdown()).rstrip() in shown.out
    assert (tmp_path / "out" / "audit.png").stat().st_size > 10_000
    assert "retrained, forget" in shown.err and "unlearned, int8" in shown.err


def test_settings_in_a_file(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "audit.yaml"
    config.write_text(
        f"forget: {folder}/rows.jsonl?part=forget\nmax_new_tokens: 4\nrelearn_steps: 0\nrounding: [0]\nexamples: 1\n"
    )
    words = [
        "audit",
        str(folder),
        "--config",
        str(config),
        "--retain",
        f"{folder}/rows.jsonl",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main.main(words) == 0
    report = UnlearningReport.load(tmp_path / "out" / "audit_report.json")
    assert len(report.examples) == 1 and "int8 ROUGE-L" not in report.metrics["unlearned"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--forget", "rows.jsonl", "--retain", "gone.jsonl"], "there is no file 'rows.jsonl'"),
        (["--retain", "x.jsonl"], "--forget is missing"),
        (["--forget", "x.jsonl", "--retain", "x.jsonl", "--judge", "me/judge"], "--judge is not for a language model"),
        (["--forget", "x.jsonl", "--retain", "x.jsonl", "--revision", "v1"], "--revision is not for a language model"),
        (["--forget", "x.jsonl", "--retain", "x.jsonl", "--batch_size", "0"], "batch_size=0"),
    ],
)
def test_usage(words: list[str], message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main.main(["audit", str(folder), *words, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_pipeline_has_no_forget_set(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    assert main.main(["audit", str(tmp_path), *sets(folder), "--output", str(tmp_path / "out")]) == 2
    assert "--forget is not for a diffusers pipeline" in capsys.readouterr().err
    (tmp_path / "model_index.json").unlink()
    assert main.main(["audit", str(tmp_path), "--concept", "x", "--output", str(tmp_path / "out")]) == 2
    assert "neither a model_index.json" in capsys.readouterr().err
