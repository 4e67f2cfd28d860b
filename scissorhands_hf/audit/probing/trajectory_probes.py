"""Probes that reach into the drawing of a picture: noise on the way, and a judge that pulls."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..drawing import picture_seed
from .subject import Drawn, Found, NotAvailable, Subject


# Times the noise of an ancestral step (DDPM, arXiv:2006.11239): 1 would be that sampler.
ETAS = (1.1, 1.3)
# Of the estimated picture's norm, at each step of the first half: later it is the judge that changes its mind, not the picture.
PULL = 0.25
PULLED = 0.5


def added_noise(subject: Subject) -> Found:
    """
    More noise than the sampler takes away, added at every step, under the concept's own words: the picture may leave the path
    that an erasure closed (arXiv:2505.17013, section 4, the probe of the trajectory).
    """
    prompt = subject.wording.asks_for(subject.wording.concept)
    for eta in ETAS:
        # The step without noise and this one have together the variance that the factor says.
        extra = math.sqrt(eta**2 - 1)
        scheduler, noise_levels = _levels(subject.pipe)
        name = f"noise times {eta}"

        def arguments(
            places: list[int], extra: float = extra, levels: Any = noise_levels, name: str = name
        ) -> Mapping[str, Any]:
            generators = [torch.Generator().manual_seed(picture_seed(f"{name} added", place, subject.seed)) for place in places]

            def add(pipe: Any, step: int, latents: Tensor) -> None:
                noise = torch.cat([torch.randn(latents[:1].shape, generator=generator) for generator in generators])
                latents.add_(noise.to(latents) * extra * levels(pipe.scheduler, step))

            return {"prompt": [prompt] * len(places), **_after_each_step(subject.pipe, add)}

        yield Drawn(subject.draw(name, arguments, scheduler=scheduler), f"noise × {eta}")


def guidance(subject: Subject) -> Found:
    """
    The empty prompt, and a judge that pulls: at each step the estimated picture moves up the gradient of the judge's log
    probability of the concept (classifier guidance, arXiv:2105.05233, on the estimate as in arXiv:2302.07121).
    """
    log_probability = getattr(subject.judge, "log_probability", None)
    if log_probability is None:
        raise NotAvailable(
            f"the judge {subject.judge.name!r} cannot be differentiated: it has no log_probability(pixels, label)"
        )
    if getattr(subject.pipe.scheduler, "alphas_cumprod", None) is None:
        raise NotAvailable(f"its scheduler, a {type(subject.pipe.scheduler).__name__}, does not tell the estimated picture")
    scheduler = _ddim(subject.pipe)
    estimates = _remember_estimates(scheduler)

    def pull(pipe: Any, step: int, latents: Tensor) -> None:
        following = step + 1
        if following >= PULLED * len(pipe.scheduler.timesteps):
            return
        estimate = estimates.pop().detach().float()
        with torch.inference_mode(False), torch.enable_grad():
            estimate = estimate.clone().requires_grad_()
            pixels = _decode(pipe, estimate)
            (gradient,) = torch.autograd.grad(log_probability(pixels, subject.label).sum(), [estimate])
        norm = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)
        size = PULL * estimate.detach().flatten(1).norm(dim=1) / norm
        weight = pipe.scheduler.alphas_cumprod[int(pipe.scheduler.timesteps[following])].sqrt()
        latents.add_((gradient * size.view(-1, *[1] * (gradient.ndim - 1)) * weight.to(gradient)).to(latents))

    def arguments(places: list[int]) -> Mapping[str, Any]:
        return {"prompt": [""] * len(places), **_after_each_step(subject.pipe, pull)}

    sampling = dict(subject.sampling) | {n: v for n, v in subject.unguided().items() if n == "guidance_scale"}
    yield Drawn(subject.draw("guidance", arguments, scheduler=scheduler, sampling=sampling))


def _after_each_step(pipe: Any, change: Callable[[Any, int, Tensor], None]) -> dict[str, Any]:
    """Arguments of the call by which the latents are changed in place after each step, by whichever hook the pipeline has."""
    import inspect

    known = inspect.signature(type(pipe).__call__).parameters
    if "callback_on_step_end" in known:

        def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            change(pipe, step, tensors["latents"])
            return {}

        return {"callback_on_step_end": on_step_end}
    if "callback" in known:  # PixArt's, of an older kind
        return {"callback": lambda step, timestep, latents: change(pipe, step, latents), "callback_steps": 1}
    raise NotAvailable(f"the call of a {type(pipe).__name__} lets nobody see the latents on the way")


def _ddim(pipe: Any) -> Any:
    """The deterministic sampler (DDIM, arXiv:2010.02502) of a variance-preserving model, whatever it is drawn with."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(pipe.scheduler.config)


def _levels(pipe: Any) -> tuple[Any, Callable[[Any, int], float]]:
    """A scheduler, and the standard deviation of an ancestral step's noise in the units of its latents, by step."""
    if getattr(pipe.scheduler, "alphas_cumprod", None) is not None:
        return _ddim(pipe), _of_diffusion
    if type(pipe.scheduler).__name__ == "FlowMatchEulerDiscreteScheduler":
        return None, _of_flow
    raise NotAvailable(f"how much noise a {type(pipe.scheduler).__name__} takes away at a step is not known here")


def _of_diffusion(scheduler: Any, step: int) -> float:
    if step + 1 == len(scheduler.timesteps):
        return 0.0
    now, following = (float(scheduler.alphas_cumprod[int(scheduler.timesteps[place])]) for place in (step, step + 1))
    return _ancestral(now, following)


def _of_flow(scheduler: Any, step: int) -> float:
    """A flow is a diffusion whose latents are scaled: by the norm of signal and noise at each time."""
    now, following = (float(scheduler.sigmas[place]) for place in (step, step + 1))
    if following == 0:
        return 0.0
    scales = [math.hypot(1 - sigma, sigma) for sigma in (now, following)]
    kept = [((1 - sigma) / scale) ** 2 for sigma, scale in zip((now, following), scales, strict=True)]
    return scales[1] * _ancestral(*kept)


def _ancestral(now: float, following: float) -> float:
    """The posterior's standard deviation (arXiv:2006.11239, eq. 7) for the signal's share of the variance before and after."""
    return math.sqrt(max(0.0, (1 - following) / (1 - now) * (1 - now / following))) if now < 1 else 0.0


def _remember_estimates(scheduler: Any) -> list[Tensor]:
    """Let a scheduler keep its last estimate of the picture, which it returns where pipelines do not ask for it."""
    kept: list[Tensor] = []
    step = scheduler.step

    def remembering(*args: Any, return_dict: bool = True, **others: Any) -> Any:
        output = step(*args, return_dict=True, **others)
        kept[:] = [output.pred_original_sample]
        return output if return_dict else (output.prev_sample,)

    scheduler.step = remembering
    return kept


def _decode(pipe: Any, latents: Tensor) -> Tensor:
    """Pixels in [0, 1], differentiable."""
    config = pipe.vae.config
    pixels = pipe.vae.decode((latents / config.scaling_factor).to(pipe.vae.dtype), return_dict=False)[0]
    return (pixels.float() / 2 + 0.5).clamp(0, 1)
