"""Captions of whatever words a tokenizer knows: what is kept is not only what a list of English nouns speaks of."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .words import DETERMINERS, GENERIC_LOOKS, GENERIC_SUBJECTS, PREPOSITIONS, KnownWords, fill


MOST_WORDS = 10  # in a caption
CAPTIONS_OF_A_WORD = 25  # of few words, more captions would only say the same again
TEMPLATE_EVERY = 4  # one caption in so many is a sentence around one word
COMMON_SHARE = 0.5  # of the words are drawn from the front of the vocabulary rather than from all of it alike
TRIES = 4  # for each caption


def vocabulary_words(tokenizer: Any, known_words: KnownWords) -> list[str]:
    """
    All words that a tokenizer knows as one token.

    Args:
        tokenizer (`Any`):
            Of transformers.
        known_words (`KnownWords`):
            Those of some words that are one token to it.

    Returns:
        In the order of the tokens, which in learned vocabularies begin with the most frequent ones: words of two letters or
        more, in any script; no numbers, no special tokens, and no pieces that words are spelled with. Where the vocabulary
        cannot be read, or has none, the everyday words of `words.yaml`.
    """
    special = set(tokenizer.all_special_ids)
    try:
        texts = tokenizer.batch_decode([[number] for number in range(len(tokenizer)) if number not in special])
    except (NotImplementedError, TypeError):  # a tokenizer that has no table of tokens, as one of bytes
        texts = []
    # A piece looks like a word when it is read alone; written as a word it is another token, or several.
    words = dict.fromkeys(text.strip() for text in texts)
    known = list(known_words([word for word in words if len(word) > 1 and word.isalpha()]))
    return known or [*GENERIC_SUBJECTS, *GENERIC_LOOKS]


def own_words(name: str) -> list[str]:
    """Words that belong to a name: "Van", "Gogh"; "Monet" of "in the style of Monet"."""
    return [word for word in name.split() if word.casefold() not in PREPOSITIONS | DETERMINERS | {"style"}]


def vocabulary_captions(
    words: Sequence[str],
    count: int,
    clear: Callable[[str], bool],
    templates: Sequence[str],
    known_words: KnownWords,
    most_words: int,
    chance: random.Random,
) -> list[str]:
    """
    Captions of words by chance, to be kept.

    Half of the words are taken from all of them alike, half by rank as they are in texts (each half of the ranks' logarithms as
    often), so that the common ones are there beside the rare. Three in four captions are words in a row, of any number; the
    others a sentence around one word.

    Args:
        words (`Sequence[str]`):
            The most frequent first.
        count (`int`):
            Captions, no more than 25 times the words.
        clear (`Callable[[str], bool]`):
            Whether a caption may be kept.
        templates (`Sequence[str]`):
            Sentences, for [`fill`].
        known_words (`KnownWords`):
            Of the pipeline's tokenizer.
        most_words (`int`):
            ≥ 1, in a caption.
        chance (`random.Random`):
            Of the choice.

    Returns:
        Different captions, `count` of them where so many can be made.
    """
    captions: dict[str, None] = {}
    longest, count = min(MOST_WORDS, most_words), min(count, CAPTIONS_OF_A_WORD * len(words))
    for number in range(TRIES * count):
        if len(captions) == count:
            break
        if number % TEMPLATE_EVERY:
            text = " ".join(_pick(words, chance) for _ in range(chance.randint(1, longest)))
        else:
            text = fill(chance.choice(templates), _pick(words, chance), known_words) or ""
        if text and clear(text):
            captions[text] = None
    return list(captions)


def _pick(words: Sequence[str], chance: random.Random) -> str:
    if chance.random() < COMMON_SHARE:
        return words[int(len(words) ** chance.random()) - 1]
    return chance.choice(words)


def with_captions_of(given: Iterable[str], made: Sequence[str], clear: Callable[[str], bool], seed: int) -> list[str]:
    """`made`, of which captions that somebody `given` take the places, of no more than half; by chance, if they are more."""
    own = [text for text in dict.fromkeys(given) if text and clear(text)]
    room = len(made) // 2
    if len(own) > room:
        own = random.Random(seed).sample(own, room)
    return [*own, *made[len(own) :]]
