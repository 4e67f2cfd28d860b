"""What kind of concept a name means: as the user says, or as the model reads it when it is added to names of many things."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .compounds import clear_of, parts_of, segments, without_attribute
from .erasure_settings import CONCEPT_TYPES
from .readings import Readings
from .words import GENERIC_SUBJECTS, LOOKS, PREPOSITIONS, KnownWords, is_look, photo


LOOK_TYPES = ("style", "attribute")
# Over the words of the pipeline in `spaces_demo`, looks score 0.9 and more and things 0.6 and less; see `Evidence`.
LOOK_SCORE = 0.75
WEAK = 0.08  # nearer than that to the boundary, the evidence is weak
# What the list of common looks, and that of common things, adds or takes off. Small: the model's reading decides.
PRIOR = 0.05
THINGS_ASKED = 6
LEAST_THINGS = 3
# Words that move pictures of things by less than that share of the distance between things say nothing.
LEAST_MOVE = 0.02


@dataclass(frozen=True)
class ConceptType:
    """
    What a name is taken for.

    Args:
        kind (`str`):
            One of `CONCEPT_TYPES`.
        source (`str`):
            Who says so: "given", "wording", "model", or "words" where the model's reading says nothing.
        score (`float`, *optional*):
            How far the model reads it as a look: about 0 for things, about 1 for looks.
        weak (`bool`, *optional*, defaults to `False`):
            Whether it may well be the other kind.
    """

    kind: str
    source: str
    score: float | None = None
    weak: bool = False

    @property
    def is_look(self) -> bool:
        return self.kind in LOOK_TYPES


def check_types(concept_type: Any, concepts: Sequence[str]) -> list[str | None]:
    """
    One type, or None, for each concept.

    Raises:
        ValueError: a type that there is not, or another number of types than of concepts.
    """
    given = [concept_type] * len(concepts) if concept_type is None or isinstance(concept_type, str) else list(concept_type)
    if len(given) != len(concepts):
        raise ValueError(
            f"concept_type has {len(given)} entries for {len(concepts)} concepts; give one for all, or a list with one for each"
        )
    for kind in given:
        if kind is not None and kind not in CONCEPT_TYPES:
            choices = ", ".join(map(repr, CONCEPT_TYPES))
            raise ValueError(f"concept_type={kind!r} is not one of {choices}; leave it at None to ask the model")
    return given


def types_of(
    concepts: Sequence[str], given: Sequence[str | None], readings: Readings | None, known_words: KnownWords
) -> dict[str, ConceptType]:
    """The type of each concept: as given, as its wording says, or as the model reads it."""
    return {
        name: ConceptType(kind, "given") if kind else _assumed(name, concepts, readings, known_words)
        for name, kind in zip(concepts, given, strict=True)
    }


def _assumed(name: str, concepts: Sequence[str], readings: Readings | None, known_words: KnownWords) -> ConceptType:
    if "style" in name.casefold().split() or name.split()[0].casefold() in PREPOSITIONS:
        return ConceptType("style", "wording")
    if without_attribute(name) or len(segments(name)) > 1:
        return ConceptType("object", "wording")  # one thing, with an attribute
    listed = name.casefold() in LOOKS
    look = "style" if any(word[0].isupper() for word in name.split()) else "attribute"
    score = None if readings is None else look_score(name, concepts, readings, known_words)
    if score is None:
        # Nothing to weigh against the lists; somebody's name may be that of a painter.
        return ConceptType(look if listed else "object", "words", weak=readings is not None and not listed)
    thing = name.casefold() in GENERIC_SUBJECTS
    score += PRIOR * (listed - thing)
    return ConceptType(look if score >= LOOK_SCORE else "object", "model", round(score, 3), abs(score - LOOK_SCORE) < WEAK)


def look_score(name: str, concepts: Sequence[str], readings: Readings, known_words: KnownWords) -> float | None:
    r"""
    How far adding a name changes pictures of things as a look does.

    A look leaves things apart and moves them all alike; a thing takes their place, each from where it was. With $u_i$ the
    model's prediction for "a photo of a coat" and others, and $x_i$ that for "a photo of a (name) coat", it is the mean of two
    shares: that of the differences between things which is left,
    $\langle x_i - \bar x, u_i - \bar u\rangle / \|u_i - \bar u\|^2$, and that of the change which all have in common,
    $\|\overline{x_i - u_i}\|^2 / \overline{\|x_i - u_i\|^2}$.

    Args:
        name (`str`):
            Of a concept.
        concepts (`Sequence[str]`):
            All concepts of the run, which are no things to ask it of.
        readings ([`Readings`]):
            Of the model.
        known_words (`KnownWords`):
            Of the pipeline's tokenizer.

    Returns:
        About 0 to 1; None where fewer than three things are known, or the name does not change their pictures.
    """
    taken = [*concepts, *parts_of(name)]
    clear = [thing for thing in GENERIC_SUBJECTS if clear_of(thing, taken)]
    known = list(known_words(clear))
    things = [known[i * len(known) // THINGS_ASKED] for i in range(THINGS_ASKED)] if len(known) > THINGS_ASKED else known
    if len(things) < LEAST_THINGS:
        return None
    plain, named = readings([photo(thing) for thing in things]), readings([photo(f"{name} {thing}") for thing in things])
    moves = named - plain
    plain, named = plain - plain.mean(0), named - named.mean(0)
    between, moved = plain.square().sum(), moves.square().sum()
    if moved < LEAST_MOVE * between:
        return None
    left = (plain * named).sum() / between
    common = len(moves) * moves.mean(0).square().sum() / moved
    return float(torch.stack([left.clamp(0, 1), common]).mean())


def look_wordings(name: str, kind: str) -> list[str]:
    """A look as sentences name it: somebody's bare name, as a style, also "in the style of" and "by" them. Nothing for ""."""
    if kind != "style" or not name or is_look(name) or name.split()[0].casefold() in PREPOSITIONS:
        return [name]
    return [f"in the style of {name}", f"by {name}", name]


def describe_type(name: str, assumed: ConceptType) -> str:
    """A sentence on what a name was taken for, and by whose word."""
    if assumed.source == "given":
        return f"The concept {name!r} is of the type {assumed.kind!r}, as given."
    reasons = {
        "wording": "by its wording",
        "words": "by the word list alone, for the model's reading says nothing",
        "model": f"as the model reads it ({assumed.score}; near 0 for things, near 1 for looks)",
    }
    return f"The concept {name!r} was taken for the type {assumed.kind!r}, {reasons[assumed.source]}."


def doubt(assumed: ConceptType) -> str:
    """What to say where the evidence is weak."""
    other = "object" if assumed.is_look else "style"
    return f"The evidence is weak: if it is another kind, say concept_type={other!r}, else concept_type={assumed.kind!r}."
