"""How the model itself reads words: the pictures that it begins with for some prompts, compared at equal noise."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..audit.untouched import undisturbed
from .families import Family
from .noisy_examples import picture_batch


PICTURES = 8
# Where in the process it is asked. Of noise alone a denoiser predicts the mean of the pictures of a prompt; a little later,
# with the same noise in the place of a picture, what it would bring out first.
_DIFFUSION_TIME, _FLOW_TIME = 0.8, 0.95
# Below this share of the mean distance between everyday things two prompts are one to the model.
ALIKE = 0.02


class Readings:
    """
    First predictions of a pipeline for prompts, each computed once. The pipeline is left as it was.

    Args:
        family (`Family`):
            Of the pipeline.
        sampling (`dict`):
            Arguments of the pipeline's call, which say how large pictures are.
        seed (`int`):
            Of the noise.
    """

    def __init__(self, family: Family, sampling: dict[str, Any], seed: int = 0):
        self.family, self.seed = family, seed
        self.sampling = dict(sampling)
        self._noise: Tensor | None = None
        self._known: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Predictions for n prompts, float32 (n, pictures × latent values), in the units of the denoiser."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            with undisturbed(self.family.pipe), torch.no_grad():
                self._read(new)
        return torch.stack([self._known[prompt] for prompt in prompts])

    def distance(self, prompt: str, other: str) -> float:
        """Mean squared difference of the predictions for two prompts."""
        first, second = self((prompt, other))
        return (first - second).square().mean().item()

    def _read(self, prompts: Sequence[str]) -> None:
        family = self.family
        noise = self._make_noise()
        alphas = family.noise_process().alphas_cumprod
        time = _FLOW_TIME if alphas is None else int(_DIFFUSION_TIME * len(alphas))
        times, at_once = torch.full((len(noise),), time), picture_batch(noise)
        for prompt in prompts:
            conditioning = {
                name: value.expand(len(noise), *value.shape[1:]) for name, value in family.encode_prompts([prompt]).items()
            }
            parts = []
            for start in range(0, len(noise), at_once):
                rows = slice(start, start + at_once)
                told = {name: value[rows] for name, value in conditioning.items()}
                parts.append(family.predict(family.denoiser, noise[rows], times[rows], told))
            self._known[prompt] = torch.cat(parts).float().flatten().cpu()

    def _make_noise(self) -> Tensor:
        if self._noise is None:
            family = self.family
            like = family.sample_latents([""], [self.seed], {**self.sampling, "num_inference_steps": 2})
            shape, generator = (PICTURES, *like.shape[1:]), torch.Generator().manual_seed(self.seed)
            self._noise = torch.randn(shape, generator=generator).to(like)
        return self._noise
