"""Whether a name is a thing or a look: as the user says, else as the model reads it; and what follows for prompts."""

import json
import logging
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from tiny_pipelines import tiny_stable_diffusion

from scissorhands_hf import erase_concept
from scissorhands_hf.erasure import concept_types, paraphrases
from scissorhands_hf.erasure.concept_types import check_types, types_of
from scissorhands_hf.erasure.families import family_of
from scissorhands_hf.erasure.prompts import build_prompts
from scissorhands_hf.erasure.readings import Readings
from scissorhands_hf.report.disclosure import redact


SHIPPED = Path(__file__).parents[2] / "spaces_demo" / "fashion_pipeline"
GARMENTS = [
    "dress", "coat", "shirt", "t-shirt", "trousers", "pullover", "sandal", "sneaker", "bag", "ankle boot", "shoe", "top",
    "clothing", "footwear",
]  # fmt: skip
COLOURS = ["red", "green", "blue", "yellow", "purple", "orange"]


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_stable_diffusion())


@pytest.fixture(scope="module")
def shipped():
    return family_of(DiffusionPipeline.from_pretrained(SHIPPED))


def prompts_of(family, name, kind, anchor=None):
    return build_prompts([name], anchor, [], [], family, 20, seed=1, choose_anchor=True, concept_types=[kind])


@pytest.mark.parametrize("seed", [1, 2])
def test_the_model_tells_looks_from_things_without_a_list(shipped, monkeypatch, seed):
    monkeypatch.setattr(concept_types, "LOOKS", frozenset())
    monkeypatch.setattr(concept_types, "PRIOR", 0.0)
    names = [*GARMENTS, *COLOURS]
    readings = Readings(shipped, {}, seed)
    found = {name: types_of([name], [None], readings, shipped.known_words)[name] for name in names}
    assert {name for name in names if found[name].kind == "attribute"} == {*COLOURS}
    assert {name for name in names if found[name].kind == "object"} == {*GARMENTS}
    assert all(kind.source == "model" and not kind.weak for kind in found.values())


def test_a_word_that_changes_nothing_is_weak_evidence(shipped):
    # All that this model knows of "small" is "a small photo".
    found = types_of(["boot"], [None], Readings(shipped, {}), shipped.known_words)["boot"]
    assert found.source == "words" and found.kind == "object" and found.weak


@pytest.mark.parametrize("name", ["Van Gogh style", "in the style of Monet", "by Monet"])
def test_a_style_by_its_wording_needs_no_reading(family, name):
    assert types_of([name], [None], None, family.known_words)[name].kind == "style"


def test_a_thing_with_an_attribute_is_an_object_by_its_wording(family):
    for name in ("red dress", "glasses on people", "a cat with a hat"):
        assert types_of([name], [None], None, family.known_words)[name].kind == "object"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("thing", "concept_type='thing' is not one of 'object'"),
        (["style"], "1 entries for 2"),
        (["style", 3], "concept_type=3"),
    ],
)
def test_types_that_there_are_not_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        check_types(given, ["dress", "red"])


def test_one_type_for_all_concepts_or_one_for_each():
    assert check_types("style", ["a", "b"]) == ["style", "style"]
    assert check_types(["style", None], ["a", "b"]) == ["style", None]
    assert check_types(None, ["a", "b"]) == [None, None]


