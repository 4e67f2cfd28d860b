"""Probes that change weights, and put them back: training on the concept's pictures, and rounding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..rounding import round_to_nearest
from ..untouched import undisturbed, weights_kept
from .denoising import fit
from .subject import Drawn, Found, NotAvailable, Subject


RELEARN_STEPS = (10, 25, 50, 100)
RELEARN_RATE = 1e-4
BITS = (8, 4)


def relearning(subject: Subject) -> Found:
    """
    How fast the concept is learned again under its own word, and under one that the model knows nothing of: plain fine-tuning
    of the denoiser on the attacker's pictures, Adam of rate 1e-4 (as in "Erased or Dormant?", arXiv:2505.16174).
    """
    latents, denoising, unet = subject.latents, subject.denoising, subject.pipe.unet
    if unet.dtype != torch.float32:
        raise NotAvailable(f"it trains the unet, whose weights are {unet.dtype}: load the pipeline in float32")
    for setting, word in (("same word", subject.wording.concept), ("new word", subject.new_word)):
        prompt = subject.wording.asks_for(word)
        drawn = [Drawn(subject.draw_prompts([prompt]), setting, 0)]
        with undisturbed(subject.pipe, seed=subject.seed), weights_kept(unet):
            unet.requires_grad_(True)
            with torch.no_grad():
                states = denoising.states([prompt])
            _relearn(subject, latents, states, prompt, setting, drawn)
        yield from drawn


def _relearn(subject: Subject, latents: Tensor, states: Tensor, prompt: str, setting: str, drawn: list[Drawn]) -> None:
    """Train, and draw where the curve is measured."""

    def draw(step: int) -> None:
        if step in RELEARN_STEPS:
            drawn.append(Drawn(subject.draw_prompts([prompt]), setting, step))

    fit(
        list(subject.pipe.unet.parameters()),
        lambda batch, generator: subject.denoising.loss(batch, states, generator),
        latents,
        steps=max(RELEARN_STEPS),
        rate=RELEARN_RATE,
        seed=subject.seed,
        after_step=draw,
    )


def rounding(subject: Subject) -> Found:
    """
    The denoiser's weights rounded to 8 and to 4 bits: what was moved but a little may come back (for language models,
    arXiv:2410.16454). Rounded to the nearest of equal steps, by output channel; what is computed stays in floating point.
    """
    denoiser = subject.denoiser
    for bits in BITS:
        with weights_kept(denoiser):
            round_weights(denoiser, bits)
            yield Drawn(subject.draw_prompts(subject.wording.prompts["words"], f"rounded to {bits} bits"), f"{bits} bits")


@torch.no_grad()
def round_weights(module: nn.Module, bits: int) -> None:
    """Round all weights with two axes or more in place."""
    for parameter in module.parameters():
        if parameter.ndim >= 2 and parameter.is_floating_point():
            parameter.copy_(round_to_nearest(parameter, bits))
