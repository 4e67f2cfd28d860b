"""The report of an erasure: it survives saving, keeps pictures and markup out, and draws what it holds."""

import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from scissorhands_hf import UnlearningReport
from scissorhands_hf.report import ConceptErasureReport, PromptScore
from scissorhands_hf.report.concept_plot import MOST_PROMPTS, choose_rows, shorten
from scissorhands_hf.report.figures import prompt_groups


HOSTILE = "costs $5 | <img src=x> **or** [$6](http://x.y) \\frac{ `rm` " + "very long " * 30
BEFORE, AFTER = (200, 30, 40), (30, 60, 220)


def picture(colour: tuple[int, int, int], size: int = 8) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def make_report(**changes) -> ConceptErasureReport:
    prompts = [
        PromptScore("a photo of a dress", "concept", "dress", 4, 100.0, 0.0, 0.91),
        PromptScore(HOSTILE, "paraphrase", "dress", 4, 100.0, 25.0, 0.8),
        PromptScore("a photo of a coat", "neighbour", "coat", 4, 100.0, 75.0, 0.3),
        PromptScore("", "kept", None, 4, None, None, 0.125),
    ]
    values = {
        "settings": {"trim_ratio": 0.01},
        "metrics": {
            "original": {"concept": 100.0, "kept": 98.0},
            "unlearned": {"concept": 0.0, "kept": 97.0, "kept change": 0.2},
        },
        "trim": {"threshold": 1e-3, "per_module": {"up_blocks.1.attn1": {"trimmed": 3, "weights": 10}}},
        "history": [{"step": 1, "retain_loss": 0.5, "forget_loss": 1.0}, {"step": 2, "retain_loss": 0.4}],
        "concepts": ["dress"],
        "measure": {"judge": "fashion-judge", "images_per_prompt": 4, "seed": 0, "guidance_scale": None},
        "prompts": prompts,
        "warnings": ["neighbours fell by 25 points"],
        "pictures": {p.prompt: {"original": [picture(BEFORE)] * 4, "unlearned": [picture(AFTER)] * 4} for p in prompts},
    }
    return ConceptErasureReport(**values | changes)


def test_a_saved_report_comes_back_as_its_own_class_and_without_pictures(tmp_path):
    report = make_report()
    path = report.save(tmp_path / "run")
    assert path.name == "unlearning_report.json"
    for loader in (UnlearningReport, ConceptErasureReport):
        loaded = loader.load(tmp_path / "run")
        assert type(loaded) is ConceptErasureReport
        assert loaded == report and loaded.pictures == {}
        assert loaded.to_dict() == report.to_dict()
        assert loaded.prompts[3] == PromptScore("", "kept", None, 4, None, None, 0.125)
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert "pictures" not in saved and saved["prompts"][0]["unlearned"] == 0.0
    assert len(report.pictures) == 4, "the report itself keeps them"


def test_a_report_of_another_kind_is_refused(tmp_path):
    UnlearningReport(notes=["x"]).save(tmp_path / "plain")
    assert type(UnlearningReport.load(tmp_path / "plain")) is UnlearningReport
    with pytest.raises(ValueError, match="kind 'unlearning', which is no ConceptErasureReport"):
        ConceptErasureReport.load(tmp_path / "plain")
    (tmp_path / "odd.json").write_text('{"report": "other"}')
    with pytest.raises(ValueError, match="kind 'other'"):
        UnlearningReport.load(tmp_path / "odd.json")
    (tmp_path / "old.json").write_text('{"notes": ["from before reports had kinds"], "average_gap": {}}')
    assert UnlearningReport.load(tmp_path / "old.json").notes == ["from before reports had kinds"]


def test_markdown_has_every_figure_and_no_markup_of_users():
    text = make_report(anchor="*clothing*", notes=["<b>note</b>"], warnings=["<u>kept</u> prompts"]).to_markdown()
    assert "**Warning:** &lt;u&gt;kept&lt;/u&gt; prompts" in text
    assert "| concept | 100.0 | 0.0 |" in text
    assert "| kept change |  | 0.20 |" in text
    assert '| "a photo of a coat" | neighbour | coat | 4 | 100.0 | 75.0 | 0.30 |' in text
    assert '| "" | kept |  | 4 |  |  | 0.12 |' in text
    assert "judge fashion-judge, images per prompt 4, seed 0" in text and "guidance" not in text
    led = make_report(edit={"layers": 2, "weights": 8, "instead": ["<b>*bag*"]}).to_markdown()
    assert "- Prompts were led from dress to &lt;b&gt;\\*bag\\*." in led and "led from" not in text
    nothing = make_report(edit={"layers": 2, "weights": 8, "instead": [""]})
    assert "led from dress to nothing in particular" in nothing.to_markdown()
    for harmful in ("<img", "<b>", "<u>", "**or**", "[$6](", "` rm"):
        assert harmful not in text
    hostile = next(line for line in text.splitlines() if "costs" in line)
    assert hostile.replace("\\|", "").count("|") == 8, "a bar in a prompt must not open another column"
    assert ConceptErasureReport(warnings=["w"]).to_markdown() == "**Warning:** w\n\nNo figures were measured.\n"


