"""`scissorhands audit`: the report in a folder, and errors that name what is missing."""

from pathlib import Path

import pytest
from PIL import Image

from scissorhands_hf.cli.main import main
from scissorhands_hf.report import ProbeReport


SPACE = Path(__file__).parents[2] / "spaces_demo"
MODEL = str(SPACE / "fashion_pipeline")
QUICK = ["--count", "2", "--num_inference_steps", "3", "--guidance_scale", "4"]


def test_it_saves_table_plot_and_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "dresses").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "dresses" / "one.png")
    (tmp_path / "settings.yaml").write_text("probes: [words, img2img]\nseed: 4\ncount: 5\n")
    code = main(
        ["audit", MODEL, "--concept", "dress", "--judge", str(SPACE / "fashion_judge"), "--output", str(tmp_path / "out"),
         "--pictures", str(tmp_path / "dresses"), "--control", str(SPACE / "fashion_pipeline_without_dress"),
         "--config", str(tmp_path / "settings.yaml"), *QUICK]
    )  # fmt: skip
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["probe_report.json", "probes.png"]
    report = ProbeReport.load(tmp_path / "out")
    assert {score.probe for score in report.scores} == {"words", "img2img"}
    assert report.models() == ["pipeline", "control"] and report.measure["guidance_scale"] == 4
    assert all(score.images == 2 and score.seed == 4 for score in report.scores)  # the flag wins over the file
    shown = capsys.readouterr()
    assert "| `img2img` | 40% |" in shown.out and "control: img2img:" in shown.err
    assert str(tmp_path) not in (tmp_path / "out" / "probe_report.json").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([MODEL, "--output", "out", "--judge", "j"], "--concept is missing"),
        ([MODEL, "--output", "out", "--concept", "dress"], "--judge is missing"),
        ([MODEL, "--concept", "dress", "--judge", "j"], "--output is missing"),
        ([str(SPACE / "fashion_judge"), "--output", "out"], "--forget is missing"),  # no pipeline, so a language model
    ],
)
def test_what_is_missing_is_named_before_anything_is_loaded(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["audit", *words]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())
