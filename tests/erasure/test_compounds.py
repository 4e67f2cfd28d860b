"""Concepts of several words: their words stay, in prompts to keep and in the report, and the anchor does."""

import logging

import pytest
import torch
from tiny_pipelines import tiny_stable_diffusion

from scissorhands_hf import erase_concept
from scissorhands_hf.erasure.compounds import clear_of, parts_of, variants_of, without_attribute
from scissorhands_hf.erasure.families import family_of
from scissorhands_hf.erasure.material import gather_material, make_examples
from scissorhands_hf.erasure.prompts import build_prompts
from scissorhands_hf.erasure.readings import Readings
from scissorhands_hf.erasure.request import ErasureRequest
from scissorhands_hf.erasure.words import mentions
from scissorhands_hf.trainer.run_progress import Reporter


@pytest.fixture(scope="module")
def family():
    return family_of(tiny_stable_diffusion())


def prompts_of(family, *concepts, anchor=None, readings=None):
    return build_prompts(concepts, anchor, [], [], family, 60, seed=1, choose_anchor=True, readings=readings)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("red dress", ["red", "dress"]),
        ("dress shirt", ["dress", "shirt"]),
        ("teddy bear", ["teddy", "bear"]),
        ("small red dress", ["small", "red", "dress", "small red", "red dress", "small dress"]),
        ("polka-dot dress", ["polka-dot", "polka", "dot", "dress"]),
        ("t-shirt", ["shirt"]),
        ("glasses on people", ["glasses", "people"]),
        ("a cat with a red hat", ["cat", "red", "hat", "red hat"]),
        ("portrait of Donald Trump", ["portrait", "Donald Trump"]),
        ("dress", []),
        ("Van Gogh", []),
        ("Mickey Mouse", []),
        ("in the style of Monet", []),
        ("Van Gogh style", []),
    ],
)
def test_parts_are_content_words_and_shorter_compounds(name, parts):
    assert parts_of(name) == parts


def test_variants_share_all_words_but_one():
    assert variants_of("red dress", ["dress", "coat"], ["red", "blue"]) == [["red coat"], ["blue dress"]]
    assert variants_of("hat on a dress", ["coat"], ["red"]) == [["hat on a coat"], ["coat on a dress"]]
    assert variants_of("Van Gogh", ["coat"], ["red"]) == []


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("red dress", ["dress"]),
        ("small red dress", ["red dress", "dress"]),
        ("a red dress", ["dress"]),
        ("glasses on people", ["people"]),
        ("a cat with a hat", ["a cat"]),
        ("dress shirt", []),
        ("teddy bear", []),
        ("red", []),
    ],
)
def test_without_its_attribute_a_thing_is_left(name, rest):
    assert without_attribute(name) == rest


def test_a_compound_is_asked_for_by_its_words_in_any_order_but_not_by_some_of_them():
    assert not clear_of("a red small dress", ["red dress"]) and not clear_of("red dresses", ["red dress"])
    assert clear_of("a red coat", ["red dress"]) and clear_of("a blue dress", ["red dress"])
    assert clear_of("a gogh painting", ["Van Gogh"])


def test_erasing_a_compound_keeps_its_words_its_neighbours_and_its_anchor(family):
    prompts = prompts_of(family, "red dress")
    assert prompts.instead == {"red dress": "dress"}  # the thing without the attribute
    assert dict(prompts.edits)["a photo of a red dress"] == "a photo of a dress"
    assert not any("blue red" in text for text, _ in prompts.edits)
    kept = {"red", "dress", "a photo of a dress", "a photo of a red coat", "a photo of a red bag", "a photo of a blue dress"}
    assert kept <= {*prompts.kept_texts}
    assert not any(mentions(text, "red dress") for text in (*prompts.kept_texts, *prompts.retain))
    for wanted in ("red coat", "blue dress", "a dress"):
        assert any(wanted in text for text in prompts.retain)
    drawn = {text: label for text, group, label in prompts.report if group == "kept"}
    assert drawn["a photo of a dress"] == "dress" and drawn["a photo of a blue dress"] == "blue dress"
    assert sum(label == "red" for label in drawn.values()) >= 2  # of other things
    assert not any(mentions(text, "red dress") for text in drawn)


def test_targets_of_a_compound_are_what_the_original_says_of_both_prompts_and_beyond():
    pipe = tiny_stable_diffusion()
    request = ErasureRequest(
        pipe, ["red dress", "bag"], anchor="coat", sampling={"num_inference_steps": 2},
        config={"pictures_per_concept": 8, "retain_pictures": 4, "max_steps": 1, "evaluations": 1, "closed_form_overshoot": 0.5,
                "forget_objective": "closed_form"},
    )  # fmt: skip
    material = gather_material(request, Reporter(None, 0.0))
    _, forget, _, _ = make_examples(request, material, Reporter(None, 0.0))
    compound = next(i for i in range(len(forget)) if material.forget_texts[int(forget.pictures[i])] == "a photo of a red dress")
    plain = next(i for i in range(len(forget)) if material.forget_texts[int(forget.pictures[i])] == "a photo of a bag")

    @torch.no_grad()
    def says(item, text):
        states = pipe.encode_prompt([text], "cpu", 1, False)[0]
        return pipe.unet(item["noisy"][None], item["timesteps"], states).sample[0]

    pipe.unet.eval()
    item = forget[compound]
    own, other = says(item, "a photo of a red dress"), says(item, "a photo of a coat")
    torch.testing.assert_close(item["target"], other + 0.5 * (other - own), atol=1e-5, rtol=1e-4)
    with material.edit.applied():  # a single word: what the edited text layers make of it
        torch.testing.assert_close(forget[plain]["target"], says(forget[plain], "a photo of a bag"), atol=1e-5, rtol=1e-4)


