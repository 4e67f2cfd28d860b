"""English for prompts: plurals, articles, names inside texts, and how a look is worded. The words are in `words.yaml`."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml


_WORDS: dict[str, list[str]] = yaml.safe_load(resources.files(__package__).joinpath("words.yaml").read_text(encoding="utf-8"))

CONCEPT_TEMPLATES = tuple(_WORDS["concept_templates"])
RETAIN_TEMPLATES = tuple(_WORDS["retain_templates"])
PARAPHRASE_TEMPLATES = tuple(_WORDS["paraphrase_templates"])
PERSON_TEMPLATES = tuple(_WORDS["person_templates"])
LOOK_TEMPLATES = tuple(_WORDS["look_templates"])
GENERIC_SUBJECTS = tuple(_WORDS["generic_subjects"])
GENERIC_LOOKS = tuple(_WORDS["generic_looks"])
LOOKS = frozenset([*GENERIC_LOOKS, *_WORDS["other_looks"]])

_MASS_NOUNS, _PLURAL_ONLY, _SINGULAR, _PLURAL_IN_US, PREPOSITIONS, DETERMINERS = (
    frozenset(_WORDS[kind]) for kind in ("mass_nouns", "plural_only", "singular", "plural_in_us", "prepositions", "determiners")
)
# What the library's rules are made for: letters, with hyphens and apostrophes between them.
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")

KnownWords = Callable[[Sequence[str]], Iterable[str]]
"""Those of some words that a tokenizer knows as one token, as `Family.known_words` says."""


# ---- Templates ----


def fill(template: str, name: str, known_words: KnownWords | None = None) -> str | None:
    """
    A prompt from a template.

    Args:
        template (`str`):
            With `{}` for the name as it is, `{one}` for it with an article, `{many}` for its plural.
        name (`str`):
            Of a thing.
        known_words (*optional*):
            Of the pipeline's tokenizer.

    Returns:
        The prompt; None for a plural that the tokenizer would have to spell where it knows the name itself.
    """
    many = plural(name)
    if "{many}" in template and known_words is not None and many != name:
        one_head, many_head = _head_word(name), _head_word(many)
        if list(known_words([one_head])) and not list(known_words([many_head])):
            return None
    return template.format(name, one=with_article(name), many=many)


def photo(name: str) -> str:
    """The plainest prompt that asks for a thing."""
    return f"a photo of {with_article(name)}"


def is_look(name: str) -> bool:
    """Whether `name` says how things look, not what they are: a colour, "shiny", "in the style of Monet"."""
    return name.casefold() in LOOKS or re.search(r"\bstyle\b", name.casefold()) is not None


def with_look(template: str, thing: str, look: str) -> str:
    """The template filled with a thing that has the look, if any, where sentences name such a look."""
    if look.split()[:1] and look.split()[0].casefold() in PREPOSITIONS:
        return f"{fill(template, thing)} {look}"
    if "style" in look.casefold():
        return f"{fill(template, thing)}, {look}"
    return fill(template, f"{look} {thing}".strip())


# ---- Grammar ----


def plural(name: str) -> str:
    """
    The name with its head noun in the plural: "teddy bears", "bottles of wine".

    As it is stay plurals, mass nouns, names of somebody or something ("Mickey Mouse"), whatever begins with a preposition, and
    what the rules of English say nothing about: digits ("C-3PO"), signs, single letters, other scripts.
    """
    words = name.split()
    place = _head(words)
    if place is None or is_proper(words, place) or _plural_word(words[place]) == words[place]:
        return name
    words[place] = _plural_word(words[place])
    return " ".join(words[1:] if words[0].casefold() in ("a", "an") else words)


def with_article(name: str) -> str:
    """The name with "a" or "an", where English has one: none before mass nouns, plurals, names of somebody or something, and
    names that bring a determiner or begin with a preposition, or in another script."""
    words = name.split()
    place = _head(words)
    first = re.sub(r"^\W+", "", words[0]) if words else ""
    if place is None or not _latin(first) or words[0].casefold() in DETERMINERS:
        return name
    head, owned = words[place].casefold(), any(re.search(r"^[A-Z].*['’]s?$", word) for word in words[:place])
    if is_proper(words, place) or owned or head in _MASS_NOUNS or _is_plural(head):
        return name
    return f"{_article(first)} {name}"


def mentions(text: str, name: str) -> bool:
    """Whether `text` contains the words of `name` in a row, each in the singular or plural; case does not matter."""
    words, wanted = _parts(text), _parts(name)
    if not wanted:  # signs alone
        return name.casefold() in text.casefold()
    starts = range(len(words) - len(wanted) + 1)
    return any(all(map(_same_word, words[start : start + len(wanted)], wanted)) for start in starts)


def _parts(text: str) -> list[str]:
    return re.findall(r"\w+", unicodedata.normalize("NFC", text).casefold())


def _head(words: Sequence[str]) -> int | None:
    """Place of the noun that a name is about: the last before a preposition; None if it begins with one, or has no words."""
    ends = [place for place, word in enumerate(words) if word.casefold() in PREPOSITIONS]
    return (ends[0] if ends else len(words)) - 1 if words and 0 not in ends else None


def _head_word(name: str) -> str:
    words = name.split()
    place = _head(words)
    return name if place is None else words[place]


def is_proper(words: Sequence[str], place: int) -> bool:
    """Whether several words name somebody or something, as "Mickey Mouse" or "van Gogh" do: the noun has a capital."""
    head = words[place]
    return place > 0 and head[0].isupper() and not (head.isupper() and len(head) > 1)


@lru_cache(maxsize=65536)
def _plural_word(word: str) -> str:
    if word.casefold() in _MASS_NOUNS or _is_plural(word.casefold()):
        return word
    if len(word) == 1 or not _WORD.fullmatch(word) or not _latin(word):
        return word
    if word.isupper():  # an abbreviation
        return f"{word}s"
    return _engine().plural_noun(word) or word


@lru_cache(maxsize=65536)  # more than the words of most vocabularies, each of which is compared with each concept
def _singular_word(word: str) -> str:
    """Of a word in lower case; itself if it is a singular, or has none."""
    if word in _PLURAL_ONLY or word in _SINGULAR or not _WORD.fullmatch(word) or not _latin(word):
        return word
    if word.endswith("us") and word not in _PLURAL_IN_US or word.endswith(("ss", "sis", "xis", "itis", "polis")):
        return word
    if len(word) <= 3 and word.endswith("s"):
        return word
    return _engine().singular_noun(word) or word


def _is_plural(word: str) -> bool:
    return word in _PLURAL_ONLY or _singular_word(word) != word


def _same_word(first: str, second: str) -> bool:
    if first == second:
        return True
    if first in _PLURAL_ONLY or second in _PLURAL_ONLY:
        return False
    # Either way round: the library's singular of "selfies" is not the word whose plural it is.
    return _singular_word(first) == _singular_word(second) or _plural_word(first) == second or _plural_word(second) == first


def _article(word: str) -> str:
    """ "a" or "an", by the sound of a word; the library hears numbers only when they are spelled, and no accents."""
    digits = re.match(r"\d+", word)
    if digits is not None:
        # Years are read in pairs: "an 1800s dress".
        spelled = _engine().number_to_words(digits[0], group=2 if len(digits[0]) == 4 else 0)
        word = re.split(r"\W", spelled)[0]
    plain = "".join(letter for letter in unicodedata.normalize("NFD", word) if letter.isascii())
    return _engine().a(plain or "x").split()[0]


def _latin(word: str) -> bool:
    """Whether the first sign is a letter of the Latin script, or a digit."""
    return bool(word) and (word[0] in "0123456789" or unicodedata.name(word[0], "").startswith("LATIN "))


@lru_cache(maxsize=1)
def _engine() -> Any:
    try:
        import inflect  # not before it is needed: it takes a while
    except ImportError as error:
        raise ImportError("Prompts need inflect: pip install 'scissorhands_hf[diffusion]'") from error
    return inflect.engine()
