"""Prompts of what must not change: neighbours that the user named or the model finds, and everyday things and looks."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from .compounds import clear_of, parts_of, variants_of
from .readings import ALIKE
from .words import (
    CONCEPT_TEMPLATES,
    GENERIC_LOOKS,
    GENERIC_SUBJECTS,
    LOOK_TEMPLATES,
    RETAIN_TEMPLATES,
    KnownWords,
    fill,
    is_look,
    photo,
    with_look,
)


MOST_TEXTS = 800
MOST_NEAR = 16  # parts and variants of compounds that pictures are drawn of
LOOKS_COMPARED_ON = 4  # things
EMPTY_SHARE = 0.15  # of the retain prompts: guidance leans on what the model draws without words


@dataclass(frozen=True)
class KeptWords:
    """
    What prompts of a run may speak of beside its concepts.

    Args:
        concepts (`list[str]`):
            What is erased: no prompt to keep asks for it.
        named (`list[str]`):
            Neighbours that the user named.
        parts (`list[str]`):
            Words of concepts that are compounds, and shorter compounds in them.
        variants (`list[str]`):
            What shares all words with a compound but one; of each word in turn.
        anchor (`str`, *optional*):
            What the concept's prompts are to show instead.
        erased_before (`list[str]`):
            Concepts of earlier runs, which are kept as the model draws them now.
        subjects, looks (`list[str]`):
            Everyday things, and looks, that the tokenizer knows.
        neighbours (`dict[str, float]`, *optional*):
            Those of them that are nearest the concepts to the model, and suffer first, with their weights, > 0 and 1 in the
            mean: the nearer, the more.
    """

    concepts: list[str]
    named: list[str]
    parts: list[str]
    variants: list[str]
    anchor: str | None
    erased_before: list[str]
    subjects: list[str]
    looks: list[str]
    neighbours: dict[str, float] = field(default_factory=dict)

    @classmethod
    def beside(
        cls,
        concepts: Sequence[str],
        named: Sequence[str],
        anchor: str | None,
        erased_before: Sequence[str],
        known_words: KnownWords,
        alike: Sequence[str] = (),
        distance: Callable[[str, str], float] | None = None,
        compounds: Sequence[str] | None = None,
    ) -> "KeptWords":
        """With the everyday words of which no concept is a part. What the model reads `alike` with a concept is not kept.
        By the `distance` of two prompts to the model, variants begin with the nearest to their compounds. Those of
        the concepts that are `compounds` (default: all of several words) have parts."""
        compounds = concepts if compounds is None else compounds
        gone = [*concepts, *alike]

        def usable(words: Iterable[str]) -> list[str]:
            clear = [word for word in words if clear_of(word, gone)]
            parts = sorted({part for word in clear for part in word.replace("-", " - ").split()})
            known = set(known_words(parts))
            return [word for word in clear if set(word.replace("-", " - ").split()) <= known]

        subjects, looks = usable(GENERIC_SUBJECTS), usable(GENERIC_LOOKS)
        parts = [part for name in compounds for part in parts_of(name) if clear_of(part, gone)]
        rows = []
        for name in compounds:
            for row in variants_of(name, subjects, looks):
                clear = [text for text in row if clear_of(text, gone)]
                if distance is not None:
                    clear.sort(key=lambda text, name=name: distance(photo(name), photo(text)))
                rows.append(clear)
        return cls(
            concepts=list(concepts),
            named=list(named),
            parts=list(dict.fromkeys(parts)),
            variants=_in_turn(*rows),
            anchor=anchor,
            erased_before=list(erased_before),
            subjects=subjects,
            looks=looks,
        )

    def clear(self, text: str) -> bool:
        """Whether a text asks for none of the concepts."""
        return clear_of(text, self.concepts)

    @property
    def wanted(self) -> dict[str, float]:
        """What half of the pictures to keep are of, with weights: neighbours, the anchor, and what compounds are made of."""
        others = [*self.named, *([self.anchor] if self.anchor else []), *self.near]
        return {name: max(1.0, self.neighbours.get(name, 0.0)) for name in others} | {
            name: weight for name, weight in self.neighbours.items() if name not in others
        }

    @property
    def near(self) -> list[str]:
        """Of what compounds are made of, and what shares all words with one but one, the first ones."""
        return [*self.parts, *self.variants][:MOST_NEAR]


def nearest(
    concept: str, is_look: bool, kept: KeptWords, distance: Callable[[str, str], float], count: int
) -> dict[str, float]:
    """The `count` everyday things, or looks, whose pictures the model begins most as it begins the concept's, nearest first,
    with their distances.

    Looks are compared on things that have them. What is the concept by another name, to the model, is none of them: pictures
    that are taken for it would show the concept.
    """
    things = kept.subjects[:LOOKS_COMPARED_ON]

    def apart(other: str) -> float:
        if not is_look:
            return distance(photo(concept), photo(other))
        pairs = [(photo(f"{concept} {thing}"), photo(f"{other} {thing}")) for thing in things]
        return sum(distance(*pair) for pair in pairs) or distance(concept, other)

    far = {other: apart(other) for other in (kept.looks if is_look else kept.subjects)}
    least = ALIKE * sum(far.values()) / max(1, len(far))
    return dict(sorted(((other, way) for other, way in far.items() if way > least), key=lambda pair: pair[1])[:count])


def weighed(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """Weights of what is near to some concepts, given the distances of each: the nearer, the more; 1 in the mean of a row.
    What is near to several has the largest."""
    weights: dict[str, float] = {}
    for row in rows:
        mean = sum(1 / way for way in row.values()) / max(1, len(row))
        for name, way in row.items():
            weights[name] = max(weights.get(name, 0.0), 1 / way / mean)
    return weights


def _in_turn(*rows: Sequence[str]) -> list[str]:
    """The first of each row, then the second of each, and so on; each text once."""
    return list(dict.fromkeys(text for column in zip_longest(*rows) for text in column if text is not None))


def retain_prompts(kept: KeptWords, count: int, known_words: KnownWords, chance: random.Random) -> list[str]:
    """`count` prompts for pictures of what is kept; without a name now and then, as guidance needs it."""
    templates = wordings(known_words)
    subjects, looks = kept.subjects, kept.looks
    wanted = kept.wanted
    turns = _by_weight(wanted)
    unused: dict[str, list[str]] = {}

    def next_look(name: str) -> str:
        """Each look of a thing once before any comes twice: of few pictures chance leaves some out."""
        if not unused.get(name):
            unused[name] = chance.sample(looks, len(looks))
        return unused[name].pop()

    retain = []
    for number in range(count):
        if chance.random() < EMPTY_SHARE:
            retain.append("")
            continue
        # Half of the room is for what is wanted, the rest for everything else.
        if kept.erased_before and number % 4 == 0:
            name, plain = chance.choice(kept.erased_before), False
        elif wanted and (number % 2 or not subjects):
            name = next(turns)
            plain = name in kept.neighbours and name in subjects
        elif subjects:
            name, plain = chance.choice(subjects), True
        else:
            retain.append("")
            continue
        if plain and looks and chance.random() < 0.5:
            looking = f"{next_look(name)} {name}"
            name = looking if kept.clear(looking) else name
        bearers = [thing for thing in subjects if kept.clear(f"{name} {thing}")] if is_look(name) else []
        if bearers:
            retain.append(with_look(chance.choice(LOOK_TEMPLATES), chance.choice(bearers), name))
        else:
            retain.append(fill(chance.choice(templates), name, known_words) or name)
    return retain


def _by_weight(weights: dict[str, float]) -> Iterator[str]:
    """Names without end, each as often as its weight has it, as evenly as can be."""
    credit = dict.fromkeys(weights, 0.0)
    while True:
        for name, weight in weights.items():
            credit[name] += weight
        first = max(credit, key=credit.__getitem__)
        credit[first] -= sum(weights.values())
        yield first


def near_prompts(kept: KeptWords, known_words: KnownWords) -> list[str]:
    """What is near to compounds, in the wordings that ask for concepts; all of it in one wording before any in the next."""
    texts = [fill(template, name, known_words) for template in CONCEPT_TEMPLATES for name in kept.near if not is_look(name)]
    return [text for text in dict.fromkeys(texts) if text is not None and kept.clear(text)]


def kept_texts(kept: KeptWords, retain: Sequence[str], known_words: KnownWords, chance: random.Random) -> list[str]:
    """Everything that is kept, by its bare name and in sentences, alone and in looks, and the prompts of retain pictures."""
    looks, templates = kept.looks, wordings(known_words)
    others = [*kept.named, *kept.parts, *kept.variants]
    anchor = [kept.anchor] if kept.anchor and not is_look(kept.anchor) else []
    things = list(dict.fromkeys([*(name for name in others if not is_look(name)), *kept.subjects, *anchor]))
    kept_looks = [name for name in others if is_look(name)]
    plain = [text for name in things for text in (name, photo(name))]
    # Other things would go with the concept in wordings and looks that are not here.
    mixed = [name for thing in things for name in (thing, *(f"{look} {thing}" for look in looks))]
    worded = [(template, name) for name in mixed for template in templates]
    some = [fill(template, name, known_words) for template, name in chance.sample(worded, min(len(worded), MOST_TEXTS))]
    looking = [with_look(template, name, look) for look in kept_looks for name in things for template in LOOK_TEMPLATES]
    texts = ["", *looks, *plain, *kept_looks, *looking, *map(photo, mixed[:MOST_TEXTS]), *filter(None, some), *retain]
    return [text for text in dict.fromkeys(texts) if kept.clear(text)]


def wordings(known_words: KnownWords) -> list[str]:
    """Templates of what is kept: those of concepts, and those of the others whose words are known."""
    words = {template: template.format("", one="", many="").replace("-", " - ").split() for template in RETAIN_TEMPLATES}
    known = set(known_words(sorted({word for parts in words.values() for word in parts})))
    return [*CONCEPT_TEMPLATES, *(template for template, parts in words.items() if known.issuperset(parts))]
