"""How a family's pictures are covered with noise, and what its denoiser learns to say about it: formulas, no scheduler."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow")


@dataclass(frozen=True)
class NoiseProcess:
    r"""
    The forward process of a diffusion model with `x_t = a_t·x_0 + b_t·ε` and the target of its denoiser.

    Variance-preserving processes (DDPM, arXiv:2006.11239) have `a_t = √ᾱ_t`, `b_t = √(1 − ᾱ_t)` and
    whole timesteps. Their target is the noise (`"epsilon"`), `a_t·ε − b_t·x_0` (`"v_prediction"`,
    arXiv:2202.00512, appendix D) or the picture (`"sample"`). A rectified flow (`"flow"`, arXiv:2209.03003; arXiv:2403.03206,
    section 2) has `a = 1 − σ`, `b = σ` and the target `ε − x_0`; its "timesteps" are σ in (0, 1).

    Args:
        prediction_type (`str`):
            One of `PREDICTION_TYPES`.
        alphas_cumprod (`Tensor`, *optional*):
            `ᾱ_t`, float32 on the CPU, one per timestep; None for a flow.
        shift (`float`, *optional*, defaults to `1.0`):
            Of a flow's schedule (arXiv:2403.03206, equation 23), ≥ 1 for more time at much noise: uniform `u` becomes
            `σ = s·u / (1 + (s − 1)·u)`, the density at which a sampler with that shift visits them.
    """

    prediction_type: str
    alphas_cumprod: Tensor | None = None
    shift: float = 1.0

    def __post_init__(self):
        if self.prediction_type not in PREDICTION_TYPES:
            raise ValueError(f"prediction_type={self.prediction_type!r} is not one of {', '.join(map(repr, PREDICTION_TYPES))}")
        if (self.alphas_cumprod is None) != (self.prediction_type == "flow"):
            raise ValueError(f"alphas_cumprod belongs to a diffusion, not to a flow; prediction_type={self.prediction_type!r}")

    def sample_timesteps(self, n: int, generator: torch.Generator, above: float = 0.0) -> Tensor:
        """`n` random timesteps on the generator's device: int64 in [0, T), or float32 σ in (0, 1) for a flow; none below the
        share `above` of the time, in [0, 1)."""
        if self.alphas_cumprod is not None:
            first = math.ceil(above * len(self.alphas_cumprod))
            return torch.randint(first, len(self.alphas_cumprod), (n,), generator=generator, device=generator.device)
        # The clamp keeps both ends out: at σ = 0 there is no noise to find, and rand() includes 0.
        uniform = torch.rand(n, generator=generator, device=generator.device).clamp(1e-4, 1 - 1e-4)
        first = above / (self.shift - (self.shift - 1) * above)  # whose σ is `above`
        uniform = first + (1 - first) * uniform
        return self.shift * uniform / (1 + (self.shift - 1) * uniform)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents of the same shape and dtype; `timesteps` (n,) as from `sample_timesteps`."""
        signal, spread = self._coefficients(latents, timesteps)
        return (signal * latents + spread * noise).to(latents.dtype)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser is trained to output for `add_noise(latents, noise, timesteps)`; shape and dtype of `latents`."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        if self.prediction_type == "flow":
            return noise - latents
        signal, spread = self._coefficients(latents, timesteps)
        return (signal * noise - spread * latents).to(latents.dtype)

    def grid(self, count: int) -> Tensor:
        """`count` timesteps, evenly from little noise to much, as from `sample_timesteps`."""
        shares = (torch.arange(count) + 0.5) / count
        return shares if self.alphas_cumprod is None else (shares * len(self.alphas_cumprod)).long()

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """`a_t² / b_t²`, float64 (n,)."""
        signal, spread = self._coefficients(torch.empty(len(timesteps)), timesteps)
        return signal.double().square() / spread.double().square()

    def picture_error(self, timesteps: Tensor) -> Tensor:
        """By what the squared error of a prediction is to be multiplied to be that of the picture in it, float64 (n,): a
        predicted noise, velocity or flow and x_t together say what x_0 is."""
        signal, spread = (c.double() for c in self._coefficients(torch.empty(len(timesteps)), timesteps))
        if self.prediction_type == "epsilon":  # x_0 = (x_t − b·ε) / a
            return (spread / signal).square()
        if self.prediction_type == "sample":
            return torch.ones_like(spread)
        return spread.square()  # v: x_0 = a·x_t − b·v; flow: x_0 = x_t − σ·f

    def _coefficients(self, latents: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and b_t in float32 on the latents' device, shaped to multiply them."""
        if self.alphas_cumprod is None:
            sigma = timesteps.to(latents.device, torch.float32)
            signal, spread = 1 - sigma, sigma
        else:
            alphas = self.alphas_cumprod[timesteps.to(self.alphas_cumprod.device)].to(latents.device)
            signal, spread = alphas.sqrt(), (1 - alphas).sqrt()
        shape = (-1, *[1] * (latents.ndim - 1))
        return signal.view(shape), spread.view(shape)


def diffusion_noise(scheduler: Any) -> NoiseProcess:
    """The variance-preserving process of a diffusers scheduler.

    Raises:
        ValueError: the scheduler is of another kind (EDM, flow matching, continuous time); the message names it.
    """
    name, config = type(scheduler).__name__, scheduler.config
    prediction_type = config.get("prediction_type", "epsilon")
    alphas = getattr(scheduler, "alphas_cumprod", None)
    unsupported = None
    if alphas is None or name.startswith("EDM"):
        unsupported = "it has no alphas_cumprod over discrete timesteps"
    elif config.get("use_flow_sigmas") or prediction_type == "flow_prediction":
        unsupported = "it samples a flow, which this denoiser is not trained for"
    elif config.get("timestep_type", "discrete") != "discrete":
        unsupported = f"timestep_type={config['timestep_type']!r}"
    elif prediction_type not in PREDICTION_TYPES:
        unsupported = f"prediction_type={prediction_type!r}"
    if unsupported:
        raise ValueError(
            f"the pipeline's scheduler is a {name} that cannot be trained with: {unsupported}. Set the scheduler that the "
            "model was trained with, as pipe.scheduler = DDIMScheduler.from_pretrained(model_id, subfolder='scheduler')."
        )
    return NoiseProcess(prediction_type, alphas.detach().to("cpu", torch.float32).clone())


def flow_noise(scheduler: Any) -> NoiseProcess:
    """The rectified flow of a diffusers scheduler, with the shift that its configuration states.

    Raises:
        ValueError: the scheduler does not sample a flow; the message names it.
    """
    name, config = type(scheduler).__name__, scheduler.config
    by_option = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    is_flow = name.startswith("FlowMatch") or by_option
    if not is_flow or name == "FlowMatchLCMScheduler":
        raise ValueError(
            f"the pipeline's scheduler is a {name}, but its transformer predicts a flow. Set the scheduler that the model was "
            "trained with: pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(model_id, subfolder='scheduler')."
        )
    # With dynamic shifting a sampler picks the shift by picture size; training then covers σ evenly, as the models' scripts do.
    shift = 1.0 if config.get("use_dynamic_shifting") else config.get("shift", config.get("flow_shift", 1.0))
    return NoiseProcess("flow", shift=float(shift))