def test_a_compound_has_a_recipe_of_its_own_by_default():
    def settings(concept, **arguments):
        return ErasureRequest(tiny_stable_diffusion(), concept, **arguments).args

    assert settings("red dress").recipe == settings(["bag", "red dress"]).recipe == "compound"
    assert settings("dress").recipe == settings("Ed Bag").recipe == "removal"
    assert settings("red dress", recipe="concept").learning_rate == settings("dress", recipe="concept").learning_rate


def test_pictures_of_a_compound_are_kept_as_they_are_under_prompts_that_are_near_to_it():
    pipe = tiny_stable_diffusion()
    config = {"pictures_per_concept": 4, "retain_pictures": 8, "max_steps": 2, "evaluations": 1}
    request = ErasureRequest(pipe, "red dress", sampling={"num_inference_steps": 2}, config=config)
    assert "red coat" in request.prompts.near and "dress" in request.prompts.near
    material = gather_material(request, Reporter(None, 0.0))
    retain, *_ = make_examples(request, material, Reporter(None, 0.0))
    assert len(retain.latents) == 8 + 4 and torch.equal(retain.latents[8:], material.forget_latents)
    texts = {row: text for text, row in material.table.rows.items()}
    assert [texts[int(row)] for row in retain.prompts[8:]] == request.prompts.near[:4]
    alone = ErasureRequest(pipe, "dress", sampling={"num_inference_steps": 2}, config=config)
    assert not alone.prompts.near and not alone.prompts.compounds


def test_a_given_anchor_is_kept_and_drawn_in_the_report(family):
    for concept in ("dress", "red dress"):
        prompts = prompts_of(family, concept, anchor="old hat")
        assert ("a photo of an old hat", "kept", "old hat") in prompts.report
        assert "a photo of an old hat" in prompts.kept_texts and "old hat" in prompts.kept_texts


def test_concepts_that_share_words_keep_what_is_not_itself_erased(family):
    two = prompts_of(family, "red dress", "blue dress")
    assert {"red", "blue", "dress", "a photo of a red coat", "a photo of a blue coat"} <= {*two.kept_texts}
    every = (*two.kept_texts, *two.retain, *(row[0] for row in two.report if row[1] == "kept"))
    assert not any(mentions(text, name) for text in every for name in ("red dress", "blue dress"))
    both = prompts_of(family, "dress", "red dress")
    every = (*both.kept_texts, *both.retain, *(row[0] for row in both.report if row[1] == "kept"))
    assert not any(mentions(text, "dress") for text in every) and "a photo of a red coat" in both.kept_texts
    assert not mentions(both.instead["red dress"], "dress")


def test_everyday_words_in_a_name_are_kept(family):
    assert {"shoe", "a photo of a shoe"} <= {*prompts_of(family, "teddy shoe").kept_texts}
    assert {"bag", "a photo of a bag"} <= {*prompts_of(family, "Mickey Bag").kept_texts}


def test_a_part_that_is_the_compound_itself_to_the_model_is_not_kept(family, caplog):
    class Alike(Readings):
        def distance(self, prompt, other):
            return 0.0 if "red" in prompt and other.endswith("red") else 1.0

    with caplog.at_level(logging.INFO, logger="scissorhands_hf"):
        prompts = prompts_of(family, "red dress", readings=Alike(family, {}))
    assert not any(mentions(text, "red") for text in prompts.kept_texts) and "dress" in prompts.kept_texts
    assert "'red' means the same" in caplog.text


def test_readings_compare_first_predictions_and_leave_the_pipeline_as_it_was(family):
    pipe = family.pipe
    pipe.unet.train()
    state, mode = torch.random.get_rng_state(), pipe.unet.training
    readings = Readings(family, {"guidance_scale": 4.0})
    assert readings.distance("dress", "dress") == 0 < readings.distance("dress", "coat")
    # By hand: the denoiser at 0.8 of the schedule, on noise alone.
    pipe.unet.eval()
    shape = (8, *family.sample_latents(["a"], [0], {"num_inference_steps": 2}).shape[1:])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    time = int(0.8 * pipe.scheduler.config.num_train_timesteps)
    with torch.no_grad():
        first, second = (
            pipe.unet(noise, time, pipe.encode_prompt([text], "cpu", 1, False)[0].expand(8, -1, -1)).sample
            for text in ("dress", "coat")
        )
    assert readings.distance("dress", "coat") == pytest.approx((first - second).square().mean().item(), rel=1e-4)
    assert mode is True and torch.equal(state, torch.random.get_rng_state())


def test_a_damaged_part_of_a_compound_is_a_warning():
    class Judge:
        name = "blind after the first half"

        def knows(self, label):
            return label == "dress"

        def __call__(self, images, candidates):
            return [{"dress"} if number < len(images) // 2 else set() for number in range(len(images))]

    report = erase_concept(
        tiny_stable_diffusion(), "red dress", judge=Judge(), report_images=2, max_steps=1, evaluations=1,
        pictures_per_concept=2, retain_pictures=2, sampling={"num_inference_steps": 2},
    )  # fmt: skip
    assert any("a photo of a dress" in warning for warning in report.warnings)
