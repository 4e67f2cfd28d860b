"""Prompts of what must not change: neighbours that the user named, and everyday things and looks."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .words import (
    CONCEPT_TEMPLATES,
    GENERIC_LOOKS,
    GENERIC_SUBJECTS,
    LOOK_TEMPLATES,
    RETAIN_TEMPLATES,
    KnownWords,
    fill,
    is_look,
    mentions,
    photo,
    with_look,
)


MOST_TEXTS = 800
EMPTY_SHARE = 0.15  # of the retain prompts: guidance leans on what the model draws without words


@dataclass(frozen=True)
class KeptWords:
    """
    What prompts of a run may speak of beside its concepts.

    Args:
        named (`list[str]`):
            Neighbours that the user named.
        anchor (`str`, *optional*):
            What the concept's prompts are to show instead.
        erased_before (`list[str]`):
            Concepts of earlier runs, which are kept as the model draws them now.
        subjects, looks (`list[str]`):
            Everyday things, and looks, that the tokenizer knows.
    """

    named: list[str]
    anchor: str | None
    erased_before: list[str]
    subjects: list[str]
    looks: list[str]

    @classmethod
    def beside(
        cls,
        concepts: Sequence[str],
        named: Sequence[str],
        anchor: str | None,
        erased_before: Sequence[str],
        known_words: KnownWords,
    ) -> "KeptWords":
        """With the everyday words of which no concept is a part, and that are no part of one."""

        def usable(words: Iterable[str]) -> list[str]:
            clear = [w for w in words if not any(mentions(w, concept) or mentions(concept, w) for concept in concepts)]
            parts = sorted({part for word in clear for part in word.replace("-", " - ").split()})
            known = set(known_words(parts))
            return [word for word in clear if set(word.replace("-", " - ").split()) <= known]

        return cls(list(named), anchor, list(erased_before), usable(GENERIC_SUBJECTS), usable(GENERIC_LOOKS))


def retain_prompts(kept: KeptWords, count: int, known_words: KnownWords, chance: random.Random) -> list[str]:
    """`count` prompts for pictures of what is kept; without a name now and then, as guidance needs it."""
    templates = _templates(known_words)
    subjects, looks = kept.subjects, kept.looks
    wanted = [*kept.named, *([kept.anchor] if kept.anchor else [])]
    retain = []
    for number in range(count):
        if chance.random() < EMPTY_SHARE:
            retain.append("")
            continue
        # Half of the room is for what the user named, the rest for everything else.
        pool = wanted if wanted and (number % 2 or not subjects) else subjects
        if kept.erased_before and number % 4 == 0:
            pool = kept.erased_before
        if not pool:
            retain.append("")
            continue
        name = pool[(number // 2) % len(pool)] if pool is wanted else chance.choice(pool)
        if pool is subjects and looks and chance.random() < 0.5:
            name = f"{chance.choice(looks)} {name}"
        if is_look(name) and subjects:
            retain.append(with_look(chance.choice(LOOK_TEMPLATES), chance.choice(subjects), name))
        else:
            retain.append(fill(chance.choice(templates), name, known_words) or name)
    return retain


def kept_texts(kept: KeptWords, retain: Sequence[str], known_words: KnownWords, chance: random.Random) -> list[str]:
    """Everything that is kept, by its bare name and in sentences, alone and in looks, and the prompts of retain pictures."""
    looks, templates = kept.looks, _templates(known_words)
    things = [*(name for name in kept.named if not is_look(name)), *kept.subjects]
    kept_looks = [name for name in kept.named if is_look(name)]
    plain = [text for name in things for text in (name, photo(name))]
    # Other things would go with the concept in wordings and looks that are not here.
    mixed = [name for thing in things for name in (thing, *(f"{look} {thing}" for look in looks))]
    worded = [(template, name) for name in mixed for template in templates]
    some = [fill(template, name, known_words) for template, name in chance.sample(worded, min(len(worded), MOST_TEXTS))]
    looking = [with_look(template, name, look) for look in kept_looks for name in things for template in LOOK_TEMPLATES]
    return list(
        dict.fromkeys(
            ["", *looks, *plain, *kept_looks, *looking, *map(photo, mixed[:MOST_TEXTS]), *filter(None, some), *retain]
        )
    )


def _templates(known_words: KnownWords) -> list[str]:
    """The concept's own, and those of the others whose words are known."""
    words = {template: template.format("", one="", many="").replace("-", " - ").split() for template in RETAIN_TEMPLATES}
    known = set(known_words(sorted({word for parts in words.values() for word in parts})))
    return [*CONCEPT_TEMPLATES, *(template for template, parts in words.items() if known.issuperset(parts))]
