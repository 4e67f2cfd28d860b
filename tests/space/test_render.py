"""Pieces of the pages: whatever a visitor typed is shown as text, and figures are shown as they are."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from scissorhands_hf import ConceptErasureReport
from scissorhands_hf.report.concept_report import PromptScore
from spaces_demo import render
from spaces_demo.jobs import Status
from spaces_demo.publish import Pushed


EVIL = "<img src=x onerror=alert(1)>\"'><script>alert(2)</script>"


class Tags(HTMLParser):
    """Names of all tags and attributes of a piece, and its text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.attributes, self.text = [], set(), ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def evil_report() -> ConceptErasureReport:
    prompts = [PromptScore(EVIL, "concept", EVIL, 4, 100.0, 0.0, 1.2), PromptScore(EVIL, "kept", None, 4, None, None, 0.1)]
    return ConceptErasureReport(
        concepts=[EVIL],
        prompts=prompts,
        warnings=[EVIL],
        edit={"layers": 2, "weights": 8, "instead": [EVIL]},
        metrics={"original": {"concept": 100.0}, "unlearned": {"concept": 0.0}},
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: render.note(EVIL, "error", [EVIL]),
        lambda: render.verdict(evil_report()),
        lambda: render.scores(evil_report().prompts, EVIL, EVIL),
        lambda: render.attack_table(evil_report().prompts[:1], judged=True),
        lambda: render.settings_table({EVIL: EVIL}, {EVIL: 1.0}, {EVIL: EVIL}),
        lambda: render.cut_per_layer({EVIL: {"trimmed": 1, "weights": 2}}),
        lambda: render.edit_per_layer({EVIL: 0.5}),
        lambda: render.metrics_table({EVIL: {EVIL: 1.0}}, {EVIL: 1.0}),
        lambda: render.confusion(np.ones((1, 1), dtype=int), [EVIL], EVIL, EVIL),
        lambda: render.pictures([(EVIL, [Image.new("RGB", (8, 8))], [])], (EVIL, EVIL)),
        lambda: render.pushed(Pushed(EVIL, "https://hub/" + EVIL, True)),
        lambda: render.progress(Status([EVIL], stage=EVIL)),
    ],
)
def test_typed_html_is_text(make):
    found = Tags(make())
    assert "script" not in found.tags
    assert "onerror" not in found.attributes
    assert found.tags.count("img") == ("picture 1" in make())  # only the picture itself
    assert "alert(2)" in found.text


def test_progress_says_where_it_is():
    html = render.progress(Status(["load", "repair"], "repair", 3, 9, 0.4, 12.0, 78.0))
    assert 'aria-valuenow="40"' in html and "step 3 of 9" in html
    assert "12 s so far" in html and "about 1 min 18 s left" in html
    assert re.search(r'class="past">Load<.*class="now">Repair<', html)


def test_losses_need_two_points_and_skip_what_is_not_finite():
    assert render.losses([]) == "" and render.losses([(1, 0.5, None)]) == ""
    html = render.losses([(1, 0.5, float("nan")), (2, 0.25, 1.0), (3, 0.125, float("inf"))])
    assert html.count("<polyline") == 1 and "retain loss 0.125 (from 0.125 to 0.5)" in html
    points = re.search(r'points="([^"]+)"', html)[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert len(points) == 3 and heights == sorted(heights)  # falling losses go down the page


def test_bars_have_the_length_of_their_values():
    scores = [PromptScore("a dress", "concept", "dress", 4, 100.0, 25.0, 1.0)]
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", render.scores(scores))]
    assert widths == [80.0, 20.0]
    unjudged = render.scores([PromptScore("a dress", "concept", None, 4, None, None, 0.5)])
    assert "No judge" in unjudged and "0.50" in unjudged


def test_what_was_cut_and_edited_is_shown():
    cut, edit = {"per_module": {"a": {"trimmed": 1, "weights": 2}}}, {"per_layer": {"b": 0.4, "c": 0.1}}
    shown = {
        (bool(trim), bool(edited)): render.changes_per_layer(ConceptErasureReport(trim=trim, edit=edited, notes=["moved <by>"]))
        for trim in ({}, cut)
        for edited in ({}, edit)
    }
    assert all("What was done" in html and "moved &lt;by&gt;" in html for html in shown.values())
    assert "What was cut" not in shown[False, False] and "edited" not in shown[False, False]
    assert "What was cut" in shown[True, False] and "edited" not in shown[True, False]
    assert "What was cut" not in shown[False, True] and "40 %" in shown[False, True] and "10 %" in shown[False, True]
    assert "What was cut" in shown[True, True] and "What was edited" in shown[True, True]


def test_verdict_has_only_what_was_measured():
    report = ConceptErasureReport(
        concepts=["dress"], metrics={"unlearned": {"concept change": 1.25}}, seconds={"total": 65.4}, warnings=["It broke."]
    )
    text = Tags(render.verdict(report)).text
    assert "1 min 05 s" in text and "1.25" in text and "%" not in text and "It broke." in text and "led" not in text


def test_verdict_says_what_prompts_were_led_to():
    report = ConceptErasureReport(concepts=["dress", "red"], edit={"layers": 2, "weights": 8, "instead": ["bag", ""]})
    assert "Prompts were led from “dress” to “bag”." in Tags(render.verdict(report)).text


def test_pictures_are_in_the_page_itself():
    html = render.pictures([("a bag", [Image.new("RGB", (32, 32), "red")] * 2, [Image.new("RGB", (900, 600))])])
    assert html.count("<img") == 3 and html.count('src="data:image/webp;base64,') == 3


def test_front_matter_is_not_in_the_preview():
    assert render.card_body("---\nlicense: mit\n---\n\n# Title\n\n---\nmore") == "\n# Title\n\n---\nmore"
    assert render.card_body("# Title") == "# Title"
