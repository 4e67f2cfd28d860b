"""What a concept is called: checks on its name, the prompts that ask for it, and what is asked for in its place."""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch

from .compounds import clear_of, parts_of, without_attribute
from .concept_types import ConceptType, look_wordings, types_of
from .families import Family
from .kept_prompts import KeptWords, kept_texts, near_prompts, nearest, retain_prompts, weighed, wordings
from .readings import ALIKE, Readings
from .report_prompts import report_prompts
from .vocabulary import own_words, vocabulary_captions, vocabulary_words
from .words import (
    CONCEPT_TEMPLATES,
    GENERIC_SUBJECTS,
    LOOK_TEMPLATES,
    PERSON_TEMPLATES,
    KnownWords,
    fill,
    is_look,
    mentions,
    photo,
    with_article,
    with_look,
)


logger = logging.getLogger(__name__)

THINGS_COMPARED = 8  # with a compound and its parts
SOMEBODY = ("man", "woman")  # where the tokenizer does not know "person"


@dataclass(frozen=True)
class ConceptPrompts:
    """
    Prompts of one run.

    Args:
        concepts, anchor (`list[str]`):
            As the user named them.
        instead (`dict[str, str]`):
            What pictures are to show in the place of each concept; "" for nothing in particular.
        forget, anchors (`list[str]`):
            Prompts to change, and what each is redirected to.
        compounds (`list[str]`):
            Those of the prompts to change that ask for a concept of several words, whose words are kept.
        near (`list[str]`):
            Prompts for what such concepts are made of and what they share words with.
        asking (`dict[str, list[str]]`):
            For each concept the prompts among `forget` that ask for it.
        edits (`list[tuple[str, str]]`):
            Prompts and those whose answer text layers are to give instead.
        retain (`list[str]`):
            Prompts to keep, one for each retain picture.
        kept_texts (`list[str]`):
            Prompts whose answers text layers are to keep.
        captions (`list[str]`):
            Captions of words from the tokenizer's vocabulary, likewise.
        types (`dict[str, ConceptType]`):
            What each concept was taken for.
        neighbours (`list[str]`):
            What is nearest to the concepts, to the model, where that was asked for.
        others (`dict[str, list[str]]`):
            For each of the prompts in `asking` those that ask for the neighbours in its place; empty without neighbours.
        report (`list[tuple[str, str, str | None]]`):
            Prompt, group and label of what only the report draws.
    """

    concepts: list[str]
    anchor: str | None
    instead: dict[str, str]
    forget: list[str]
    anchors: list[str]
    compounds: list[str]
    near: list[str]
    asking: dict[str, list[str]]
    edits: list[tuple[str, str]]
    retain: list[str]
    kept_texts: list[str]
    captions: list[str]
    types: dict[str, ConceptType]
    neighbours: list[str]
    others: dict[str, list[str]]
    report: list[tuple[str, str, str | None]]


def check_names(
    concept: str | Sequence[str], anchor: str | None, keep: Sequence[str] | None, family: Family
) -> tuple[list[str], str | None, list[str]]:
    """The names, stripped, as lists.

    Raises:
        TypeError: something that is no text.
        ValueError: empty or repeated names, a concept that is the anchor or stands inside it or `keep`, a text that the text
            encoder would cut; the message says which.
    """
    concepts = [concept] if isinstance(concept, str) else list(concept)
    if isinstance(keep, str):
        raise TypeError(f"keep={keep!r} is one text; give a list, keep=[{keep!r}]")
    kept = list(keep or [])
    if not concepts:
        raise ValueError("concept is an empty list; name what to erase")
    for argument, names in (("concept", concepts), ("anchor", [] if anchor is None else [anchor]), ("keep", kept)):
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"{argument} holds {name!r}, a {type(name).__name__}; names are texts")
            if not name.strip():
                raise ValueError(f"{argument}={name!r} is empty; name it in words, as in a prompt")
            cut = family.token_overflow(_longest(name))
            if cut:
                raise ValueError(
                    f"{argument}={name!r} is longer than the {family.text_limit()} tokens that the text encoder reads with a "
                    f"template around it: {cut!r} would be cut off. Use a shorter name."
                )
    concepts, kept = [_tidy(name) for name in concepts], [_tidy(name) for name in kept]
    anchor = None if anchor is None else _tidy(anchor)
    repeated = {name for name in concepts if [c.casefold() for c in concepts].count(name.casefold()) > 1}
    if repeated:
        raise ValueError(f"concept names {sorted(repeated)} twice; name each concept once")
    for name in concepts:
        if anchor is not None and mentions(anchor, name):
            raise ValueError(
                f"anchor={anchor!r} contains the concept {name!r}, so redirecting to it would erase nothing. Choose what "
                "pictures should show instead, or leave anchor at None for the model's own unguided picture."
            )
        clash = next((text for text in kept if mentions(text, name)), None)
        if clash is not None:
            raise ValueError(f"keep holds {clash!r}, which contains the concept {name!r}; it cannot be kept and erased")
    return concepts, anchor, kept


