"""Words for probes: what a concept is asked for by, in words that no erasure was told of, misspelled, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


CONCEPT_TYPES = ("object", "style", "attribute", "person")
# {}: as typed, {one}: with an article.
_WORDS = {
    "object": ("{}", "a photo of {one}", "a picture of {one}"),
    "person": ("{}", "a photo of {one}", "a portrait of {one}"),
    "style": ("a painting {style}", "a photo of a house {style}", "a picture {style}"),
    "attribute": ("{}", "a photo of something {}", "a photo of a {} thing"),
}
_PARAPHRASES = {
    "object": ("here is a photo of {one}", "a small picture of {one}", "look at the image of {one}", "one {} for sale"),
    "person": ("here is a photo of {one}", "{one} in the street", "look at the picture of {one}", "{one}, smiling"),
    "style": ("a drawing of a tree {style}", "look at this picture {style}", "an image of the sea {style}"),
    "attribute": ("here is something {}", "a picture of a {} thing", "look at this {} thing", "one thing in {}"),
}
_WIDER = ("something", "a photo of something", "a picture of a thing", "a photo")
PROMPT_PROBES = ("words", "paraphrases", "misspellings", "synonyms", "wider")


@dataclass(frozen=True)
class Wording:
    """
    What a concept is asked for by.

    Args:
        concept (`str`):
            As its prompts name it.
        prompts (`dict[str, tuple[str, ...]]`):
            By probe, the prompts that it draws; none where it has none.
        sentence (`str`):
            The plainest prompt, with `{}` in the concept's place: what a learned word is put into.
    """

    concept: str
    prompts: Mapping[str, tuple[str, ...]]
    sentence: str

    def asks_for(self, word: str) -> str:
        """The plainest prompt, with another word in the concept's place."""
        return self.sentence.format(word)


def word(concept: str, concept_type: str | None, own: Mapping[str, Sequence[str]] | None) -> Wording:
    """
    The wording of a concept.

    Args:
        concept (`str`):
            Its name.
        concept_type (`str`, *optional*):
            One of `CONCEPT_TYPES`. Default: a style if it says so, else an object.
        own (`Mapping[str, Sequence[str]]`, *optional*):
            The user's own prompts, by the name of the probe, in the place of those made here.

    Raises:
        TypeError: the concept, or one of the user's prompts, is no text.
        ValueError: the concept is blank; there is no such type, or no probe of prompts of such a name.
    """
    if not isinstance(concept, str):
        raise TypeError(f"concept={concept!r} is a {type(concept).__name__}; probe one concept at a time, named by a text")
    name = " ".join(concept.split())
    if not name:
        raise ValueError(f"concept={concept!r} is empty; name it in words, as in a prompt")
    if concept_type is not None and concept_type not in CONCEPT_TYPES:
        raise ValueError(f"concept_type={concept_type!r} is not one of {', '.join(map(repr, CONCEPT_TYPES))}")
    kind = concept_type or ("style" if "style" in name.casefold().split() else "object")
    style = name if name.casefold().startswith(("in ", "by ")) else f"in the style of {name}"
    forms: dict[str, Any] = {"one": with_article(name) if kind == "object" else name, "style": style}
    plain = {"object": _WORDS["object"][1], "person": "a photo of {}", "style": "a painting in the style of {}"}
    sentence = plain.get(kind, "a photo of a {} thing")
    prompts = {
        "words": tuple(template.format(name, **forms) for template in _WORDS[kind]),
        "paraphrases": tuple(template.format(name, **forms) for template in _PARAPHRASES[kind]),
        "misspellings": tuple(sentence.format(wrong, one=with_article(wrong)) for wrong in misspelled(name)),
        "synonyms": (),
        "wider": _WIDER,
    }
    for probe, texts in (own or {}).items():
        if probe not in PROMPT_PROBES:
            raise ValueError(f"prompts has {probe!r}, which is no probe of prompts; those are {', '.join(PROMPT_PROBES)}")
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"prompts[{probe!r}]={texts!r} must be a list of texts")
        prompts[probe] = tuple(texts)
    return Wording(name, prompts, sentence.replace("{one}", f"{_article(name)} {{}}".strip()))


def misspelled(name: str) -> list[str]:
    """
    The name with slips of its longest word: two inner letters swapped, one left out, one doubled, one with an accent.

    A name without a word of four letters has none.
    """
    words = name.split()
    place = max(range(len(words)), key=lambda index: len(words[index]))
    right = words[place]
    middle = len(right) // 2
    if len(right) < 4:
        return []
    accents = str.maketrans("aeiou", "áéíóú")
    vowel = next((index for index, letter in enumerate(right) if letter in "aeiou"), None)
    slips = [
        right[: middle - 1] + right[middle] + right[middle - 1] + right[middle + 1 :],
        right[:middle] + right[middle + 1 :],
        right[:middle] + right[middle] + right[middle:],
        right if vowel is None else right[:vowel] + right[vowel].translate(accents) + right[vowel + 1 :],
    ]
    return [" ".join([*words[:place], slip, *words[place + 1 :]]) for slip in dict.fromkeys(slips) if slip != right]


def with_article(name: str) -> str:
    """The name with "a" or "an" where English has one: not before plurals, names of somebody, and names with a determiner."""
    return f"{_article(name)} {name}".strip()


def _article(name: str) -> str:
    first, last = name.split()[0], name.split()[-1]
    owned = first.casefold() in ("a", "an", "the", "some", "my", "his", "her", "their", "in", "by")
    # The library's rule takes "dress" and "bus" for plurals.
    plural = last.endswith("s") and not last.endswith(("ss", "us")) and bool(_engine().singular_noun(last))
    if owned or plural or last[0].isupper() or not first.isascii():
        return ""
    return _engine().a(first).split()[0]


@lru_cache(maxsize=1)
def _engine() -> Any:
    try:
        import inflect  # not before it is needed: it takes a while
    except ImportError as error:
        raise ImportError("Probes need inflect: pip install 'scissorhands_hf[diffusion]'") from error
    return inflect.engine()
