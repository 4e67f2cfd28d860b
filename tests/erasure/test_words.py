"""English: plurals, articles, names inside texts; and that no name, of whatever script, breaks or is broken."""

import random
import re
from importlib import resources

import pytest
import yaml

from scissorhands_hf.erasure.words import (
    CONCEPT_TEMPLATES,
    GENERIC_SUBJECTS,
    fill,
    is_look,
    mentions,
    photo,
    plural,
    with_article,
    with_look,
)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("a red dress", "dress", True),
        ("Dresses", "dress", True),
        ("a dresser", "dress", False),
        ("t-shirt", "shirt", True),
        ("shirt", "t-shirt", False),
        ("a (dog)", "(dog)", True),
        ("category", "cat", False),
        ("two men", "man", True),
        ("a man", "men", True),
        ("women", "man", False),
        ("a dress", "dresses", True),
        ("kitchen knives", "knife", True),
        ("a mouse", "mice", True),
        ("people", "person", True),
        ("persons", "people", True),
        ("selfie", "selfies", True),
        ("bottles of wine", "bottle of wine", True),
        ("a bottle", "bottle of wine", False),
        ("a short skirt", "shorts", False),
        ("news", "new", False),
        ("a 🐱", "🐱", True),
        ("Du\u0308rer", "Dürer", True),
        ("東京 at night", "東京", True),
        ("anything", "!!!", False),
    ],
)
def test_mentions_looks_for_whole_words_in_singular_or_plural(text, name, expected):
    assert mentions(text, name) is expected


@pytest.mark.parametrize(
    ("name", "one", "many"),
    [
        ("dress", "a dress", "dresses"),
        ("ankle boot", "an ankle boot", "ankle boots"),
        ("city", "a city", "cities"),
        ("boy", "a boy", "boys"),
        ("man", "a man", "men"),
        ("knife", "a knife", "knives"),
        ("sheep", "a sheep", "sheep"),
        ("bus", "a bus", "buses"),
        ("octopus", "an octopus", "octopuses"),
        ("unicorn", "a unicorn", "unicorns"),
        ("hour", "an hour", "hours"),
        ("European", "a European", "Europeans"),
        ("éclair", "an éclair", "éclairs"),
        ("8 ball", "an 8 ball", "8 balls"),
        ("18th century painting", "an 18th century painting", "18th century paintings"),
        ("1950s dress", "a 1950s dress", "1950s dresses"),
        ("1800s dress", "an 1800s dress", "1800s dresses"),
        # The head noun is what there are several of.
        ("teddy bear", "a teddy bear", "teddy bears"),
        ("bottle of wine", "a bottle of wine", "bottles of wine"),
        ("girl with a pearl earring", "a girl with a pearl earring", "girls with a pearl earring"),
        ("mother-in-law", "a mother-in-law", "mothers-in-law"),
        # Plurals and what cannot be counted.
        ("trousers", "trousers", "trousers"),
        ("dresses", "dresses", "dresses"),
        ("men", "men", "men"),
        ("teddy bears", "teddy bears", "teddy bears"),
        ("red wine", "red wine", "red wine"),
        ("clothing", "clothing", "clothing"),
        # What brings its own article, or has none.
        ("the Eiffel Tower", "the Eiffel Tower", "the Eiffel Tower"),
        ("a dress", "a dress", "dresses"),
        ("my cat", "my cat", "my cats"),
        ("John Smith's car", "John Smith's car", "John Smith's cars"),
        ("Mickey Mouse", "Mickey Mouse", "Mickey Mouse"),
        ("van Gogh", "van Gogh", "van Gogh"),
        ("in the style of Monet", "in the style of Monet", "in the style of Monet"),
        # Names, numbers, signs, other scripts.
        ("Gucci", "a Gucci", "Guccis"),
        ("Dürer", "a Dürer", "Dürers"),
        ("C-3PO", "a C-3PO", "C-3PO"),
        ("FBI agent", "an FBI agent", "FBI agents"),
        ("NSFW", "an NSFW", "NSFWs"),
        ("1950s", "a 1950s", "1950s"),
        ("x", "an x", "x"),
        ("東京", "東京", "東京"),
        ("Дом", "Дом", "Дом"),
        ("robe à fleurs", "robe à fleurs", "robe à fleurs"),
        ("(dog)", "a (dog)", "(dog)"),
        ("!!!", "!!!", "!!!"),
        ("{many} 100%", "a {many} 100%", "{many} 100%"),
    ],
)
def test_articles_and_plurals(name, one, many):
    assert (fill("{one}", name), fill("{many}", name), fill("the {}", name)) == (one, many, f"the {name}")
    assert (with_article(name), plural(name), photo(name)) == (one, many, f"a photo of {one}")


def test_the_everyday_words_are_english():
    assert not [word for word in GENERIC_SUBJECTS if not mentions(plural(word), word) or plural(plural(word)) != plural(word)]
    assert [word for word in GENERIC_SUBJECTS if with_article(word) == word] == ["bread", "glass", "jeans", "trousers", "wine"]


def test_no_text_raises_or_is_changed_inside_a_prompt():
    chance = random.Random(0)
    signs = "aeiouxsyNMI -'’.,{}0123éß東дİ²🐱\u0301\u200dŉǆΩ_\n\x00"
    for _ in range(3000):
        name, other = ("".join(chance.choices(signs, k=chance.randint(1, 9))) for _ in range(2))
        assert all(name in fill(template, name) for template in CONCEPT_TEMPLATES if "{many}" not in template)
        fill("{many}", name, lambda words: words[:1])
        assert " ".join(other.split()) in with_look("a photo of {one}", "coat", " ".join(other.split()))
        assert mentions(f"a {name}!", name) or re.search(r"\w", name)
        mentions(other, name), is_look(name)


def test_a_plural_that_the_tokenizer_would_spell_is_no_wording_of_a_name_that_it_knows():
    known = {"dress", "bottle", "coat", "coats"}

    def known_words(words):
        return [word for word in words if word in known]

    assert fill("a picture of {many}", "dress", known_words) is None
    assert fill("a picture of {many}", "bottle of wine", known_words) is None
    assert fill("a picture of {many}", "coat", known_words) == "a picture of coats"
    assert fill("a picture of {many}", "zebra", known_words) == "a picture of zebras"
    assert fill("a picture of {one}", "dress", known_words) == "a picture of a dress"


@pytest.mark.parametrize("name", ["red", "Shiny", "in the style of Monet", "Van Gogh style"])
def test_looks(name):
    assert is_look(name)


@pytest.mark.parametrize("name", ["dress", "stylist", "red dress", "Monet"])
def test_things_are_no_looks(name):
    assert not is_look(name)


def test_every_word_of_the_lists_is_text():
    """YAML takes the bare words on, off, yes and no for truth values."""
    path = resources.files("scissorhands_hf.erasure").joinpath("words.yaml")
    lists = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert len(lists) > 8
    assert [(name, word) for name, words in lists.items() for word in words if not isinstance(word, str)] == []


def test_small_words_that_yaml_has_for_truth_values():
    assert with_article("no parking sign") == "no parking sign"
    assert plural("hat on a dog") == "hats on a dog"
