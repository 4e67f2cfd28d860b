"""How sure the model itself is that a noisy picture shows a concept: γ = p(c | x_t), from its own denoising losses."""

import torch
from torch import Tensor

from .families import Family, NoiseProcess
from .noisy_examples import PromptTable, picture_batch


# At so many times, evenly from little noise to much, each picture is looked at once.
TIMES = 13
# Words say what a picture shows while little can be seen of it. What they add at the first times is how well the model predicts
# details with words and without, and no evidence of what the picture shows: they are not looked at.
UNDECIDED = 4


class Posterior:
    r"""
    `γ = p(c | x_t)` of some pictures at all times, from what a concept's words do to the model's error.

    By the I-MMSE relation (Guo et al., arXiv:cs/0412108; for diffusion models Kong et al., arXiv:2302.03792) a picture's
    expected `log p(x_t | c) − log p(x_t)` is half the integral, over the signal-to-noise ratio from that of pure noise up to
    that of `t`, of how much smaller the squared error of the predicted x_0 is with the words than without. With the concept's
    share p(c) of what the model draws without words, `γ = p(c)·p(x_t | c) / p(x_t)`. That share is not known, but the concept's
    own pictures show the concept: γ is scaled so that the median of theirs is 1 at the times that are not looked at.

    Args:
        noise (`NoiseProcess`):
            The pipeline's.
        times (`Tensor`):
            (T,), rising, from `NoiseProcess.grid`.
        gains (`Tensor`):
            (n, T): squared error of the predictions, summed over a picture's latent values, without the words minus with them.
        reference ([`Posterior`], *optional*):
            Of the concept's own pictures, when these are others.
    """

    def __init__(self, noise: NoiseProcess, times: Tensor, gains: Tensor, reference: "Posterior | None" = None):
        self.times = times.double()
        ratios = noise.signal_to_noise(times).log()
        # Each time stands for half the way to its neighbours, the outer ones for themselves alone on their outer side.
        edges = torch.cat([ratios[:1], (ratios[1:] + ratios[:-1]) / 2, ratios[-1:]])
        widths = (edges[:-1] - edges[1:]) * noise.signal_to_noise(times)  # of SNR: dSNR = SNR·d(log SNR)
        information = gains.double().cpu() * noise.picture_error(times) * widths / 2
        information[:, :UNDECIDED] = 0.0
        evidence = information.flip(1).cumsum(1).flip(1)
        self.scale = evidence[:, 0].median() if reference is None else reference.scale
        self.evidence = evidence[:, 0]
        self.log_values = (evidence - self.scale).clamp(max=0.0)
        # The noise of a single picture's few predictions is not in it.
        self.typical = (evidence.median(0).values - self.scale).clamp(max=0.0)

    @property
    def share(self) -> float:
        """p(c), of what the model draws without words, as the concept's pictures tell it."""
        return min(1.0, (-self.scale).exp().item())

    def without_noise(self) -> Tensor:
        """γ of each picture itself, (n,)."""
        return self.log_values[:, 0].exp()

    def at(self, timesteps: Tensor, pictures: Tensor | None = None) -> Tensor:
        """log γ of examples, float64 (m,), in straight lines between the times looked at.

        Args:
            timesteps (`Tensor`):
                (m,) as from `NoiseProcess.sample_timesteps`.
            pictures (`Tensor`, *optional*):
                Which picture each is of, int64 (m,). Default: the median over all pictures.
        """
        place = timesteps.double().cpu().clamp(self.times[0], self.times[-1])
        right = torch.searchsorted(self.times, place, right=True).clamp(1, len(self.times) - 1)
        way = (place - self.times[right - 1]) / (self.times[right] - self.times[right - 1])
        if pictures is None:
            before, after = self.typical[right - 1], self.typical[right]
        else:
            before, after = self.log_values[pictures, right - 1], self.log_values[pictures, right]
        return torch.lerp(before, after, way)


@torch.no_grad()
def gains_by_words(family: Family, table: PromptTable, latents: Tensor, rows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """What [`Posterior`] is made of: how much smaller words make the denoiser's squared error on some pictures.

    Args:
        family (`Family`):
            Of the pipeline, whose denoiser is asked.
        table (`PromptTable`):
            Holds the empty prompt.
        latents (`Tensor`):
            (n, *latent shape).
        rows (`Tensor`):
            Of the words, int64 (n,).
        seed (`int`):
            Of the noise: the same for the same pictures.

    Returns:
        `tuple[Tensor, Tensor]`: The times (T,), and the gains, float32 (n, T).
    """
    noise_process = family.noise_process()
    times = noise_process.grid(TIMES)
    generator = torch.Generator().manual_seed(seed)
    gains = torch.zeros(len(latents), TIMES)
    batch = picture_batch(latents)
    for column in range(UNDECIDED, TIMES):
        for start in range(0, len(latents), batch):
            part = latents[start : start + batch]
            own = rows[start : start + batch]
            timesteps = times[column].expand(len(part))
            noise = torch.randn(part.shape, generator=generator).to(part)
            noisy = noise_process.add_noise(part, noise, timesteps)
            truth = noise_process.target(part, noise, timesteps)
            errors = [
                (family.predict(family.denoiser, noisy.to(family.device), timesteps, table[asked]).float().cpu() - truth)
                .square()
                .flatten(1)
                .sum(1)
                for asked in (torch.full_like(own, table.rows[""]), own)
            ]
            gains[start : start + batch, column] = (errors[0] - errors[1]).cpu()
    return times, gains
