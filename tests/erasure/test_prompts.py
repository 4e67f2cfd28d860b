"""Names of concepts: what is refused, and which prompts come of the rest."""

import pytest
from tiny_pipelines import CLIP_TOKENS, tiny_stable_diffusion

from scissorhands_hf import erase_concept
from scissorhands_hf.erasure.families import family_of
from scissorhands_hf.erasure.prompts import build_prompts, check_names
from scissorhands_hf.erasure.report_prompts import paraphrases
from scissorhands_hf.erasure.words import GENERIC_SUBJECTS, is_look, mentions


@pytest.fixture(scope="module")
def pipe():
    return tiny_stable_diffusion()


@pytest.fixture(scope="module")
def family(pipe):
    return family_of(pipe)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"concept": ""}, ValueError, "concept=''"),
        ({"concept": " \t"}, ValueError, "is empty"),
        ({"concept": []}, ValueError, "empty list"),
        ({"concept": ["dress", "Dress"]}, ValueError, "twice"),
        ({"concept": ["dress", 3]}, TypeError, "concept holds 3"),
        ({"concept": "dress", "anchor": "dress"}, ValueError, "anchor='dress' contains the concept"),
        ({"concept": "dress", "anchor": "a red Dress"}, ValueError, "anchor"),
        ({"concept": "dress", "keep": ["coat", "dresses"]}, ValueError, "keep holds 'dresses'"),
        ({"concept": "man", "keep": ["coat", "men"]}, ValueError, "keep holds 'men'"),
        ({"concept": "dresses", "keep": ["red dress"]}, ValueError, "keep holds 'red dress'"),
        ({"concept": "men", "anchor": "man"}, ValueError, "anchor='man' contains"),
        ({"concept": "dress", "keep": "coat"}, TypeError, r"keep=\['coat'\]"),
        ({"concept": "dress " * CLIP_TOKENS}, ValueError, "'dress dress"),
        ({"concept": "dress", "keep": ["coat " * CLIP_TOKENS]}, ValueError, "keep=.*would be cut off"),
        ({"concept": "dress", "trim_rato": 0.1}, TypeError, "'trim_rato'"),
        ({"concept": "dress", "output_dir": "x"}, ValueError, "output_dir"),
        ({"concept": "dress", "fp16": True}, ValueError, "fp16"),
        ({"concept": "dress", "report_images": 1}, ValueError, "report_images=1"),
        ({"concept": "dress", "recipe": "concpt"}, ValueError, "Did you mean 'concept'"),
        ({"concept": "dress", "anchor": "coat", "forget_objective": "ascent"}, ValueError, "anchor='coat'"),
        ({"concept": "dress", "sampling": {"guidance": 3}}, TypeError, "guidance"),
        ({"concept": "dress", "sampling": {"prompt": "coat"}}, ValueError, "sampling has 'prompt'"),
        ({"concept": "dress", "sampling": {"clip_skip": 1}}, ValueError, "sampling has 'clip_skip'"),
        ({"concept": "dress", "judge": 5}, TypeError, "judge=5"),
        ({"concept": "dress", "max_steps": -1}, ValueError, "max_steps=-1"),
        ({"concept": "dress", "damage_limit": 0}, ValueError, "damage_limit=0"),
        ({"concept": "dress", "reinit_target_modules": ["attn9"]}, ValueError, "reinit_target_modules: .*'attn9'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_weight_changes(pipe, arguments, error, message):
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    with pytest.raises(error, match=message):
        erase_concept(pipe, **arguments)
    assert all(value.equal(before[name]) for name, value in pipe.unet.state_dict().items())


def test_names_are_tidied(family):
    assert check_names("  red   dress ", " coat", ["bag "], family) == (["red dress"], "coat", ["bag"])


def test_prompts_ask_for_the_concept_and_keep_others(family):
    prompts = build_prompts(["dress"], None, ["red coat"], ["bag"], family, retain_count=60, seed=1)
    assert "dress" in prompts.forget and "a photo of a dress" in prompts.forget
    assert all(mentions(text, "dress") for text in prompts.forget) and set(prompts.anchors) == {""}
    assert len(prompts.retain) == 60 and not any(mentions(text, "dress") for text in prompts.retain)
    for wanted in ("red coat", "bag"):
        assert any(wanted in text for text in prompts.retain)
    assert "" in prompts.retain
    # The plural is spelled from pieces by this tokenizer, which knows the singular: it would be another concept to it.
    assert "dresses" not in prompts.forget
    assert prompts == build_prompts(["dress"], None, ["red coat"], ["bag"], family, retain_count=60, seed=1)
    assert prompts.retain != build_prompts(["dress"], None, ["red coat"], ["bag"], family, retain_count=60, seed=2).retain


def test_without_neighbours_everyday_words_that_the_tokenizer_knows_are_kept(family):
    prompts = build_prompts(["dress"], None, [], [], family, retain_count=80, seed=1)
    known = [word for word in GENERIC_SUBJECTS if word in ("coat", "bag")]
    for word in known:
        assert any(mentions(text, word) for text in prompts.retain)
    assert not any(mentions(text, "elephant") for text in prompts.retain)
    groups = {group for _, group, _ in prompts.report}
    assert groups == {"concept", "paraphrase", "kept"}
    assert not {text for text, group, _ in prompts.report if group == "paraphrase"} & {*prompts.forget, *prompts.retain}


def test_each_prompt_is_redirected_to_the_anchor_in_its_own_wording(family):
    prompts = build_prompts(["dress"], "coat", [], [], family, retain_count=4, seed=1)
    pairs = dict(zip(prompts.forget, prompts.anchors, strict=True))
    assert pairs["a photo of a dress"] == "a photo of a coat" and pairs["dress"] == "coat"


def test_a_thing_gives_way_to_one_at_the_end_of_the_nearest_quarter(family):
    prompts = build_prompts(["dress"], None, ["shoe"], [], family, retain_count=4, seed=1, choose_anchor=True)
    known = ("shoe", "coat", "bag")
    names = ["dress", *known]
    states = family.pipe.encode_prompt([f"a photo of a {name}" for name in names], "cpu", 1, False)[0]
    distances = {name: (states[0] - states[1 + i]).square().mean().item() for i, name in enumerate(known)}
    chosen = sorted(distances, key=distances.get)[len(known) // 4]
    assert prompts.instead == {"dress": chosen}
    later = build_prompts(["dress"], None, ["shoe"], [chosen], family, retain_count=4, seed=1, choose_anchor=True)
    assert later.instead["dress"] in {*known} - {chosen}  # what was erased before is no picture to lead to
    edits = dict(prompts.edits)
    assert edits["a photo of a dress"] == f"a photo of a {chosen}"
    assert edits["a photo of a red dress"] == f"a photo of a red {chosen}"  # the look is kept
    assert not any(mentions(text, "dress") for text in prompts.kept_texts)
    assert {"", "red", "coat", "a photo of a coat", "a photo of a blue shoe", *prompts.retain} <= {*prompts.kept_texts}


def test_a_look_is_taken_from_the_things_that_have_it(family):
    prompts = build_prompts(["red"], None, [], [], family, retain_count=4, seed=1, choose_anchor=True)
    edits = dict(prompts.edits)
    assert edits["red"] == "" and edits["a photo of a red coat"] == "a photo of a coat" and edits["red bag"] == "bag"
    assert prompts.instead == {"red": ""} and dict(zip(prompts.forget, prompts.anchors, strict=True)) == edits
    other = dict(build_prompts(["red"], "blue", [], [], family, retain_count=4, seed=1).edits)
    assert other["red"] == "blue" and other["a photo of a red coat"] == "a photo of a blue coat"


@pytest.mark.parametrize(
    ("look", "text", "without"),
    [
        ("in the style of Monet", "a photo of a coat in the style of Monet", "a photo of a coat"),
        ("Van Gogh style", "a photo of a coat, Van Gogh style", "a photo of a coat"),
        ("Shiny", "a photo of a Shiny coat", "a photo of a coat"),
    ],
)
def test_styles_are_named_where_sentences_name_them(family, look, text, without):
    assert is_look(look)
    assert dict(build_prompts([look], None, [], [], family, retain_count=4, seed=1).edits)[text] == without


def test_a_look_to_keep_is_kept_on_things(family):
    prompts = build_prompts(["red"], None, ["in the style of Degas"], [], family, retain_count=40, seed=1)
    on_a_coat = "a photo of a coat in the style of Degas"
    assert on_a_coat in prompts.kept_texts and "in the style of Degas" in prompts.kept_texts
    asked = [text for text in (*prompts.retain, *prompts.kept_texts, *(row[0] for row in prompts.report)) if "Degas" in text]
    assert any("Degas" in text for text in prompts.retain) and not any(" an in the" in text for text in asked)
    assert [row for row in prompts.report if row[2] == "in the style of Degas"][0][0].endswith("in the style of Degas")


@pytest.mark.parametrize(
    ("look", "asked"),
    [
        ("in the style of Monet", "a photo of a coat in the style of Monet"),
        ("Van Gogh style", "a photo of a coat, Van Gogh style"),
        ("red", "a photo of a red coat"),
    ],
)
def test_the_report_asks_for_a_look_as_a_look_of_things_that_the_tokenizer_knows(family, look, asked):
    prompts = build_prompts([look], None, [], [], family, retain_count=4, seed=1)
    rows = [row for row in prompts.report if row[1] in ("concept", "paraphrase")]
    assert (asked, "concept", look) in rows and {label for _, _, label in rows} == {look}
    assert {group for _, group, _ in rows} == {"concept", "paraphrase"}
    for text, group, _ in rows:
        assert any(thing in text for thing in ("coat", "bag", "dress")) and look in text
        assert not text.endswith((" a red", "the red")) and " an in the" not in text and "a Van Gogh" not in text
        assert group == "concept" or text not in {*prompts.forget, *prompts.retain, *prompts.kept_texts}


def test_paraphrases_ask_for_a_thing_itself_and_for_a_look_of_things_in_turn():
    assert paraphrases("dress") == [
        "this is an image of a dress", "a picture showing a dress", "look at the photo of the dress",
    ]  # fmt: skip
    assert paraphrases("in the style of Monet", ["coat", "bag", "shoe"]) == [
        "this is an image of a coat in the style of Monet",
        "a picture showing a bag in the style of Monet",
        "look at the photo of the shoe in the style of Monet",
    ]
    # Not "a blue red coat".
    assert "a red coat for sale" in paraphrases("red", ["coat"], extra_templates=["a blue {}", "{one} for sale"])
    assert not any("blue" in text for text in paraphrases("red", ["blue", "coat"], extra_templates=["a blue {}"]))
    assert "a blue dress" in paraphrases("dress", ["coat"], extra_templates=["a blue {}"])
    assert paraphrases("red") == ["red"]  # nothing to ask it of


def test_without_anything_known_only_the_bare_name_is_edited(family):
    prompts = build_prompts(["dress"], None, [], [], family, retain_count=4, seed=1)
    assert prompts.edits == [("dress", "")] and len(prompts.forget) > 1
