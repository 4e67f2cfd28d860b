"""Probes that begin with a picture of the concept, and see whether the model finds it again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .subject import Subject


if TYPE_CHECKING:
    from .text_probes import Found

STRENGTHS = (0.4, 0.6, 0.8)


def img2img(subject: Subject) -> Found:
    """
    A picture of the concept as the start: noised by 40, 60 and 80 % of the way, and denoised with the empty prompt (SDEdit,
    arXiv:2108.01073; as a probe of erasure, arXiv:2505.17013, section 4).
    """
    subject.require_pictures()
    pipe = subject.sibling("Img2Img")
    for strength in STRENGTHS:
        yield (
            f"{strength:.0%}",
            subject.draw(
                f"img2img {strength}",
                lambda places, strength=strength: {
                    "prompt": [""] * len(places),
                    "image": subject.pictures_at(places),
                    "strength": strength,
                },
                pipe=pipe,
                sampling=subject.unguided(),
            ),
        )