def build_prompts(
    concepts: Sequence[str],
    anchor: str | None,
    keep: Sequence[str],
    erased_before: Sequence[str],
    family: Family,
    retain_count: int,
    seed: int,
    choose_anchor: bool = False,
    readings: Readings | None = None,
    concept_types: Sequence[str | None] | None = None,
    neighbours: int = 0,
    captions: int = 0,
) -> ConceptPrompts:
    """All prompts of a run; a function of its arguments.

    Args:
        concepts, anchor, keep (`Sequence[str]`):
            Checked names.
        erased_before (`Sequence[str]`):
            Concepts of earlier runs: their prompts are kept as the model draws them now.
        family (`Family`):
            Of the pipeline, for the words that its tokenizer knows.
        retain_count (`int`):
            Prompts to keep, one for each retain picture.
        seed (`int`):
            Of their choice.
        choose_anchor (`bool`, *optional*, defaults to `False`):
            Without an anchor, let a related thing stand in for an object, and a thing without its attribute for one with it.
        readings ([`Readings`], *optional*):
            Of the model, which tell looks from things, and the parts of a compound that mean all of it to the model, and so
            cannot be kept. Without them the words of a name are all there is to go by.
        concept_types (`Sequence[str | None]`, *optional*):
            Of each concept, one of `CONCEPT_TYPES`; None where it is to be found out.
        neighbours (`int`, *optional*, defaults to 0):
            By the readings, how many of what is nearest to each concept half of what is kept is to be of.
        captions (`int`, *optional*, defaults to 0):
            How many captions of words from the tokenizer's vocabulary to make.
    """
    known = family.known_words
    types = types_of(concepts, concept_types or [None] * len(concepts), readings, known)
    # The words of a style, or of somebody's name, are not things that happen to come together.
    compounds = [name for name in concepts if types[name].kind in ("object", "attribute") and parts_of(name)]
    alike = [] if readings is None else parts_read_alike(compounds, readings, known)
    distance = None if readings is None else readings.distance
    kept = KeptWords.beside(concepts, keep, anchor, erased_before, known, alike, distance, compounds)
    around: dict[str, list[str]] = {}
    if neighbours and readings is not None:
        # "Van Gogh" is no look that an adjective could take the place of, but what is drawn in it is made of things.
        looks = {name: types[name].is_look and is_look(name) for name in concepts}
        near = {name: nearest(name, looks[name], kept, readings.distance, 2 * neighbours) for name in concepts}
        # More is kept than pictures are taken for: what is not that near suffers, too.
        kept = replace(kept, neighbours=weighed(near.values()))
        around = {name: list(row)[:neighbours] for name, row in near.items()}
        logger.info("Nearest to what is erased, to the model: %s", ", ".join(chain.from_iterable(around.values())))
    others = [thing for thing in (*keep, *kept.subjects) if not any(mentions(thing, gone) for gone in erased_before)]
    changes: dict[str, str] = {}
    edits: dict[str, str] = {}
    apart: list[str] = []
    instead, asking, in_place = {}, {}, {}
    for name in concepts:
        coloured: dict[str, str] = {}
        kind = types[name].kind
        if types[name].is_look and name not in compounds:
            other = anchor or ""
            own = _taken_from_things(look_wordings(name, kind), look_wordings(other, kind), kept.subjects)
        elif kind == "person":
            other = anchor or (_somebody(known, others) if choose_anchor else "")
            own = {text.format(name): text.format(with_article(other)) if other else "" for text in PERSON_TEMPLATES}
        else:
            other = anchor or (_in_its_place(name, kind, kept, others, family) if choose_anchor else "")
            texts = {template: fill(template, name, known) for template in CONCEPT_TEMPLATES}
            own = {text: (fill(t, other, known) or other) if other else "" for t, text in texts.items() if text is not None}
            # A red dress has its colour.
            if other and not any(is_look(word) for word in name.split()):
                coloured = {photo(f"{look} {name}"): photo(f"{look} {other}") for look in kept.looks}
        instead[name], asking[name] = other, list(own)
        in_place |= _neighbours_of(own, name, types[name], around.get(name, []), kept, name in compounds)
        if other and name in compounds:
            apart += own
        changes = own | changes
        # Beside the empty prompt, a sentence's words before the concept would have nothing to be answered by.
        edits |= {text: answer for text, answer in (own | coloured).items() if answer or text == name}
    chance = random.Random(seed)
    retain = retain_prompts(kept, retain_count, known, chance)
    return ConceptPrompts(
        concepts=list(concepts),
        anchor=anchor,
        instead=instead,
        forget=list(changes),
        anchors=list(changes.values()),
        compounds=list(dict.fromkeys(apart)),
        near=near_prompts(kept, known) if apart else [],
        asking=asking,
        edits=list(edits.items()),
        retain=retain,
        kept_texts=kept_texts(kept, retain, known, chance),
        captions=_captions(captions, [*concepts, *alike, *_words_apart(concepts, compounds)], family, chance),
        types=types,
        neighbours=list(dict.fromkeys(chain.from_iterable(around.values()))),
        others=in_place,
        report=report_prompts(concepts, kept, known, list(instead.values()), {name: types[name].kind for name in concepts}),
    )


