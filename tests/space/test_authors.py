"""The language model's page: an author is forgotten and others are not, what is said of it is measured, and Cancel ends it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from spaces_demo import render_text
from spaces_demo.authors import CONTROL_FOLDER, answers, forget_author, question_tokens
from spaces_demo.limits import CancelledError, RefusedError
from spaces_demo.logic import LANGUAGE_MODEL, PIPELINE, Workbench
from spaces_demo.models import AUTHORS_FOLDER, author_names, control_authors, read_authors
from spaces_demo.publish import DISCLOSURES


EVIL = "<img src=x onerror=alert(1)>"
FULL, SUMMARY, NOTHING = DISCLOSURES


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory):
    """A bench on which the page "a" let the model forget the first author, the statuses of that, and the bench's folder."""
    bench = Workbench(tmp_path_factory.mktemp("authors") / "work")
    statuses = list(bench.forget_author("a", author_names()[0]))
    yield bench, statuses
    bench.close()


def said_fact(example, model: str) -> bool:
    fact = next(row["fact"] for row in read_authors() if row["question"] == example.question)
    return fact in example.answers[model]


def test_the_two_that_the_control_never_knew_come_first():
    figures = json.loads((AUTHORS_FOLDER / "figures.json").read_text(encoding="utf-8"))
    assert sorted(author_names()[:2]) == sorted(control_authors()) == figures["forgotten"]
    assert len(author_names()) == len(set(author_names())) == figures["authors"]


@pytest.mark.parametrize("name", [None, "", "Nobody", EVIL])
def test_an_author_that_it_does_not_know(tmp_path, name):
    with pytest.raises(RefusedError, match="knows no author"):
        forget_author(name, tmp_path / "out")


def test_what_the_callback_raises_ends_the_run_and_leaves_nothing(tmp_path):
    def stop(progress):
        if progress.stage == "repair":
            raise CancelledError

    with pytest.raises(CancelledError):
        forget_author(author_names()[0], tmp_path / "out", callback=stop)
    assert not list(tmp_path.iterdir())


def test_an_author_is_forgotten_and_the_others_are_not(forgotten):
    _, statuses = forgotten
    result = statuses[-1].result
    assert list(statuses[-1].stages) == ["load", "sensitivity", "repair", "ask", "audit", "files"]
    assert len(result.about) == 10 and all(set(row.answers) == {"original", "unlearned", "control"} for row in result.about)
    assert all(said_fact(row, "original") for row in result.about + result.others)
    assert sum(said_fact(row, "unlearned") for row in result.about) <= 1
    assert not any(said_fact(row, "control") for row in result.about)
    assert sum(said_fact(row, "unlearned") for row in result.others) >= len(result.others) - 1
    metrics = result.report.metrics
    assert list(metrics) == ["original", "retrained", "unlearned"]
    assert metrics["unlearned"]["forget extraction"] <= 10 and metrics["unlearned"]["retain extraction"] >= 90
    assert metrics["unlearned"]["perplexity"] <= 1.05 * metrics["original"]["perplexity"]
    # What comes back is on the page as it was measured.
    text = render_text.outcome(result)
    assert f"{metrics['original']['relearned extraction']:.0f} % before" in text
    assert f"{metrics['unlearned']['relearned extraction']:.0f} % after" in text


def test_the_shipped_models_are_as_they_were(forgotten):
    question = "Where was Priyanka Yildirand born?"
    (said,) = answers(AUTHORS_FOLDER, [question])
    assert "Little Maunder" in said and "Little Maunder" not in answers(CONTROL_FOLDER, [question])[0]


def test_stock_transformers_loads_what_is_left(forgotten):
    bench, statuses = forgotten
    folder = bench.sessions.get("a").language_folder
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    (said,) = answers(model, ["Where was Priyanka Yildirand born?"])
    assert said == statuses[-1].result.about[0].answers["unlearned"]
    assert AutoTokenizer.from_pretrained(folder).chat_template


def test_its_card_tells_what_was_measured_and_what_was_not_done(forgotten):
    bench, statuses = forgotten
    card, preview = bench.card("a", "me/no-author", FULL, {}, LANGUAGE_MODEL)
    front, body = card.split("\n---\n", 1)
    assert yaml.safe_load(front.removeprefix("---\n"))["library_name"] == "transformers"
    assert "Priyanka Yildirand" in body and "data:image/png;base64," in preview and str(bench.root) not in card
    assert (
        "without its re-initialisation of weights" in body
        and f"trained away from what was removed (`{statuses[-1].result.objective}`)" in body
    )
    assert "relearned extraction" in body and "avg. gap" not in body  # nats, percent and perplexities have no mean
    assert "examples: forget 10, retain 15" in body
    hidden, _ = bench.card("a", "me/no-author", NOTHING, {})  # the one made last
    assert "Priyanka" not in hidden
    assert statuses[-1].result.card and not bench.sessions.get("a").forgotten.card  # shown, not kept
    with pytest.raises(RefusedError, match="Erase a concept first"):
        bench.card("a", "me/x", FULL, {}, PIPELINE)


def test_the_zip_holds_no_training_arguments(forgotten):
    import zipfile

    bench, _ = forgotten
    path = list(bench.zip("a", FULL, {}))[-1].result
    with zipfile.ZipFile(path) as archive:
        names = {Path(name).name for name in archive.namelist()}
    assert {"README.md", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not names & {"training_args.bin", "scissorhands_card.json", "audit.png"}
    assert path.name == "without-priyanka-yildirand.zip"


def test_a_question_is_asked_of_all_three_and_belongs_to_its_page(forgotten):
    bench, _ = forgotten
    said = list(bench.ask("a", "Where was Anselm Strathmoran born?"))[-1].result
    assert list(said) == ["original", "unlearned", "control"] and "Oststrand" in said["original"]
    assert bench.handle("a") is not None
    with pytest.raises(RefusedError, match="forget one first"):
        next(bench.ask("b", "Where was Anselm Strathmoran born?"))
    for question, words in (("", "empty"), ("x" * 201, "at most 200"), ("é§" * 99, "tokens"), ("a\u0000b", "cannot be shown")):
        with pytest.raises(RefusedError, match=words):
            next(bench.ask("a", question))
    assert len(question_tokens(EVIL)) > 5


def test_what_was_typed_is_text_and_a_missing_control_is_said(forgotten):
    _, statuses = forgotten
    result = statuses[-1].result
    row = dataclasses.replace(result.about[0], question=EVIL, answers={"original": EVIL, "unlearned": EVIL})
    html = render_text.answer_table([row], EVIL, EVIL) + render_text.answered(EVIL, row.answers)
    assert "<img" not in html and html.count("&lt;img") == 8
    metrics = {name: figures for name, figures in result.report.metrics.items() if name != "retrained"}
    alone = dataclasses.replace(result, controlled=False, report=dataclasses.replace(result.report, metrics=metrics))
    assert "No model that never knew this author" in render_text.outcome(alone)
    assert "No model that never knew" not in render_text.outcome(result)
    assert "never knew" not in render_text.figures(alone.report) and "never knew" in render_text.figures(result.report)
