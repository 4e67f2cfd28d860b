"""Concepts of several words: their parts, what shares all of them but one, and what is left when the attribute is taken off."""

import re
from collections.abc import Iterable, Sequence

from .words import DETERMINERS, PREPOSITIONS, is_look, is_proper, mentions


# "glasses on people" takes the glasses from the people, "a cat with a hat" the hat from the cat.
_WORN_ON = frozenset(("on", "onto", "upon", "over"))


def segments(name: str) -> list[list[str]]:
    """Words of a name between its prepositions, without determiners: [["cat"], ["hat"]] of "a cat with a hat"."""
    found: list[list[str]] = [[]]
    for word in name.split():
        if word.casefold() in PREPOSITIONS:
            found.append([])
        elif word.casefold() not in DETERMINERS:
            found[-1].append(word)
    return [words for words in found if words]


def is_one_name(name: str) -> bool:
    """Whether the words mean nothing apart: one word, a style with its owner, somebody's name."""
    words = name.split()
    styled = "style" in name.casefold() or words[0].casefold() in PREPOSITIONS
    return styled or (len(words) == 1 and "-" not in name) or (len(segments(name)) == 1 and is_proper(words, len(words) - 1))


def parts_of(name: str) -> list[str]:
    """
    The content words of a name, and the shorter names in it: red, ankle, boot, "ankle boot", "red boot" of "red ankle boot".

    Args:
        name (`str`):
            Of a concept.

    Returns:
        In the order of the name, single words first; nothing of what `is_one_name`. Single letters are no parts.
    """
    if is_one_name(name):
        return []
    pieces = segments(name)
    parts = [piece for words in pieces for word in words for piece in _pieces(words, word)]
    for words in pieces:
        spans = [words[i:j] for i in range(len(words)) for j in range(i + 2, len(words) + 1)]
        spans += [[modifier, words[-1]] for modifier in words[:-1]]
        parts += [" ".join(span) for span in spans]
    return [part for part in dict.fromkeys(parts) if len(part) > 1 and not mentions(part, name)]


def _pieces(words: Sequence[str], word: str) -> list[str]:
    """A word, and the words that hyphens join in it; those of somebody's name stay together."""
    if len(words) > 1 and is_proper(words, len(words) - 1):
        return [" ".join(words)]
    return [word, *(word.split("-") if "-" in word else [])]


def variants_of(name: str, subjects: Iterable[str], looks: Iterable[str]) -> list[list[str]]:
    """
    What shares all words with a compound but one.

    Args:
        name (`str`):
            Of a concept.
        subjects, looks (`Iterable[str]`):
            To put into the places of things, and of looks.

    Returns:
        For each content word, last word first, the names with another one in its place: "red coat", "red bag"; "blue dress".
    """
    words = name.split()
    if is_one_name(name) or len(words) == 1:
        return []
    things, appearances, variants = list(subjects), list(looks), []
    for place in reversed(range(len(words))):
        if words[place].casefold() in PREPOSITIONS | DETERMINERS:
            continue
        rest = words[:place] + words[place + 1 :]
        others = [other for other in (appearances if is_look(words[place]) else things) if other not in (*rest, words[place])]
        variants.append([" ".join([*words[:place], other, *words[place + 1 :]]) for other in others])
    return variants


def without_attribute(name: str) -> list[str]:
    """
    What a thing with an attribute is without it, the longest name first: "ankle boot", "boot" of "red ankle boot"; "a cat" of
    "a cat with a hat", "people" of "glasses on people". Nothing where the words together name another kind of thing, as
    "teddy bear" or "dress shirt" do.
    """
    if is_one_name(name):
        return []
    words = name.split()
    where = [place for place, word in enumerate(words) if word.casefold() in PREPOSITIONS]
    if where:
        place = where[0]
        rest = words[place + 1 :] if words[place].casefold() in _WORN_ON else words[:place]
        return [" ".join(rest)]
    start = 1 if words[0].casefold() in DETERMINERS else 0
    looks = 0
    while start + looks < len(words) - 1 and is_look(words[start + looks]):
        looks += 1
    return [" ".join(words[start + taken :]) for taken in range(1, looks + 1)]


def clear_of(text: str, concepts: Iterable[str]) -> bool:
    """Whether a text asks for none of the concepts: neither in their own order nor, if they are compounds, in another."""
    return not any(mentions(text, name) or _all_words(text, name) for name in concepts)


def _all_words(text: str, name: str) -> bool:
    """Whether all content words of a compound are in a text: "a red small dress", "a dress in red"."""
    if is_one_name(name) or len(name.split()) == 1:
        return False
    return all(mentions(text, re.sub(r"^\W+|\W+$", "", word)) for words in segments(name) for word in words)
