"""The benchmark of probes: its tables are made of what is there, and what is there is not run again."""

import json
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import probes  # noqa: E402

from scissorhands_hf.report import ProbeReport, ProbeScore  # noqa: E402
from spaces_demo.judge import FashionJudge  # noqa: E402


def save(output: Path, name: str, seed: int, probe: str, *scores: tuple[str, int, int, int | None]) -> None:
    made = [ProbeScore(probe, setting, "pipeline", seen, images, seed, step) for setting, seen, images, step in scores]
    ProbeReport("dress", made).save(probes.file_of(output, name, "dress", seed, probe))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for seed, seen in ((0, 10), (1, 30)):
        save(tmp_path, "original", seed, "words", ("", seen, 40, None))
    save(tmp_path, "control", 0, "words", ("", 1, 40, None))
    curve = (("same word", 0, 10, 0), ("same word", 5, 10, 50), ("same word", 10, 10, 100))
    save(tmp_path, "control", 0, "relearning", *curve)
    return tmp_path


def test_shares_of_all_seeds_are_counted_together(output):
    shown = probes.table_of(output, ["original", "control", "missing"], "dress", [0, 1, 2]).splitlines()
    assert shown[0] == "| probe | setting | original | control |"
    assert "| words |  | 50.0 (39–61; 80) | 2.5 (0–13; 40) |" in shown
    assert "| relearning | same word, area below the curve |  | 50.0 |" in shown
    assert probes.plot(output, ["original", "control"], "dress", [0, 1]).stat().st_size > 1000


def test_what_a_run_leaves_is_read_by_the_table(tmp_path):
    found = probes.run(probes.load_pipeline(), "dress", "empty", seed=0, count=2)
    probes.file_of(tmp_path, "original", "dress", 0, "empty").write_text(json.dumps(found))
    assert found["seconds"]["cpu"]["pipeline"] > 0
    assert "; 2) |" in probes.table_of(tmp_path, ["original"], "dress", [0])


def test_what_is_there_is_not_run_again(output, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(probes, "open_pipeline", lambda name, *others: name)
    monkeypatch.setattr(
        probes, "run", lambda pipe, concept, probe, seed, count: ran.append((pipe, seed)) or ProbeReport(concept).to_dict()
    )
    words = [
        "probes.py",
        "--output",
        str(output),
        "--pipelines",
        "original",
        "control",
        "--probes",
        "words",
        "--seeds",
        "0",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", words)
    probes.main()
    assert ran == [("control", 1)]
    probes.main()
    assert ran == [("control", 1)]
    assert not list(output.glob("*.claim")) and "50.0 (39–61; 80)" in capsys.readouterr().out
    assert json.loads(probes.file_of(output, "control", "dress", 1, "words").read_text())["report"] == "probes"
    monkeypatch.setattr(sys, "argv", [*words, "--table"])
    probes.main()
    assert "probes_dress.png" in capsys.readouterr().err and (output / "probes_dress.png").exists()


@pytest.mark.parametrize("concept", ["dress", "sneaker", "red"])
def test_every_prompt_of_a_probe_is_of_the_concept_or_wider(concept):
    prompts, judge = probes.prompts_of(concept), FashionJudge()
    assert judge.knows(concept) and set(prompts) == {"words", "paraphrases", "wider"}
    for probe in ("words", "paraphrases"):
        assert all(concept in prompt for prompt in prompts[probe]) and len(prompts[probe]) >= 3
    assert not any(concept in prompt.split() for prompt in prompts["wider"])
    assert all(probes.CONTROLS[concept].name.endswith(f"without_{concept}") for concept in ("dress", "sneaker"))