def test_a_bare_name_given_as_a_style_is_asked_of_things_in_the_wordings_of_styles(family):
    prompts = prompts_of(family, "Van Gogh", "style")
    edits = dict(zip(prompts.forget, prompts.anchors, strict=True))
    for text in ("a photo of a coat in the style of Van Gogh", "a photo of a coat by Van Gogh", "a photo of a Van Gogh coat"):
        assert edits[text] == "a photo of a coat"
    assert prompts.instead == {"Van Gogh": ""}  # led to no thing
    assert edits["in the style of Van Gogh"] == edits["by Van Gogh"] == edits["Van Gogh"] == ""
    asked = [row for row in prompts.report if row[1] in ("concept", "paraphrase")]
    assert {label for _, _, label in asked} == {"Van Gogh"} and all("in the style of Van Gogh" in text for text, _, _ in asked)
    other = prompts_of(family, "Van Gogh", "style", anchor="Degas")
    pairs = dict(zip(other.forget, other.anchors, strict=True))
    assert pairs["a photo of a coat by Van Gogh"] == "a photo of a coat by Degas"
    # Every thing is among the first pictures, in one wording or another.
    first = prompts.forget[3 : 3 + len(prompts.forget) // 3]
    assert all(any(thing in text for text in first) for thing in ("coat", "bag", "dress"))


def test_a_colour_given_as_an_object_is_a_thing(family):
    prompts = prompts_of(family, "red", "object")
    assert "a photo of a red" in prompts.forget and prompts.instead["red"] not in ("", "red")
    assert ("a photo of a red", "concept", "red") in prompts.report


def test_a_person_is_named_without_article_and_in_portraits(family):
    prompts = prompts_of(family, "jane doe", "person", anchor="bag")
    pairs = dict(zip(prompts.forget, prompts.anchors, strict=True))
    assert pairs["a portrait of jane doe"] == "a portrait of a bag" and pairs["a photo of jane doe"] == "a photo of a bag"
    assert not any("a jane" in text or "does" in text for text in prompts.forget)
    assert ("a photo of jane doe", "concept", "jane doe") in prompts.report
    assert not any(text in ("jane", "doe") for text in prompts.kept_texts)  # parts of a name are no concepts of their own


def test_an_attribute_of_one_thing_leaves_the_thing_and_the_attribute_elsewhere(family):
    for name, rest, kept in (("shoe coat", "coat", "shoe"), ("bag on a coat", "a coat", "bag"), ("red dress", "dress", "red")):
        prompts = prompts_of(family, name, "attribute")
        assert prompts.instead == {name: rest} and {kept, rest.removeprefix("a ")} <= {*prompts.kept_texts}


def test_paraphrases_follow_the_type():
    assert paraphrases("Monet", ["coat"], concept_type="style")[0] == "this is an image of a coat in the style of Monet"
    assert paraphrases("red", ["coat"], concept_type="object")[0] == "this is an image of a red"


def test_what_was_assumed_is_in_the_log_and_the_report_and_weak_evidence_is_a_warning(caplog, monkeypatch):
    settings = {
        "report_images": 0, "max_steps": 1, "evaluations": 1, "pictures_per_concept": 2, "retain_pictures": 2,
        "sampling": {"num_inference_steps": 2}, "recipe": "concept",
    }  # fmt: skip
    monkeypatch.setattr("scissorhands_hf.erasure.concept_types.look_score", lambda *_: 0.8)
    with caplog.at_level(logging.INFO, logger="scissorhands_hf"):
        report = erase_concept(tiny_stable_diffusion(), "gogh", **settings)
    assert report.edit["types"] == ["attribute"] and any("'gogh' was taken for the type 'attribute'" in n for n in report.notes)
    assert "was taken for the type 'attribute'" in caplog.text
    assert "taken for" in json.dumps(redact(report.to_dict(), "full"))
    for disclose in ("summary", "none"):  # it names the concept
        published = json.dumps(redact(report.to_dict(), disclose))
        assert "taken for" not in published and "gogh" not in published
    assert any("concept_type='object'" in warning and "weak" in warning for warning in report.warnings)
    given = erase_concept(tiny_stable_diffusion(), "gogh", concept_type="style", **settings)
    assert given.edit["types"] == ["style"] and not any("weak" in warning for warning in given.warnings)
    monkeypatch.setattr("scissorhands_hf.erasure.concept_types.look_score", lambda *_: 0.3)
    sure = erase_concept(tiny_stable_diffusion(), "gogh", **settings)
    assert sure.edit["types"] == ["object"] and sure.edit["instead"] != [""] and not sure.warnings
