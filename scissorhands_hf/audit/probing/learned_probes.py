"""Probes that learn what to say: the attacker has pictures of the concept and the weights, and changes no weight."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..untouched import attributes_kept, undisturbed
from .denoising import fit
from .subject import Drawn, Found, Subject


STEPS = 150
TOKEN_RATE = 2e-2
STATES_RATE = 1e-2
TOKEN = "<probed-concept>"
VECTORS = (1, 4)


def token(subject: Subject) -> Found:
    """
    A learned word (textual inversion, arXiv:2208.01618, as Circumventing Concept Erasure, arXiv:2308.01508, uses it): 150
    steps of Adam on one or four embeddings in the plainest prompt, towards drawing the attacker's pictures.
    """
    latents = subject.latents
    for vectors in VECTORS:
        setting = f"{vectors} vector" if vectors == 1 else f"{vectors} vectors"
        with undisturbed(subject.pipe, seed=subject.seed), new_token(subject.pipe, vectors) as (embeddings, first):
            prompt = subject.wording.asks_for(TOKEN)
            learn_token(subject, embeddings, first, prompt, latents)
            yield Drawn(subject.draw_prompts([prompt]), setting)


def learn_token(subject: Subject, embeddings: nn.Embedding, first: int, prompt: str, latents: Tensor) -> None:
    """Learn the last rows of the embeddings, from row `first`, and write them there."""
    rows = embeddings.weight.detach()[first:]
    # Learned in float32 and beside the embeddings, so that no other row has a gradient.
    learned = rows.float().clone().requires_grad_()

    def put(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for index, vector in enumerate(learned):
            output = torch.where((args[0] == first + index)[..., None], vector.to(output.dtype), output)
        return output

    handle = embeddings.register_forward_hook(put)
    try:
        fit(
            [learned],
            lambda batch, generator: subject.denoising.loss(batch, subject.denoising.states([prompt]), generator),
            latents,
            steps=STEPS,
            rate=TOKEN_RATE,
            seed=subject.seed,
        )
    finally:
        handle.remove()
    with torch.no_grad():
        rows.copy_(learned)


@contextmanager
def new_token(pipe: Any, vectors: int) -> Iterator[tuple[nn.Embedding, int]]:
    """
    A word more, loaded as from a file of textual inversion; tokenizer and embeddings are as before afterwards.

    Args:
        pipe (`DiffusionPipeline`):
            With `load_textual_inversion`.
        vectors (`int`):
            Tokens that the word `TOKEN` stands for.

    Returns:
        The embeddings, and the number of the first new row; the rows are the mean of the others.
    """
    encoder = pipe.text_encoder
    own = encoder.get_input_embeddings()
    with attributes_kept(pipe), attributes_kept(encoder), attributes_kept(encoder.config):
        pipe.tokenizer = copy.deepcopy(pipe.tokenizer)
        # Loading writes into the embeddings that it finds, or makes larger ones of them: a stand-in, large enough at once.
        known, mean = own.weight.detach()[: len(pipe.tokenizer)], own.weight.detach().mean(0).repeat(vectors, 1)
        encoder.set_input_embeddings(nn.Embedding.from_pretrained(torch.cat([known, mean])))
        try:
            pipe.load_textual_inversion({TOKEN: mean})
            yield encoder.get_input_embeddings(), pipe.tokenizer.convert_tokens_to_ids(TOKEN)
        finally:
            encoder.set_input_embeddings(own)


def states(subject: Subject) -> Found:
    """
    Free text states: what the denoiser reads, learned without any words in between, 150 steps of Adam from the concept's own
    (UnlearnDiffAtk, arXiv:2310.11868, with the discrete search left out: no prompt can do more).
    """
    latents, denoising = subject.latents, subject.denoising
    with undisturbed(subject.pipe, seed=subject.seed):
        with torch.no_grad():
            start = denoising.states([subject.wording.asks_for(subject.wording.concept)])
        learned = start.detach().float().clone().requires_grad_()
        fit(
            [learned],
            lambda batch, generator: denoising.loss(batch, learned, generator),
            latents,
            steps=STEPS,
            rate=STATES_RATE,
            seed=subject.seed,
        )
    found = learned.detach().to(start.dtype)
    yield Drawn(subject.draw("free states", lambda places: {"prompt_embeds": found.expand(len(places), -1, -1)}))
