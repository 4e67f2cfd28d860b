"""What a concept is called: checks on its name, the prompts that ask for it, and the prompts that must not change."""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from .families import Family


# {}: the concept as typed; {one}: with an article; {many}: in the plural. Style and object prompts alike.
CONCEPT_TEMPLATES = (
    "{}",
    "{one}",
    "{many}",
    "a photo of {one}",
    "a photo of {}",
    "a picture of {one}",
    "a picture of {many}",
    "an image of {one}",
    "the {}",
)
# What is kept is kept in more than the concept's wordings: those of these whose words the tokenizer knows are used as well.
RETAIN_TEMPLATES = (
    "this is {one}",
    "here is {one}",
    "look at this {}",
    "an image showing {one}",
    "a small photo of {one}",
    "the {} in the shop",
    "{one} for sale",
    "a close-up of {one}",
    "a painting of {one}",
    "a drawing of {many}",
    "{one} in the street",
    "{many} on a table",
    "a person with {one}",
)
# Used for the report alone: no run trains on these.
PARAPHRASE_TEMPLATES = ("this is an image of {one}", "a picture showing {one}", "look at the photo of the {}")
# Everyday things and looks for models of everything. Basic-level words on purpose: "animal" would bring back an erased dog.
GENERIC_SUBJECTS = (
    "apple", "backpack", "bag", "ball", "banana", "beach", "bear", "bed", "belt", "bench", "bicycle", "bird", "boat", "book",
    "boot", "bottle", "bowl", "boy", "bread", "bridge", "bus", "cake", "camera", "car", "carrot", "castle", "cat", "chair",
    "church", "city", "clock", "coat", "computer", "couch", "cow", "cup", "desert", "dog", "door", "dress", "duck", "elephant",
    "fish", "flower", "forest", "fork", "garden", "giraffe", "girl", "glass", "guitar", "hat", "helmet", "horse", "hotel",
    "house", "island", "jacket", "jeans", "kitchen", "knife", "lake", "lamp", "lion", "man", "mountain", "ocean",
    "oven", "park", "phone", "piano", "pizza", "plate", "pullover", "rabbit", "river", "road", "robot", "sandal", "sandwich",
    "scarf", "sheep", "ship", "shirt", "skirt", "sneaker", "sock", "spoon", "street", "suit", "suitcase", "sweater", "table",
    "t-shirt", "teddy bear", "tiger", "toaster", "tower", "train", "tree", "trousers", "truck", "umbrella", "vase", "village",
    "violin", "watch", "window", "wine", "woman", "zebra", "ankle boot",
)  # fmt: skip
GENERIC_LOOKS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white", "small", "old")
# A concept that is one of these, or says "style", is how things look: it is erased from the things that have it.
LOOKS = (
    *GENERIC_LOOKS, "pink", "brown", "grey", "gray", "golden", "silver", "big", "large", "new", "young", "dark", "bright",
    "shiny", "striped", "wooden", "vintage", "modern", "abstract", "blurry",
)  # fmt: skip
LOOK_TEMPLATES = ("{}", "a photo of {one}")
MOST_TEXTS = 800
EMPTY_SHARE = 0.15  # of the retain prompts: guidance leans on what the model draws without words
_MASS_OR_PLURAL = ("trousers", "jeans", "bread", "wine", "glass")


