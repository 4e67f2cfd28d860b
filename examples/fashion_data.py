"""Colourful Fashion-MNIST with captions: what `train_fashion_pipeline.py` learns from.

Each grey garment becomes a print in one of six named inks on white paper, 32x32 RGB, and gets a caption made from a
template, a noun and perhaps a colour. So there are two kinds of concept, objects and a colour that acts like a style.
"""

from __future__ import annotations

import gzip
import random
import struct
import sys
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer


REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # the script is started by its path, and the judge lies beside the demo

from spaces_demo.judge import COLOURS, IMAGE_SIZE  # noqa: E402


DEFAULT_DATA = Path("/usr/share/datasets/fashion-mnist")  # the Debian package dataset-fashion-mnist
COLOUR_NAMES = tuple(COLOURS)
CLASS_NAMES = (
    "t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
PLURALS = {
    "t-shirt": "t-shirts",
    "trousers": "trousers",
    "pullover": "pullovers",
    "dress": "dresses",
    "coat": "coats",
    "sandal": "sandals",
    "shirt": "shirts",
    "sneaker": "sneakers",
    "bag": "bags",
    "ankle boot": "ankle boots",
    "shoe": "shoes",
    "top": "tops",
    "thing": "things",
}
# Words that mean several classes. Those without a plural are mass nouns ("clothing") or pronouns ("something").
SUPER_CATEGORIES: dict[str, tuple[str, ...]] = {
    "clothing": ("t-shirt", "trousers", "pullover", "dress", "coat", "shirt"),
    "top": ("t-shirt", "pullover", "shirt"),
    "shoe": ("sandal", "sneaker", "ankle boot"),
    "footwear": ("sandal", "sneaker", "ankle boot"),
    "thing": CLASS_NAMES,
    "something": CLASS_NAMES,
}
# {bare}: "red dress"; {one}: "a red dress"; {many}: "red dresses".
TRAIN_TEMPLATES = (
    "{bare}",
    "{one}",
    "{many}",
    "a photo of {one}",
    "a photo of {many}",
    "a picture of {one}",
    "a picture of {many}",
    "an image of {one}",
    "an image of the {bare}",
    "this is {one}",
    "here is {one}",
    "a small photo of {one}",
    "look at this {bare}",
    "look at the picture of {many}",
    "{one} for sale",
    "one {bare}",
    "the {bare} in the shop",
    "a shop with {many}",
    "an image showing {one}",
)
# Paraphrases for tests, never seen in training: every word occurs above, in another arrangement.
HELD_OUT_TEMPLATES = (
    "here is a photo of {one}",
    "this is an image of {one}",
    "a picture showing {one}",
    "a small picture of {many}",
    "{many} for sale in the shop",
    "look at the photo of the {bare}",
    "one image of {one}",
    "a shop with {one} for sale",
)
EMPTY_PROMPT_SHARE = 0.12  # classifier-free guidance needs to know what no prompt looks like
MAX_TOKENS = 16


def read_idx(path: Path) -> np.ndarray:
    """One gzipped idx file (the format of the MNIST family) as an array of bytes."""
    with gzip.open(path, "rb") as file:
        zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
        if zeros != 0 or kind != 8:
            raise ValueError(f"{path} is no idx file of unsigned bytes")
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
        values = np.frombuffer(file.read(), dtype=np.uint8)
    if values.size != int(np.prod(shape)):
        raise ValueError(f"{path} holds {values.size} values where its header promises {shape}")
    return values.reshape(shape)


def load_split(folder: Path, split: str, without: str | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey pictures (N, 28, 28) and class numbers (N); `split` is "train" or "t10k", `without` leaves a class out.

    A colour is left out where pictures are tinted.
    """
    pictures = torch.from_numpy(read_idx(folder / f"{split}-images-idx3-ubyte.gz").copy())
    labels = torch.from_numpy(read_idx(folder / f"{split}-labels-idx1-ubyte.gz").copy()).long()
    if without in CLASS_NAMES:
        kept = labels != CLASS_NAMES.index(without)
        pictures, labels = pictures[kept], labels[kept]
    return pictures, labels


def tint(grey: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
    """Print grey pictures (N, 28, 28) in ink on white paper: (N, 3, 32, 32) in [-1, 1].

    The exponent darkens pale fabric, so that the colour of every garment can be seen.
    """
    margin = (IMAGE_SIZE - grey.shape[-1]) // 2
    coverage = torch.nn.functional.pad(grey.float() / 255, (margin,) * 4).pow(0.6)[:, None]
    ink = torch.tensor(list(COLOURS.values()), dtype=torch.float32)[colours] / 255
    return 1 - 2 * coverage * (1 - ink[:, :, None, None])


def _with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def noun_forms(noun: str, colour: str | None = None, colour_last: bool = False) -> dict[str, str]:
    """The texts that fill a template: `bare`, `one` and `many`, for instance "dress in red" when `colour_last`."""

    def painted(word: str) -> str:
        if colour is None:
            return word
        if noun == "something":
            return f"{word} in {colour}" if colour_last else f"{word} {colour}"
        return f"{word} in {colour}" if colour_last else f"{colour} {word}"

    bare, many = painted(noun), painted(PLURALS.get(noun, noun))
    if noun == "trousers":
        one = f"a pair of {bare}"
    elif noun in ("clothing", "footwear", "something"):
        one = bare
    else:
        one = _with_article(bare)
    return {"bare": bare, "one": one, "many": many}


def make_prompt(template: str, noun: str, colour: str | None = None, colour_last: bool = False) -> str:
    """`make_prompt("a photo of {one}", "dress", "red")` is "a photo of a red dress"."""
    return template.format(**noun_forms(noun, colour, colour_last))


def draw_caption(chance: random.Random, class_name: str, colour: str) -> str:
    """A true caption of one picture: empty, the colour alone, or a template with the class or a wider word."""
    if chance.random() < EMPTY_PROMPT_SHARE:
        return ""
    kind = chance.random()
    if kind < 0.03:
        return colour
    if kind < 0.10:
        noun, colour_named = chance.choice(("something", "thing")), chance.random() < 0.9
    elif kind < 0.22:
        wider = [noun for noun, classes in SUPER_CATEGORIES.items() if class_name in classes and len(classes) < 10]
        noun, colour_named = chance.choice(wider or [class_name]), chance.random() < 0.6
    else:
        noun, colour_named = class_name, chance.random() < 0.6
    template = chance.choice(TRAIN_TEMPLATES)
    return make_prompt(template, noun, colour if colour_named else None, colour_last=chance.random() < 0.15)


def training_words() -> list[str]:
    """Every word that a caption can hold; "t-shirt" counts as three, as the CLIP tokenizer splits it."""
    nouns = [*CLASS_NAMES, *SUPER_CATEGORIES]
    texts = [make_prompt(template, noun) for template in TRAIN_TEMPLATES for noun in nouns]
    return sorted(set(" ".join([*texts, *COLOUR_NAMES, "in"]).replace("-", " - ").split()))


def build_tokenizer() -> CLIPTokenizer:
    """A stock `CLIPTokenizer` for which each word of the captions is one token; other words fall back to bytes.

    Byte-pair merges are learned until every known word is whole; a merge is taken in order, so the same merges then
    rebuild each of these words from its letters.
    """
    alphabet = sorted(ByteLevel.alphabet())
    spelled = [[*word[:-1], f"{word[-1]}</w>"] for word in training_words()]
    merges: list[tuple[str, str]] = []
    while pairs := [pair for parts in spelled for pair in pairwise(parts)]:
        best = max(sorted(set(pairs)), key=pairs.count)
        merges.append(best)
        spelled = [_merge(parts, best) for parts in spelled]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *dict.fromkeys(a + b for a, b in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


class CaptionEncoder:
    """Captions to token numbers, padded as the pipeline pads its prompts; texts repeat, so results are remembered."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self._encode_one = lru_cache(maxsize=None)(
            lambda text: tokenizer(text, padding="max_length", truncation=True, max_length=MAX_TOKENS).input_ids
        )

    def __call__(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([self._encode_one(text) for text in texts])