def _words_apart(concepts: Sequence[str], compounds: Sequence[str]) -> list[str]:
    """Words that mean nothing but the concept they are of, as those of somebody's name."""
    return [word for name in concepts if name not in compounds for word in own_words(name)]


def _captions(count: int, gone: Sequence[str], family: Family, chance: random.Random) -> list[str]:
    """`count` captions that ask for nothing of what is `gone`."""
    if not count:
        return []
    known = family.known_words
    return vocabulary_captions(
        vocabulary_words(family.tokenizer, known),
        count,
        lambda text: clear_of(text, gone),
        wordings(known),
        known,
        family.text_limit(),
        chance,
    )


def _taken_from_things(looks: Sequence[str], others: Sequence[str], subjects: Sequence[str]) -> dict[str, str]:
    """Prompts for a look, and for things that have it, to the same with the other look, or none. In the order of pictures: all
    things in one wording of the look, which alternates, before any in another."""
    pairs = [(look, others[min(place, len(others) - 1)]) for place, look in enumerate(looks)]
    prompts = dict(pairs)
    for turn in range(len(pairs)):
        for number, subject in enumerate(subjects):
            look, other = pairs[(number + turn) % len(pairs)]
            for template in LOOK_TEMPLATES:
                prompts[with_look(template, subject, look)] = with_look(template, subject, other)
    return prompts


def _neighbours_of(
    own: dict[str, str], name: str, kind: ConceptType, around: Sequence[str], kept: KeptWords, compound: bool
) -> dict[str, list[str]]:
    """For a concept's prompts those that ask for its neighbours: other looks of the same things; for a style or a person that
    no everyday word is like, the same without them; else other things."""
    if not around:
        return {}
    look = kind.is_look and not compound
    if look and is_look(name):
        wordings = look_wordings(name, kind.kind)
        rows = [_taken_from_things(wordings, look_wordings(other, kind.kind), kept.subjects) for other in around]
        return {text: [row[text] for row in rows] for text in own}
    things = [photo(thing) for thing in around]
    if look or kind.kind == "person":
        return {text: [answer] if answer else things for text, answer in own.items()}
    return dict.fromkeys(own, things)


def _somebody(known_words: KnownWords, things: Sequence[str]) -> str:
    """Whom a person gives way to."""
    names = list(known_words(["person", *SOMEBODY]))
    return f"a {names[0]}" if names else next(iter(things), "")


def parts_read_alike(concepts: Sequence[str], readings: Readings, known_words: KnownWords) -> list[str]:
    """Parts of compounds that the model begins the same pictures with as with the compound: "ankle", if all it knows of ankles
    is the ankle boot. They are erased with it."""
    things = list(known_words(GENERIC_SUBJECTS))[:THINGS_COMPARED]
    alike = []
    for name in concepts:
        parts = parts_of(name)
        others = [thing for thing in things if clear_of(thing, concepts) and thing not in parts]
        if not parts or not others:
            continue
        usual = sum(readings.distance(photo(name), photo(thing)) for thing in others) / len(others)
        alike += [part for part in parts if readings.distance(photo(name), photo(part)) <= ALIKE * usual]
    if alike:
        logger.info("To the model %s means the same as the concept, and is erased with it", ", ".join(map(repr, alike)))
    return alike


def _in_its_place(name: str, kind: str, kept: KeptWords, things: Sequence[str], family: Family) -> str:
    """What a concept's prompts are to show: a thing with an attribute the thing without it, any other thing another one. A name
    that is given as an attribute loses its first word, whatever that is."""
    found = without_attribute(name) or ([name.split(maxsplit=1)[1]] if kind == "attribute" and " " in name else [])
    bare = [rest for rest in found if kept.clear(rest)]
    words = parts_of(name)
    return bare[0] if bare else _stand_in(name, [thing for thing in things if thing not in words], family)


def _stand_in(name: str, things: Sequence[str], family: Family) -> str:
    """The thing that ends the nearest quarter, by mean squared distance of the text encoder's states; "" without any things.

    The nearest ones may be other words for the concept. The farther the way, the more the edit changes of the directions that
    wordings of other things go in which no prompt to keep was at hand for.
    """
    if not things:
        return ""
    names = [name, *dict.fromkeys(things)]
    parts = [family.encode_prompts([photo(n) for n in names[i : i + 16]]) for i in range(0, len(names), 16)]
    states = torch.cat([part["encoder_hidden_states"].float() for part in parts])
    order = (states[1:] - states[:1]).square().flatten(1).mean(1).argsort().tolist()
    return names[1 + order[len(order) // 4]]


def _tidy(name: str) -> str:
    return " ".join(name.split())


def _longest(name: str) -> str:
    if is_look(name):
        return with_look("a photo of {one}", GENERIC_SUBJECTS[0], name)
    return max((fill(template, name) for template in CONCEPT_TEMPLATES), key=len)
