"""Which recipe a call of `erase_concept` takes that names none, and what it says of that."""

import logging
import re

import pytest
from tiny_pipelines import tiny_stable_diffusion

from scissorhands_hf.erasure import settings
from scissorhands_hf.erasure.request import ErasureRequest


def request(concept: str = "dress", **arguments) -> ErasureRequest:
    named = {name: arguments.pop(name, None) for name in ("anchor", "concept_type", "recipe")}
    return ErasureRequest(
        tiny_stable_diffusion(), concept, sampling={"num_inference_steps": 2}, report_images=0, config=arguments, **named
    )


@pytest.mark.parametrize(
    ("given", "recipe", "objective"),
    [
        ({}, "removal", "removal"),
        ({"max_steps": 8, "trim_ratio": 0.01, "projection": False}, "removal", "removal"),
        ({"forget_objective": "removal"}, "removal", "removal"),
        ({"anchor": "hat"}, "concept", "closed_form"),
        ({"max_steps": 0}, "concept", "closed_form"),
        ({"closed_form_overshoot": 0.5}, "concept", "closed_form"),
        ({"forget_objective": "closed_form"}, "concept", "closed_form"),
        ({"forget_objective": "negative_guidance"}, "concept", "negative_guidance"),
        ({"forget_objective": "redirect", "anchor": "hat"}, "concept", "redirect"),
        ({"concept": "red", "concept_type": "attribute"}, "concept", "closed_form"),
        ({"concept": "dress", "concept_type": "style"}, "concept", "closed_form"),
        ({"concept": "red", "concept_type": "object"}, "removal", "removal"),
        ({"concept": "red", "concept_type": "attribute", "forget_objective": "removal"}, "removal", "removal"),
        ({"concept": "red dress"}, "compound", "closed_form"),
        ({"concept": "red dress", "anchor": "blue dress"}, "compound", "closed_form"),
    ],
)
def test_removal_is_the_default_unless_the_call_asks_for_what_it_is_not(given, recipe, objective):
    args = request(**given).args
    assert (args.recipe, args.forget_objective) == (recipe, objective)


@pytest.mark.parametrize(
    ("given", "name", "owner"),
    [
        ({"recipe": "removal", "closed_form_overshoot": 0.5}, "closed_form_overshoot=0.5", "closed_form"),
        ({"forget_objective": "removal", "closed_form_ridge": 1e-4}, "closed_form_ridge=0.0001", "closed_form"),
        ({"recipe": "removal", "ascent_limit": 2.0}, "ascent_limit=2.0", "ascent"),
        ({"redirect_teacher": "live"}, "redirect_teacher='live'", "redirect"),
        ({"negative_guidance_strength": 2.0}, "negative_guidance_strength=2.0", "negative_guidance"),
        ({"concept": "red dress", "removal_strength": 2.0}, "removal_strength=2.0", "removal"),
        ({"anchor": "hat", "adversarial_states": 2}, "adversarial_states=2", "removal"),
    ],
)
def test_settings_of_another_objective_are_refused(given, name, owner):
    with pytest.raises(
        ValueError, match=re.escape(f"{name} is of forget_objective={owner!r}, and that of this run is")
    ) as told:
        request(**given)
    # Removal has no anchor and takes no compound: that would be no way out.
    refused = owner == "removal" and ("anchor" in given or "concept" in given)
    assert ("or give forget_objective=" in str(told.value)) != refused


def test_settings_of_another_objective_that_a_recipe_gives_are_left_to_it():
    args = request(recipe="small-diffusion-class", forget_objective="redirect").args
    assert args.forget_objective == "redirect" and args.ascent_limit == 2.0
    assert request(recipe="small-diffusion-class", ascent_limit=None).args.ascent_limit is None


def test_a_large_denoiser_has_its_words_led_elsewhere_unless_removal_is_asked_for(monkeypatch):
    monkeypatch.setattr(settings, "LARGE_DENOISER", 1000)
    default = request()
    assert default.args.recipe == "concept" and default.args.learning_rate == 1e-5
    assert any("led elsewhere" in note and "was not measured on one of" in note for note in default.notes)
    asked = request(forget_objective="removal")
    assert asked.args.recipe == "removal" and asked.args.repair_adapter == 16 and asked.args.learning_rate == 1e-4
    assert asked.args.projection and not any("led elsewhere" in note for note in asked.notes)


def test_leading_words_elsewhere_is_said_in_the_log_and_in_the_notes(caplog):
    with caplog.at_level(logging.INFO, logger="scissorhands_hf"):
        avoided, compound, removed = request(max_steps=0), request("red dress"), request()
        look = request("red", concept_type="attribute")
    said = [[note for note in one.notes if "led elsewhere" in note] for one in (avoided, compound, removed, look)]
    assert [len(notes) for notes in said] == [1, 1, 0, 1] and caplog.text.count("led elsewhere") == 3
    assert "recipe='removal' takes it out" in said[0][0] and "of one word" in said[1][0]
    assert "other looks with it" in said[3][0]


def test_removal_of_a_look_is_a_warning(caplog):
    asked = request("red", recipe="removal", concept_type="attribute")
    assert asked.args.forget_objective == "removal" and any("'red'" in text for text in asked.warnings)
    assert "may take others with it" in caplog.text
    assert not any(
        "may take others" in text
        for one in (request("red", concept_type="attribute"), request("dress"))
        for text in one.warnings
    )