def count(pixels: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(pixels.astype(int) - colour).max(axis=-1) <= 3).sum())


def test_the_plot_shows_the_pictures_of_both_models_at_their_sides(tmp_path):
    path = make_report(concepts=["dress", "$\\frac{x$"]).plot(tmp_path / "deep" / "report.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    half = pixels.shape[1] // 2
    # Four rows of four pictures, of some 90 pixels a side each.
    assert count(pixels[:, : half + 60], BEFORE) > 16 * 5000 and count(pixels[:, half + 60 :], BEFORE) == 0
    assert count(pixels[:, half:], AFTER) > 16 * 5000 and count(pixels[:, : half - 60], AFTER) == 0
    assert pixels[-350:].min() < 50, "the panels below"


def test_no_text_of_the_plot_runs_into_another(tmp_path, monkeypatch):
    scores = [PromptScore(f"a {group}", group, "dress", 2, 100.0, 0.0, 0.9) for group in prompt_groups()]
    pictures = {score.prompt: {model: [picture((9, 9, 9))] * 2 for model in ("original", "unlearned")} for score in scores}
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kw: (drawn.append(figure), save(figure, *args, **kw)))
    make_report(prompts=scores, pictures=pictures).plot(tmp_path / "plot.png")
    (figure,) = drawn
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for part in (figure, *figure.subfigs) for text in part.texts if text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    assert len(boxes) > 4 * len(scores)
    for index, (words, box) in enumerate(boxes):
        assert not [other for other, place in boxes[index + 1 :] if box.overlaps(place)], words


def test_the_plot_of_a_loaded_report_has_its_panels(tmp_path):
    make_report().save(tmp_path)
    full, loaded = make_report().plot(tmp_path / "a.png"), ConceptErasureReport.load(tmp_path).plot(tmp_path / "b.png")
    assert Image.open(loaded).height < Image.open(full).height
    assert np.asarray(Image.open(loaded).convert("L")).min() < 50
    only_pictures = make_report(metrics={}, trim={}, history=[], warnings=[], measure={})
    assert count(np.asarray(Image.open(only_pictures.plot(tmp_path / "c.png")).convert("RGB")), AFTER) > 5000
    edited = make_report(metrics={}, trim={}, history=[], warnings=[], measure={}, edit={"per_layer": {"attn2.to_k": 0.1}})
    assert Image.open(edited.plot(tmp_path / "e.png")).height > Image.open(tmp_path / "c.png").height
    with pytest.raises(ValueError, match="nothing|no pictures"):
        ConceptErasureReport(concepts=["dress"]).plot(tmp_path / "d.png")
    assert not (tmp_path / "d.png").exists()


def test_where_prompts_are_too_many_the_worst_are_shown():
    kept = [PromptScore(f"kept {i}", "kept", "x", 2, 100.0, 100.0 - i, 0.1) for i in range(10)]
    gone = [PromptScore(f"gone {i}", "concept", "x", 2, 100.0, float(i), 0.9) for i in range(10)]
    unjudged = [PromptScore(f"near {i}", "neighbour", None, 2, None, None, i / 10) for i in range(10)]
    undrawn = PromptScore("undrawn", "kept", "x", 2, 100.0, 0.0, 1.0)
    prompts = [*kept, *gone, *unjudged, undrawn]
    pictures = {p.prompt: {"original": [picture(BEFORE)], "unlearned": [picture(AFTER)]} for p in prompts if p is not undrawn}
    rows = choose_rows(ConceptErasureReport(prompts=prompts, pictures=pictures))
    shown = {group: [row.score.prompt for row in members] for group, members in rows.items()}
    assert shown == {
        "concept": [f"gone {i}" for i in range(10)][-3:],
        "neighbour": [f"near {i}" for i in range(10)][-3:],
        "kept": [f"kept {i}" for i in range(10)][-MOST_PROMPTS["kept"] :],
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("one\n two   three", "one two\nthree"),
        ("one two three four", "one two\nthree …"),
        ("abcdefghijkl", "abcdefgh\nijkl"),
        ("abcdefghijklmnopqrstuvw", "abcdefgh\n…"),
        ("", ""),
    ],
)
def test_long_texts_are_shortened(text, expected):
    assert shorten(text, 8) == expected
