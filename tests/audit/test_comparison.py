"""The measure of change against brute force, the shares that a judge counts, and their means."""

import itertools
import math

import numpy as np
import pytest
from PIL import Image

from scissorhands_hf.audit import AuditPrompt, audit_metrics, compare_pictures
from scissorhands_hf.audit.comparison import same_seed_change
from scissorhands_hf.report import PromptScore


def noise(count: int, seed: int, size: tuple[int, int] = (6, 5)) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]


def test_change_is_the_distance_at_equal_seeds_in_units_of_that_between_seeds():
    before, after = noise(4, 0), noise(4, 1)

    def squared(a, b):
        return [(int(x) - int(y)) ** 2 for x, y in zip(a.tobytes(), b.tobytes(), strict=True)]

    moved = [d for a, b in zip(before, after, strict=True) for d in squared(a, b)]
    apart = [d for a, b in itertools.combinations(before, 2) for d in squared(a, b)]
    expected = math.sqrt(sum(moved) / len(moved)) / math.sqrt(sum(apart) / len(apart))
    assert same_seed_change(before, after) == pytest.approx(expected, rel=1e-5)
    assert same_seed_change(before, before) == 0
    # Each picture exchanged for another seed's of the same model: as far as seeds are apart.
    many = noise(40, 2)
    assert same_seed_change(many, many[1:] + many[:1]) == pytest.approx(1, abs=0.05)


def test_change_of_a_model_that_draws_one_picture_is_counted_in_grey_levels():
    grey, brighter = Image.new("RGB", (4, 4), (100,) * 3), Image.new("RGB", (4, 4), (103,) * 3)
    assert same_seed_change([grey, grey], [brighter, brighter]) == pytest.approx(3)
    assert same_seed_change([grey, grey], [grey, grey]) == 0


def test_change_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="'bag' has 1 original and 1"):
        same_seed_change(noise(1, 0), noise(1, 0), "bag")
    with pytest.raises(ValueError, match="2 original and 3 unlearned"):
        same_seed_change(noise(2, 0), noise(3, 0))
    with pytest.raises(ValueError, match="differ in size"):
        same_seed_change(noise(2, 0), noise(2, 0, (7, 5)))


class BrightnessJudge:
    """Sees "bright" and "dark"; remembers what it was asked."""

    name = "brightness"

    def __init__(self):
        self.asked = []

    def knows(self, label):
        return label in ("bright", "dark")

    def __call__(self, images, candidates):
        self.asked.append(tuple(candidates))
        return [{"bright" if np.asarray(image).mean() > 127 else "dark"} & set(candidates) for image in images]


def test_scores_count_the_pictures_in_which_the_judge_sees_the_label():
    def flat(*levels):
        return [Image.new("RGB", (4, 4), (level,) * 3) for level in levels]

    prompts = [
        AuditPrompt("a", "concept", "bright"),
        AuditPrompt("b", "kept", "dark"),
        AuditPrompt("c", "kept", "round"),  # the judge does not know this one
        AuditPrompt("d", "neighbour"),
    ]
    original = {"a": flat(200, 210, 220, 10), "b": flat(0, 1), "c": flat(0, 9), "d": flat(0, 9)}
    unlearned = {"a": flat(20, 210, 20, 10), "b": flat(0, 255), "c": flat(0, 9), "d": flat(0, 9)}
    judge = BrightnessJudge()
    scores = compare_pictures(prompts, original, unlearned, judge)
    assert [(s.prompt, s.original, s.unlearned, s.images) for s in scores] == [
        ("a", 75.0, 25.0, 4),
        ("b", 100.0, 50.0, 2),
        ("c", None, None, 2),
        ("d", None, None, 2),
    ]
    assert set(judge.asked) == {("bright", "dark")}
    assert scores[0].drop == 50.0 and scores[2].drop is None
    assert scores[2].change == 0
    without = compare_pictures(prompts, original, unlearned)
    assert all(s.original is None and s.unlearned is None for s in without)
    assert [s.change for s in without] == [s.change for s in scores]
    with pytest.raises(ValueError, match="'b' has 0 original"):
        compare_pictures(prompts, {"a": original["a"]}, unlearned)


def test_a_group_that_no_report_has_is_refused():
    with pytest.raises(ValueError, match="group='other'"):
        AuditPrompt("bag", "other")


def test_metrics_are_means_over_prompts():
    scores = [
        PromptScore("a", "concept", "x", 5, 100.0, 0.0, 0.8),
        PromptScore("b", "concept", "x", 5, 90.0, 10.0, 0.4),
        PromptScore("c", "paraphrase", "x", 5, 80.0, 20.0, 0.5),
        PromptScore("d", "kept", "y", 5, 100.0, 98.0, 0.1),
        PromptScore("e", "kept", None, 5, None, None, 0.3),
    ]
    metrics = audit_metrics(scores)
    assert metrics["original"] == {"concept": 95.0, "paraphrases": 80.0, "kept": 100.0}
    assert metrics["unlearned"] == pytest.approx(
        {
            "concept": 5.0,
            "concept change": 0.6,
            "paraphrases": 20.0,
            "paraphrases change": 0.5,
            "kept": 98.0,
            "kept change": 0.2,
        }
    )
    assert audit_metrics(scores[4:]) == {"unlearned": {"kept change": 0.3}}
    assert audit_metrics([]) == {}
