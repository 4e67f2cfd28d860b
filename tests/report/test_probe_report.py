"""The report of probes: shares with honest intervals, saved without pictures, names escaped."""

import json

import pytest
from PIL import Image

from scissorhands_hf.report import ProbeReport, ProbeScore
from scissorhands_hf.report.intervals import wilson_interval


@pytest.fixture
def report() -> ProbeReport:
    scores = [
        ProbeScore("words", "", "pipeline", 0, 100, 3),
        ProbeScore("token", "4 vectors", "pipeline", 99, 100, 3),
        ProbeScore("token", "4 vectors", "control", 5, 100, 3),
    ]
    shown = {("token", "4 vectors", "pipeline"): [Image.new("RGB", (8, 8), "red")] * 2}
    return ProbeReport("dress", scores, {"states": "it | needs <b>"}, {"judge": "a|b"}, pictures=shown)


@pytest.mark.parametrize(
    ("seen", "images", "low", "high"),
    # As in tables of the score interval, for instance Newcombe, Statistics in Medicine 17 (1998), table I.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(seen, images, low, high):
    assert wilson_interval(seen, images) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(images - seen, images)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


@pytest.mark.parametrize(("seen", "images"), [(0, 0), (3, 2), (-1, 5)])
def test_no_interval_of_nothing(seen, images):
    with pytest.raises(ValueError, match=f"seen={seen}"):
        wilson_interval(seen, images)


def test_saved_and_loaded_it_is_the_same_without_pictures(report, tmp_path):
    file = report.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["probe_report.json"]
    loaded = ProbeReport.load(tmp_path)
    assert loaded == report and not loaded.pictures
    score = json.loads(file.read_text())["scores"][1]
    assert score["share"] == 99 and score["images"] == 100 and score["seed"] == 3
    assert score["interval"] == pytest.approx([94.6, 99.8], abs=0.1)
    with pytest.raises(ValueError, match="'unlearning'"):
        ProbeReport.from_dict({"report": "unlearning"})


def test_pictures_are_saved_when_asked_for(report, tmp_path):
    report.save(tmp_path, pictures=True)
    assert [path.name for path in sorted(tmp_path.glob("*.png"))] == ["probe_report_00_token_pipeline.png"]


def test_the_table_has_a_column_for_each_model(report):
    text = report.to_markdown()
    assert "| probe | setting | pipeline | control |" in text
    assert "| `words` |  | 0.0 (0–4; 100) |  |" in text
    assert "| `token` | 4 vectors | 99.0 (95–100; 100) | 5.0 (2–11; 100) |" in text
    assert "it &#124; needs &lt;b&gt;" in text and "a&#124;b" in text


def test_names_cannot_break_table_or_plot(report, tmp_path):
    report.concept = "x`|</td> $\\frac{"
    report.scores.append(ProbeScore("relearning", "as [gown](http://x)| $\\oops{", "pipeline", 1, 2, 0))
    text = report.to_markdown()
    assert all(line.replace("\\|", "").count("|") == 5 for line in text.splitlines() if line.startswith("|"))
    assert "[gown](" not in text and "http:" not in text
    assert report.plot(tmp_path / "probes.png").stat().st_size > 1000


def test_a_score_is_found_by_its_place(report):
    assert report.score("token", "4 vectors", "control").seen == 5
    with pytest.raises(KeyError, match="not measured"):
        report.score("token")
    with pytest.raises(ValueError, match="no scores"):
        ProbeReport("dress").plot("nowhere.png")
