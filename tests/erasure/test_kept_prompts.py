"""What prompts of kept pictures speak of: the nearer to the concept, the more often; every look of a thing in turn."""

import random
from collections import Counter

import pytest

from scissorhands_hf.erasure.kept_prompts import KeptWords, retain_prompts, weighed


LOOKS = ["red", "blue", "green", "yellow"]


def kept_words(**values) -> KeptWords:
    empty = {"concepts": ["sneaker"], "named": [], "parts": [], "variants": [], "anchor": None, "erased_before": []}
    return KeptWords(**empty | {"subjects": ["boot", "coat", "sandal"], "looks": LOOKS} | values)


def known(words: list[str]) -> list[str]:
    return list(words)


def names_in(prompts: list[str], names: list[str]) -> Counter:
    return Counter(next(name for name in names if name in text) for text in prompts if text)


def test_weights_are_inverse_distances_with_a_mean_of_one_and_the_larger_of_two_concepts():
    assert weighed([{"sandal": 1.0, "boot": 3.0}]) == pytest.approx({"sandal": 1.5, "boot": 0.5})
    both = weighed([{"sandal": 1.0, "boot": 3.0}, {"boot": 2.0, "coat": 2.0}])
    assert both == pytest.approx({"sandal": 1.5, "boot": 1.0, "coat": 1.0})
    assert weighed([{}]) == {}


def test_what_is_nearer_is_asked_for_more_often_and_evenly():
    kept = kept_words(subjects=[], looks=[], neighbours={"sandal": 1.5, "boot": 1.0, "coat": 0.5})
    prompts = [text for text in retain_prompts(kept, 200, known, random.Random(0)) if text]
    names = [next(name for name in kept.neighbours if name in text) for text in prompts]
    for end in range(6, len(names) + 1, 6):  # in all that come first, too
        counts = Counter(names[:end])
        assert all(abs(counts[name] - end * weight / 3) < 1 for name, weight in kept.neighbours.items())


def test_what_the_user_names_has_a_neighbours_share():
    kept = kept_words(subjects=[], looks=[], named=["bag"], neighbours={"sandal": 1.5, "boot": 0.5})
    counts = names_in(retain_prompts(kept, 300, known, random.Random(0)), ["bag", "sandal", "boot"])
    total = sum(counts.values())
    assert abs(counts["bag"] - total / 3) <= 1 and abs(counts["sandal"] - total / 2) <= 1
    near_and_named = kept_words(named=["sandal", "boot"], neighbours={"sandal": 1.5, "boot": 0.5})
    assert near_and_named.wanted == {"sandal": 1.5, "boot": 1.0}


@pytest.mark.parametrize("seed", range(5))
def test_each_look_of_a_thing_is_there_before_any_is_there_twice(seed: int):
    kept = kept_words(neighbours={"sandal": 1.0})
    prompts = retain_prompts(kept, 120, known, random.Random(seed))
    for thing in kept.subjects:
        counts = Counter(look for text in prompts for look in LOOKS if f"{look} {thing}" in text)
        assert counts and max(counts.values()) - min(counts[look] for look in LOOKS) <= 1
