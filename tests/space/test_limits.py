"""What visitors may ask for: every field's bounds, and that nothing but a Hub id passes for a model."""

import pytest

from spaces_demo.limits import (
    LONGEST_TEXT,
    MOST_CONCEPTS,
    RefusedError,
    check_erase,
    check_number,
    check_repository,
    check_text,
    split_texts,
)


def test_text_is_put_on_one_line():
    assert check_text("  a red\n\t dress ", "The prompt") == "a red dress"


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "empty"),
        (" \n ", "empty"),
        (None, "empty"),
        ("x" * (LONGEST_TEXT + 1), "at most"),
        ("dress\x00", "cannot be shown"),
    ],
)
def test_text_that_is_refused(text, words):
    with pytest.raises(RefusedError, match=words):
        check_text(text, "The prompt")


def test_texts_are_split_at_commas_and_lines_and_named_once():
    assert split_texts("dress, red\nbag,, dress ", "The concept", 4) == ("dress", "red", "bag")
    assert split_texts("", "Keep", 4) == ()
    with pytest.raises(RefusedError, match="at most 2"):
        split_texts("a,b,c", "Keep", 2)
    with pytest.raises(RefusedError, match="too many"):
        split_texts("," * 10**6, "Keep", 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "seven", "nan", "11", "0x1", True, -1, 11, [1]])
def test_numbers_out_of_range_or_none_at_all(value):
    with pytest.raises(RefusedError):
        check_number(value, "The seed", 0, 10)


def test_numbers_in_range():
    assert check_number(None, "x", 0, 1) is None
    assert check_number(" ", "x", 1, 2) is None  # a field that was left empty is no zero
    assert check_number("0,5", "x", 0, 1) == check_number(" 5e-1 ", "x", 0, 1) == 0.5
    assert check_number("7", "x", 0, 10, whole=True) == 7
    assert check_number(10, "x", 0, 10, whole=True) == 10
    assert isinstance(check_number(3.0, "x", 0, 10, whole=True), int)
    with pytest.raises(RefusedError, match="whole"):
        check_number(2.5, "x", 0, 10, whole=True)


@pytest.mark.parametrize("name", ["owner/name", "https://huggingface.co/owner/name/", "a.b-c/d_e.f"])
def test_hub_ids(name):
    assert check_repository(name).count("/") == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "name",
        "/etc/passwd",
        "../secrets/x",
        "owner/../x",
        "C:\\models",
        "owner/na me",
        "o/n/x",
        "~/x",
        "owner/<b>",
        None,
    ],
)
def test_what_is_no_hub_id(name):
    with pytest.raises(RefusedError, match="owner/name"):
        check_repository(name)


def test_a_checked_form():
    settings = check_erase("dress, red", "shirt", "coat", recipe="a", recipes=["a"], trim_ratio=0.01, steps=20.0, images=3)
    assert check_erase("dress", recipes=[], trim_ratio="0").trim_ratio == 0
    assert settings.concepts == ("dress", "red")
    assert (settings.anchor, settings.keep, settings.recipe) == ("shirt", ("coat",), "a")
    assert (settings.trim_ratio, settings.steps, settings.images, settings.seed) == (0.01, 20, 3, 0)
    assert settings.forget_weight is None and settings.projection is None


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"concepts": " , "}, "concept is empty"),
        ({"concepts": ",".join("abcdefg"[: MOST_CONCEPTS + 1])}, "at most"),
        ({"anchor": "Dress"}, "anchor"),
        ({"recipe": "nonsense"}, "no recipe"),
        ({"trim_ratio": 0.9}, "trim ratio"),
        ({"steps": 10**6}, "steps"),
        ({"images": 1}, "images"),
        ({"images": 99}, "images"),
        ({"seed": -1}, "seed"),
        ({"forget_weight": float("nan")}, "λ"),
    ],
)
def test_a_form_that_is_refused(fields, words):
    with pytest.raises(RefusedError, match=words):
        check_erase(**{"concepts": "dress", **fields})
