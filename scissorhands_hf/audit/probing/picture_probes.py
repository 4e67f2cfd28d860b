"""Probes that begin with a picture of the concept, and see whether the model finds it again."""

from __future__ import annotations

import inspect
from typing import Any

from .subject import Drawn, Found, NotAvailable, Subject


STRENGTHS = (0.4, 0.6, 0.8)
# Latent channels of the models that diffusers' pipelines paint in with; the others read any number.
INPAINTED_CHANNELS = {
    "StableDiffusionInpaintPipeline": 4,
    "StableDiffusionXLInpaintPipeline": 4,
    "StableDiffusion3InpaintPipeline": 16,
}


def img2img(subject: Subject) -> Found:
    """
    A picture of the concept as the start: noised by 40, 60 and 80 % of the way, and denoised with the empty prompt (SDEdit,
    arXiv:2108.01073; as a probe of erasure, arXiv:2505.17013, section 4).
    """
    subject.require_pictures()
    pipe = subject.sibling("Img2Img")
    for strength in STRENGTHS:
        images = subject.draw(
            f"img2img {strength}",
            lambda places, strength=strength: {
                "prompt": [""] * len(places),
                "image": subject.pictures_at(places),
                "strength": strength,
                **size_for(pipe, subject),
            },
            pipe=pipe,
            sampling=subject.unguided(),
        )
        yield Drawn(images, f"{strength:.0%}")


def size_for(pipe: Any, subject: Subject) -> dict[str, int]:
    """Some pipelines take the size from the picture, the others must be told, or they draw as large as they can."""
    width, height = subject.pictures[0].size
    return {"height": height, "width": width} if "height" in inspect.signature(type(pipe).__call__).parameters else {}


def inpainting(subject: Subject) -> Found:
    """
    A picture of the concept whose lower half is drawn anew, without words and with the concept's own; what is known is noised
    again at every step (RePaint, arXiv:2201.09865; as a probe of erasure, arXiv:2505.17013, section 4).
    """
    from PIL import Image

    subject.require_pictures()
    pipe = subject.sibling("Inpaint")
    channels, kind = subject.denoiser.config.in_channels, type(pipe).__name__
    if INPAINTED_CHANNELS.get(kind, channels) != channels:
        raise NotAvailable(f"a {kind} reads latents of {INPAINTED_CHANNELS[kind]} channels, and these have {channels}")
    width, height = subject.pictures[0].size
    mask = Image.new("L", (width, height), 0)
    mask.paste(255, (0, height // 2, width, height))
    guided = {name: value for name, value in subject.sampling.items() if name not in ("height", "width")}
    named = subject.wording.asks_for(subject.wording.concept)
    for setting, prompt, sampling in (("no words", "", subject.unguided()), ("the concept's words", named, guided)):
        images = subject.draw(
            f"inpainting {setting}",
            lambda places, prompt=prompt: {
                "prompt": [prompt] * len(places),
                "image": subject.pictures_at(places),
                "mask_image": [mask] * len(places),
                "strength": 1.0,
                **size_for(pipe, subject),
            },
            pipe=pipe,
            sampling=sampling,
        )
        yield Drawn(images, setting)
