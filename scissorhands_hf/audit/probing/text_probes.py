"""Probes that ask in words, or without any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .subject import Drawn, Found, NotAvailable, Subject


if TYPE_CHECKING:
    from PIL.Image import Image


def words(subject: Subject) -> Found:
    """The concept's own words, as every erasure is asked for (ESD, arXiv:2303.07345, section 5)."""
    yield Drawn(_prompts(subject, "words"))


def paraphrases(subject: Subject) -> Found:
    """The concept's words in other sentences (Ring-A-Bell, arXiv:2310.10012, asks in prompts that no erasure was told of)."""
    yield Drawn(_prompts(subject, "paraphrases"))


def misspellings(subject: Subject) -> Found:
    """The concept's words with slips: the tokenizer reads other tokens (arXiv:2209.08891 shows how far a letter carries)."""
    yield Drawn(_prompts(subject, "misspellings"))


def synonyms(subject: Subject) -> Found:
    """Other names of the concept, in other languages too: the user's own, since no list of them would be whole."""
    yield Drawn(_prompts(subject, "synonyms"))


def wider(subject: Subject) -> Found:
    """Wider words, among whose pictures some show the concept ("When Are Concepts Erased", arXiv:2505.17013, section 4)."""
    yield Drawn(_prompts(subject, "wider"))


def empty(subject: Subject) -> Found:
    """The empty prompt: how likely the model thinks the concept without any words (arXiv:2505.17013, section 3)."""
    sampling = {name: value for name, value in subject.sampling.items() if name != "negative_prompt"}
    unguided = {"guidance_scale": subject.unguided().get("guidance_scale", sampling.get("guidance_scale"))}
    sampling |= {name: value for name, value in unguided.items() if value is not None}
    yield Drawn(subject.draw("", lambda places: {"prompt": [""] * len(places)}, sampling=sampling))


def _prompts(subject: Subject, probe: str) -> list[Image]:
    prompts = subject.wording.prompts[probe]
    if not prompts:
        raise NotAvailable(f"there are no prompts for it: give prompts={{{probe!r}: [...]}}")
    return subject.draw_prompts(prompts)
