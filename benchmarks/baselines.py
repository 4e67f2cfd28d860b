"""Two ways to erase a concept that the benchmark compares with, each written from its paper; this package has no part in them.

- ESD, negative guidance (Gandikota et al., *Erasing Concepts from Diffusion Models*, arXiv:2303.07345).
- UCE, closed form edit of cross-attention (Gandikota et al., *Unified Concept Editing in Diffusion Models*, arXiv:2308.14761).

Both change the UNet of a `StableDiffusionPipeline` in place.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor, nn


CROSS_ATTENTION = ".attn2."
# Which weights ESD trains: its two variants, and all of them.
ESD_SCOPES = {
    "x": lambda name: CROSS_ATTENTION in name,
    "u": lambda name: CROSS_ATTENTION not in name,
    "full": lambda name: True,
}


def esd(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    scope: str = "x",
    steps: int = 200,
    learning_rate: float = 1e-4,
    batch_size: int = 8,
    negative_guidance: float = 1.0,
    sampler_steps: int = 15,
    sampler_guidance: float = 3.0,
    seed: int = 0,
) -> None:
    r"""Train until prompts of the concept are denoised away from it (equation 6 of the paper):

    $\min_\theta \|\epsilon_\theta(x_t, c, t) - \{\epsilon_{\theta^*}(x_t, t) - \eta\,[\epsilon_{\theta^*}(x_t, c, t) -
    \epsilon_{\theta^*}(x_t, t)]\}\|^2$

    with $x_t$ a picture that the model in training has denoised half way, to a random $t$, from noise and the prompt $c$.
    A frozen copy of the UNet is the $\theta^*$. There is nothing in it for prompts that are to be kept.

    Args:
        prompts: of the concept; each batch takes some at random. The paper takes the concept's name alone.
        scope: "x": cross-attention, "u": everything else (the paper's two), "full": all weights.
        steps, learning_rate, batch_size: of Adam. The paper: 1000, 1e-5, 1.
        negative_guidance: η.
        sampler_steps, sampler_guidance: of the half-way denoising. The paper: 50, 3.
        seed: of prompts, noise and timesteps.
    """
    unet, frozen = pipe.unet, copy.deepcopy(pipe.unet).requires_grad_(False)
    trained = {name: p.requires_grad_(ESD_SCOPES[scope](name)) for name, p in unet.named_parameters()}
    optimizer = torch.optim.Adam([p for p in trained.values() if p.requires_grad], lr=learning_rate)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(sampler_steps)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        states, nothing = pipe.encode_prompt(list(prompts), pipe.device, 1, True)[:2]
    size = (batch_size, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    for _ in range(steps):
        text = states[torch.randint(len(states), (batch_size,), generator=generator)]
        empty = nothing[:1].expand_as(text)
        reached = int(torch.randint(sampler_steps, (), generator=generator))
        with torch.no_grad():
            latents = torch.randn(size, generator=generator) * scheduler.init_noise_sigma
            for time in scheduler.timesteps[:reached]:
                without, conditional = unet(latents.repeat(2, 1, 1, 1), time, torch.cat([empty, text])).sample.chunk(2)
                guided = without + sampler_guidance * (conditional - without)
                latents = scheduler.step(guided, time, latents).prev_sample
            # Any timestep of the stretch that the sampler would cross next: the model is to learn them all.
            stride = scheduler.config.num_train_timesteps // sampler_steps
            time = scheduler.timesteps[reached] - torch.randint(stride, (), generator=generator)
            time = time.clamp(min=0)
            without, conditional = frozen(latents.repeat(2, 1, 1, 1), time, torch.cat([empty, text])).sample.chunk(2)
            target = without - negative_guidance * (conditional - without)
        loss = nn.functional.mse_loss(unet(latents, time, text).sample, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    unet.requires_grad_(True)


@torch.no_grad()
def uce(
    pipe: StableDiffusionPipeline,
    edits: Sequence[tuple[str, str, str]],
    keep: Sequence[str],
    *,
    keep_weight: float = 1.0,
    ridge: float = 0.1,
) -> None:
    r"""Solve for the key and value projections of cross-attention that answer the concept's words with another's answer.

    For each projection $W$ (equation 7 of the paper, with a weight on the second sum and a ridge towards the old weights):

    $W^* = \left(\sum_i W c^*_i c_i^\top + \kappa \sum_j W c_j c_j^\top + \lambda W\right)
    \left(\sum_i c_i c_i^\top + \kappa \sum_j c_j c_j^\top + \lambda I\right)^{-1}$

    $c_i$ are the text encoder's outputs from the concept's last word on to the end of the text, padding included, for there
    a causal encoder has read the concept; $c^*_i$ those of the other text from its own word on; $c_j$ all outputs of the texts
    to keep. The other text's answer $W c^*_i$ is computed with the old weights.

    Args:
        edits: (prompt, the concept's last word in it, prompt to be answered instead); outputs at equal distance from the ends
            of the two texts belong together.
        keep: prompts whose projections are to stay.
        keep_weight: κ.
        ridge: λ.
    """
    old, new = zip(*(_aligned(pipe, *edit) for edit in edits), strict=True)
    old, new = torch.cat(old), torch.cat(new)
    kept = pipe.encode_prompt(list(keep), pipe.device, 1, False)[0].flatten(0, 1).double() if keep else old[:0]
    base = keep_weight * kept.T @ kept + ridge * torch.eye(old.shape[1], dtype=old.dtype)
    for name, module in pipe.unet.named_modules():
        if CROSS_ATTENTION in f"{name}." and name.endswith(("to_k", "to_v")):
            weight = module.weight.double()
            module.weight.copy_(torch.linalg.solve((old.T @ old + base).T, (weight @ (new.T @ old + base)).T).T)


def _aligned(pipe: StableDiffusionPipeline, prompt: str, word: str, instead: str) -> tuple[Tensor, Tensor]:
    """Outputs (n, width) of ``prompt`` from the last token of ``word`` on, and as many of ``instead``, end beside end."""
    tokens, others = (pipe.tokenizer(text, padding="max_length", truncation=True).input_ids for text in (prompt, instead))
    wanted, end = pipe.tokenizer(word, add_special_tokens=False).input_ids[-1], pipe.tokenizer.eos_token_id
    start = len(tokens) - 1 - tokens[::-1].index(wanted)
    shift = others.index(end) - tokens.index(end)
    positions = [p for p in range(start, len(tokens)) if 0 <= p + shift < len(others)]
    old, new = pipe.encode_prompt([prompt, instead], pipe.device, 1, False)[0].double()
    return old[positions], new[[position + shift for position in positions]]