@dataclass(frozen=True)
class ConceptPrompts:
    """
    Prompts of one run.

    Args:
        concepts, anchor: as the user named them.
        instead: what pictures are to show in the place of each concept; "" for nothing in particular.
        forget, anchors: prompts to change, and what each is redirected to.
        edits: prompts and those whose answer text layers are to give instead.
        retain: prompts to keep, one for each retain picture.
        kept_texts: prompts whose answers text layers are to keep.
        report: prompt, group and label of what only the report draws.
    """

    concepts: list[str]
    anchor: str | None
    instead: dict[str, str]
    forget: list[str]
    anchors: list[str]
    edits: list[tuple[str, str]]
    retain: list[str]
    kept_texts: list[str]
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
) -> ConceptPrompts:
    """All prompts of a run; a function of its arguments.

    Args:
        concepts, anchor, keep: checked names.
        erased_before: concepts of earlier runs: their prompts are kept as the model draws them now.
        family: of the pipeline, for the words that its tokenizer knows.
        retain_count: prompts to keep, one for each retain picture.
        seed: of their choice.
        choose_anchor: without an anchor, let a related thing stand in for an object.
    """
    subjects, looks = _generic(concepts, family)
    others = [thing for thing in (*keep, *subjects) if not any(mentions(thing, gone) for gone in erased_before)]
    changes: dict[str, str] = {}
    edits: dict[str, str] = {}
    instead = {}
    for name in concepts:
        coloured: dict[str, str] = {}
        if is_look(name):
            other = anchor or ""
            own = {name: other} | _composed(name, other, subjects)
        else:
            other = anchor or (_stand_in(name, others, family) if choose_anchor else "")
            texts = {template: fill(template, name, family) for template in CONCEPT_TEMPLATES}
            own = {text: (fill(t, other, family) or other) if other else "" for t, text in texts.items() if text is not None}
            if other:
                coloured = {_photo(f"{look} {name}"): _photo(f"{look} {other}") for look in looks}
        instead[name] = other
        changes = own | changes
        # Beside the empty prompt, a sentence's words before the concept would have nothing to be answered by.
        edits |= {text: answer for text, answer in (own | coloured).items() if answer or text == name}
    templates = (*CONCEPT_TEMPLATES, *_known_templates(family))
    chance = random.Random(seed)
    wanted = [*keep, *([anchor] if anchor else [])]
    retain = []
    for number in range(retain_count):
        if chance.random() < EMPTY_SHARE:
            retain.append("")
            continue
        # Half of the room is for what the user named, the rest for everything else.
        pool = wanted if wanted and (number % 2 or not subjects) else subjects
        if erased_before and number % 4 == 0:
            pool = list(erased_before)
        if not pool:
            retain.append("")
            continue
        name = pool[(number // 2) % len(pool)] if pool is wanted else chance.choice(pool)
        if pool is subjects and looks and chance.random() < 0.5:
            name = f"{chance.choice(looks)} {name}"
        if is_look(name) and subjects:
            retain.append(_look_prompt(chance.choice(LOOK_TEMPLATES), chance.choice(subjects), name))
        else:
            retain.append(fill(chance.choice(templates), name, family) or name)
    return ConceptPrompts(
        concepts=list(concepts),
        anchor=anchor,
        instead=instead,
        forget=list(changes),
        anchors=list(changes.values()),
        edits=list(edits.items()),
        retain=retain,
        kept_texts=_kept_texts(keep, subjects, looks, templates, retain, family, chance),
        report=_report_prompts(concepts, keep, subjects, looks, family),
    )


def fill(template: str, name: str, family: Family | None = None) -> str | None:
    """A prompt from a template; None for a plural that the tokenizer would have to spell where it knows the name itself."""
    plural = _plural(name)
    if "{many}" in template and family is not None and plural != name:
        last, last_plural = name.split()[-1], plural.split()[-1]
        if family.known_words([last]) and not family.known_words([last_plural]):
            return None
    return template.format(name, one=_with_article(name), many=plural)


def is_look(name: str) -> bool:
    """Whether `name` says how things look, not what they are: a colour, "shiny", "in the style of Monet"."""
    return name.casefold() in LOOKS or re.search(r"\bstyle\b", name.casefold()) is not None


def mentions(text: str, name: str) -> bool:
    """Whether `text` contains the words of `name`, or their plural, in a row."""
    pattern = "|".join(re.escape(form.casefold()) for form in (name, _plural(name)))
    return re.search(rf"(?<!\w)(?:{pattern})(?!\w)", text.casefold()) is not None


def _generic(concepts: Sequence[str], family: Family) -> tuple[list[str], list[str]]:
    """Subjects and looks that the tokenizer knows as words and that no concept is part of, nor part of a concept."""

    def usable(words: Iterable[str]) -> list[str]:
        clear = [w for w in words if not any(mentions(w, concept) or mentions(concept, w) for concept in concepts)]
        parts = sorted({part for word in clear for part in word.replace("-", " - ").split()})
        known = set(family.known_words(parts))
        return [word for word in clear if set(word.replace("-", " - ").split()) <= known]

    return usable(GENERIC_SUBJECTS), usable(GENERIC_LOOKS)


def _composed(look: str, other: str, subjects: Sequence[str]) -> dict[str, str]:
    """Prompts for things that look like it, and for the same things with the other look, or none."""

    return {
        _look_prompt(template, subject, look): _look_prompt(template, subject, other)
        for subject in subjects
        for template in LOOK_TEMPLATES
    }


def _look_prompt(template: str, subject: str, look: str) -> str:
    """The subject with the look, if any, where sentences name such a look."""
    if look.casefold().startswith(("in ", "by ", "with ")):
        return f"{fill(template, subject)} {look}"
    if "style" in look.casefold():
        return f"{fill(template, subject)}, {look}"
    return fill(template, f"{look} {subject}".strip())


def _stand_in(name: str, things: Sequence[str], family: Family) -> str:
    """The thing that ends the nearest quarter, by mean squared distance of the text encoder's states; "" without any things.

    The nearest ones may be other words for the concept. The farther the way, the more the edit changes of the directions that
    wordings of other things go in which no prompt to keep was at hand for.
    """
    if not things:
        return ""
    names = [name, *dict.fromkeys(things)]
    parts = [family.encode_prompts([_photo(n) for n in names[i : i + 16]]) for i in range(0, len(names), 16)]
    states = torch.cat([part["encoder_hidden_states"].float() for part in parts])
    order = (states[1:] - states[:1]).square().flatten(1).mean(1).argsort().tolist()
    return names[1 + order[len(order) // 4]]


def _kept_texts(
    keep: Sequence[str],
    subjects: Sequence[str],
    looks: Sequence[str],
    templates: Sequence[str],
    retain: Sequence[str],
    family: Family,
    chance: random.Random,
) -> list[str]:
    """Everything that is kept, by its bare name and in sentences, alone and in looks, and the prompts of retain pictures."""
    things = [*(name for name in keep if not is_look(name)), *subjects]
    kept_looks = [name for name in keep if is_look(name)]
    plain = [text for name in things for text in (name, _photo(name))]
    # Other things would go with the concept in wordings and looks that are not here.
    mixed = [name for thing in things for name in (thing, *(f"{look} {thing}" for look in looks))]
    worded = [(template, name) for name in mixed for template in templates]
    some = [fill(template, name, family) for template, name in chance.sample(worded, min(len(worded), MOST_TEXTS))]
    looking = [_look_prompt(template, name, look) for look in kept_looks for name in things for template in LOOK_TEMPLATES]
    return list(
        dict.fromkeys(
            ["", *looks, *plain, *kept_looks, *looking, *map(_photo, mixed[:MOST_TEXTS]), *filter(None, some), *retain]
        )
    )


def _known_templates(family: Family) -> list[str]:
    words = {template: template.format("", one="", many="").replace("-", " - ").split() for template in RETAIN_TEMPLATES}
    known = set(family.known_words(sorted({word for parts in words.values() for word in parts})))
    return [template for template, parts in words.items() if known.issuperset(parts)]


def _report_prompts(
    concepts: Sequence[str], keep: Sequence[str], subjects: Sequence[str], looks: Sequence[str], family: Family
) -> list[tuple[str, str, str | None]]:
    rows: list[tuple[str, str, str | None]] = []
    for name in concepts:
        rows += [(_photo(name), "concept", name)]
        texts = [fill(template, name, family) for template in PARAPHRASE_TEMPLATES]
        rows += [(text, "paraphrase", name) for text in texts if text]
    for name in keep[:8]:
        look = is_look(name) and subjects
        rows.append((_look_prompt("a photo of {one}", subjects[0], name) if look else _photo(name), "kept", name))
    for number, name in enumerate(_spread(subjects, 6 if not keep else 2)):
        rows.append((_photo(name), "kept" if not keep else "neighbour", name))
        if looks and number % 2:
            look = looks[(number // 2) % len(looks)]
            rows.append((_photo(f"{look} {name}"), "kept" if not keep else "neighbour", name))
    return rows


def _spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` of the names, evenly over the list."""
    return list(dict.fromkeys(names[i * len(names) // count] for i in range(count))) if names else []


def _tidy(name: str) -> str:
    return " ".join(name.split())


def _photo(name: str) -> str:
    return f"a photo of {_with_article(name)}"


def _with_article(name: str) -> str:
    if name.split()[-1] in _MASS_OR_PLURAL:
        return name
    return f"{'an' if name[0].casefold() in 'aeiou' else 'a'} {name}"


def _plural(name: str) -> str:
    word = name.casefold()
    if name.split()[-1] in _MASS_OR_PLURAL or word.endswith(("ss", "s")) and not word.endswith("ss"):
        return name
    if word.endswith(("ss", "x", "ch", "sh", "z")):
        return f"{name}es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def _longest(name: str) -> str:
    return max((template.format(name, one=_with_article(name), many=_plural(name)) for template in CONCEPT_TEMPLATES), key=len)
