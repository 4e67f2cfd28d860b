"""Prompts that the report draws before and after: the concept, the same in other words, and what is kept."""

from collections.abc import Mapping, Sequence

from .compounds import parts_of
from .concept_types import LOOK_TYPES, look_wordings
from .kept_prompts import KeptWords
from .words import LOOKS, PARAPHRASE_TEMPLATES, KnownWords, fill, is_look, photo, with_look


# A look is asked of that many things in the plainest words.
LOOK_THINGS = 3
NAMED_SHOWN = 8
# Of a compound: its parts and what shares all words with it but one; a look among them is asked of that many things.
PARTS_SHOWN, VARIANTS_SHOWN, PART_THINGS = 8, 4, 2


def report_prompts(
    concepts: Sequence[str],
    kept: KeptWords,
    known_words: KnownWords,
    instead: Sequence[str] = (),
    types: Mapping[str, str] | None = None,
) -> list[tuple[str, str, str | None]]:
    """Prompt, group and label of each, as `AuditPrompt` takes them; the label of a concept is always the concept. What is shown
    `instead` of concepts is kept, and drawn, like the parts of compounds. `types` of the concepts are of `CONCEPT_TYPES`."""
    rows: list[tuple[str, str, str | None]] = []
    for name in concepts:
        kind = None if types is None else types[name]
        rows += [(text, "concept", name) for text in _plainest(name, _spread(kept.subjects, LOOK_THINGS), kind)]
        rows += [(text, "paraphrase", name) for text in paraphrases(name, kept.subjects, known_words, concept_type=kind)]
    for name in kept.named[:NAMED_SHOWN]:
        rows += [(text, "kept", name) for text in _plainest(name, kept.subjects[:1])]
    near = [*kept.parts[:PARTS_SHOWN], *_some(instead), *kept.variants[:VARIANTS_SHOWN]]
    for name in dict.fromkeys(near):
        bearers = [thing for thing in kept.subjects if kept.clear(f"{name} {thing}")]
        rows += [(text, "kept", name) for text in _plainest(name, _spread(bearers, PART_THINGS)) if kept.clear(text)]
    others = "neighbour" if kept.named else "kept"
    for number, name in enumerate(_spread(kept.subjects, 2 if kept.named else 6)):
        rows.append((photo(name), others, name))
        if kept.looks and number % 2:
            look = kept.looks[(number // 2) % len(kept.looks)]
            rows.append((photo(f"{look} {name}"), others, name))
    asked: dict[str, tuple[str, str, str | None]] = {}
    for row in rows:
        if row[1] in ("concept", "paraphrase") or kept.clear(row[0]):
            asked.setdefault(row[0], row)
    return list(asked.values())


def paraphrases(
    concept: str,
    things: Sequence[str] = (),
    known_words: KnownWords | None = None,
    extra_templates: Sequence[str] = (),
    concept_type: str | None = None,
) -> list[str]:
    """
    Wordings of a concept that its erasure did not train on.

    Args:
        concept (`str`):
            What was erased. A look is asked of things: "this is an image of a red coat".
        things (*optional*):
            To ask a look of, which the pipeline's tokenizer knows, each template with one of them in turn. Without any,
            nothing but the look itself can be asked for.
        known_words (*optional*):
            Of the pipeline's tokenizer: plurals that it would have to spell are left out.
        extra_templates (*optional*):
            To use as well; with `{}`, `{one}` or `{many}` for the concept.
        concept_type (`str`, *optional*):
            What it is, as `report.edit["types"]` says; default: by its words.

    Returns:
        The prompts, each once.
    """
    templates = (*PARAPHRASE_TEMPLATES, *extra_templates)
    things = [thing for thing in things if not is_look(thing)]
    look = _as_look(concept, concept_type)
    if look is None:
        texts = [fill(template, concept, known_words) for template in templates]
    elif things:
        # Two colours of one thing contradict each other.
        apt = [template for template in templates if not LOOKS.intersection(template.split())]
        names = _spread(things, len(apt))
        texts = [with_look(template, names[number % len(names)], look) for number, template in enumerate(apt)]
    else:
        texts = [concept]
    return list(dict.fromkeys(text for text in texts if text))


def _plainest(name: str, things: Sequence[str], concept_type: str | None = None) -> list[str]:
    """A photo of it; of a look, of the things that have it."""
    look = _as_look(name, concept_type)
    if look is None:
        return [f"a photo of {name}" if concept_type == "person" else photo(name)]
    return [with_look("a photo of {one}", thing, look) for thing in things] or [look]


def _as_look(name: str, concept_type: str | None) -> str | None:
    """How a look is worded; None for what is none."""
    if concept_type is None:
        return name if is_look(name) else None
    compound = concept_type == "attribute" and parts_of(name)
    return look_wordings(name, concept_type)[0] if concept_type in LOOK_TYPES and not compound else None


def _some(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name][:NAMED_SHOWN]


def _spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` of the names, evenly over the list."""
    return list(dict.fromkeys(names[i * len(names) // count] for i in range(count))) if names else []
