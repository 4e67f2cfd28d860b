"""Learning with a Stable Diffusion pipeline's own parts, none of which is changed but by who asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor


if TYPE_CHECKING:
    from PIL.Image import Image

BATCH_SIZE = 16


class Denoising:
    """
    The denoising loss of a Stable Diffusion 1 or 2 pipeline (arXiv:2112.10752) on its own noise.

    Args:
        pipe (`DiffusionPipeline`):
            One for which [`unsupported`] has nothing to say.
    """

    def __init__(self, pipe: Any) -> None:
        from diffusers import DDPMScheduler

        self.pipe = pipe
        # The process that the model was trained with, whatever solver draws with it.
        self._process = DDPMScheduler.from_config(pipe.scheduler.config)

    @staticmethod
    def unsupported(pipe: Any) -> str | None:
        """Why nothing can be learned with this pipeline; None if it can."""
        bases = [base.__name__ for base in type(pipe).__mro__]
        if "StableDiffusionPipeline" not in bases:
            return f"it needs the parts of a Stable Diffusion 1 or 2 pipeline, and this is a {type(pipe).__name__}"
        if pipe.unet.config.in_channels != pipe.vae.config.latent_channels:
            return "its unet sees a picture or mask beside the noise"
        if getattr(pipe.scheduler, "alphas_cumprod", None) is None or pipe.scheduler.config.get("use_flow_sigmas"):
            return f"its scheduler, a {type(pipe.scheduler).__name__}, has no variance-preserving noise"
        return None

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image]) -> Tensor:
        """Pictures of one size as scaled latents, float32."""
        vae, parts = self.pipe.vae, []
        for start in range(0, len(pictures), BATCH_SIZE):
            batch = [picture.convert("RGB") for picture in pictures[start : start + BATCH_SIZE]]
            pixels = self.pipe.image_processor.preprocess(batch).to(vae.device, vae.dtype)
            parts.append(vae.encode(pixels).latent_dist.mode().float() * vae.config.scaling_factor)
        return torch.cat(parts)

    def states(self, prompts: Sequence[str]) -> Tensor:
        """What the denoiser reads of prompts, (n, tokens, width), as the pipeline computes it; differentiable."""
        states, _ = self.pipe.encode_prompt(list(prompts), self.pipe.unet.device, 1, do_classifier_free_guidance=False)
        return states

    def loss(self, latents: Tensor, states: Tensor, generator: torch.Generator) -> Tensor:
        """
        Mean squared error of what the denoiser predicts at random timesteps (DDPM, arXiv:2006.11239, eq. 14).

        Args:
            latents (`Tensor`):
                (n, channels, height, width), without noise.
            states (`Tensor`):
                (n or 1, tokens, width).
            generator (`torch.Generator`):
                On the CPU, of noise and timesteps.
        """
        unet, process = self.pipe.unet, self._process
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        times = torch.randint(process.config.num_train_timesteps, (len(latents),), generator=generator).to(latents.device)
        noisy = process.add_noise(latents, noise, times).to(unet.dtype)
        states = states.to(unet.dtype).expand(len(latents), -1, -1)
        predicted = unet(noisy, times, encoder_hidden_states=states, return_dict=False)[0].float()
        return torch.nn.functional.mse_loss(predicted, self._target(latents, noise, times))

    def _target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        kind = self._process.config.prediction_type
        if kind == "epsilon":
            return noise
        return latents if kind == "sample" else self._process.get_velocity(latents, noise, times)


def fit(
    parameters: Sequence[Tensor],
    loss: Callable[[Tensor, torch.Generator], Tensor],
    latents: Tensor,
    *,
    steps: int,
    rate: float,
    seed: int,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """
    Adam (arXiv:1412.6980) of constant rate on random batches, in place; no other tensor gets a gradient.

    Args:
        parameters (`Sequence[Tensor]`):
            Leaves that require gradients.
        loss (`Callable`):
            Of a batch of latents, with the generator of its noise.
        latents (`Tensor`):
            What batches are made of.
        steps (`int`):
            How many.
        rate (`float`):
            Of Adam.
        seed (`int`):
            Of batches and noise.
        after_step (`Callable[[int], None]`, *optional*):
            Told after each step how many are done.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=rate)
    # A caller may draw pictures in inference mode, from which enable_grad alone would not lead out.
    with torch.inference_mode(False), torch.enable_grad():
        for step in range(steps):
            rows = torch.randperm(len(latents), generator=generator)[:BATCH_SIZE].to(latents.device)
            gradients = torch.autograd.grad(loss(latents[rows], generator), parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
            for parameter in parameters:
                parameter.grad = None
            if after_step is not None:
                after_step(step + 1)
