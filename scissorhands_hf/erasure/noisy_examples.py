"""What repair and audit of a pipeline are computed on: noisy pictures with their prompts and what is to be predicted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from .families import Family, NoiseProcess


@dataclass(frozen=True)
class PromptTable:
    """Encoded prompts, each once. `conditioning`: tensors with one row a prompt, on the CPU, in the pipeline's dtype."""

    rows: dict[str, int]
    conditioning: dict[str, Tensor]

    @classmethod
    def encode(cls, family: Family, prompts: Sequence[str], batch: int = 16) -> "PromptTable":
        unique = list(dict.fromkeys(prompts))
        parts = [family.encode_prompts(unique[start : start + batch]) for start in range(0, len(unique), batch)]
        return cls(
            {prompt: row for row, prompt in enumerate(unique)},
            {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]},
        )

    def add(self, rows: Sequence[int]) -> Tensor:
        """Copies of some rows as new ones, which are no prompt's; their numbers, int64 (len(rows),)."""
        size = len(next(iter(self.conditioning.values())))
        for name, value in self.conditioning.items():
            self.conditioning[name] = torch.cat([value, value[list(rows)]])
        return torch.arange(size, size + len(rows))

    def replace(self, rows: Tensor, conditioning: dict[str, Tensor]) -> None:
        """Other values for the rows, int64 (n,): n for each tensor of `conditioning`."""
        for name, value in conditioning.items():
            self.conditioning[name][rows.to(value.device)] = value.to(self.conditioning[name])

    def __getitem__(self, rows: Tensor) -> dict[str, Tensor]:
        """Conditioning of the prompts in `rows`, int64 (n,)."""
        return {name: value[rows.to(value.device)] for name, value in self.conditioning.items()}


class NoisyExamples(Dataset):
    """
    `count` noisy versions of some pictures, made when asked for: kept are which picture, which timestep, and a seed.

    An item is a dict: `noisy` (*latent shape), `timesteps` (), `prompt` and `anchor` (rows of the prompt table, int64),
    `denoising_target` and `target` (*latent shape): what the denoiser was trained to say, and what it is to say now; `picture`:
    which one it is of, and `words`: the row of its own prompt, for which `prompt` may be the empty one.

    Args:
        latents (`Tensor`):
            (pictures, *latent shape), float32, on the CPU: examples go to the denoiser's device batch by batch.
        prompts (`Tensor`):
            Rows of each picture's prompt, int64 (pictures,).
        anchors (`Tensor`):
            Rows of the prompt that each picture's prompt is redirected to, int64 (pictures,).
        noise (`NoiseProcess`):
            The pipeline's forward process.
        count (`int`):
            Of examples, >= 1.
        seed (`int`):
            Of pictures, timesteps and noise.
        empty_share (`float`, *optional*, defaults to 0):
            Of the examples, in [0, 1], that are asked for by row `empty` in the place of their prompt.
        empty (`int`, *optional*, defaults to 0):
            The empty prompt's row.
        above (`float`, *optional*, defaults to 0):
            Share of the noising time, in [0, 1), below which there are no examples.
    """

    def __init__(
        self,
        latents: Tensor,
        prompts: Tensor,
        anchors: Tensor,
        noise: NoiseProcess,
        count: int,
        seed: int,
        empty_share: float = 0.0,
        empty: int = 0,
        above: float = 0.0,
    ):
        generator = torch.Generator().manual_seed(seed)
        self.latents, self.prompts, self.anchors, self.noise_process, self.seed = latents, prompts, anchors, noise, seed
        # Every picture once before any comes twice.
        rounds = [torch.randperm(len(latents), generator=generator) for _ in range(-(-count // len(latents)))]
        self.pictures = torch.cat(rounds)[:count]
        self.timesteps = noise.sample_timesteps(count, generator, above)
        self.asked = prompts[self.pictures]
        if empty_share:
            self.asked[torch.rand(count, generator=generator) < empty_share] = empty
        self.targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture = int(self.pictures[index])
        latents = self.latents[picture : picture + 1]
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        noise = torch.randn(latents.shape, generator=generator, dtype=latents.dtype).to(latents.device)
        timesteps = self.timesteps[index : index + 1]
        truth = self.noise_process.target(latents, noise, timesteps)[0]
        return {
            "noisy": self.noise_process.add_noise(latents, noise, timesteps)[0],
            "timesteps": timesteps[0],
            "prompt": self.asked[index],
            "words": self.prompts[picture],
            "picture": self.pictures[index],
            "anchor": self.anchors[picture],
            "denoising_target": truth,
            "target": truth if self.targets is None else self.targets[index],
        }


def collate(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


@torch.no_grad()
def precompute_targets(
    examples: NoisyExamples,
    rule: Callable[[dict[str, Tensor]], Tensor],
    batch: int,
    on_batch: Callable[[int, int], None],
    show_progress: bool,
    label: str,
) -> None:
    """Fix what is to be predicted on each example while the model still is the original one, so that no copy of it is needed.

    Args:
        examples (`NoisyExamples`):
            Get their `targets`, float32 of (len(examples), *latent shape).
        rule (`Callable[[dict[str, Tensor]], Tensor]`):
            From a collated batch to its targets.
        batch (`int`):
            Examples at a time.
        on_batch (`Callable[[int, int], None]`):
            Called with examples done and in all.
        show_progress, label (`bool`):
            Of the progress bar.
    """
    targets = torch.empty(len(examples), *examples.latents.shape[1:], device=examples.latents.device)
    starts = range(0, len(examples), batch)
    for start in tqdm(starts, desc=label, disable=not show_progress):
        items = collate([examples[index] for index in range(start, min(start + batch, len(examples)))])
        targets[start : start + batch] = rule(items)
        on_batch(min(start + batch, len(examples)), len(examples))
    if not torch.isfinite(targets).all():
        raise ValueError(
            "the denoiser predicts values that are not finite on its own pictures; its weights are damaged, or it overflows in "
            "its dtype: load the pipeline with torch_dtype=torch.float32"
        )
    examples.targets = targets


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """In float32, whatever the denoiser computed in."""
    return nn.functional.mse_loss(prediction.float(), target.float())


def picture_batch(latents: Tensor) -> int:
    """Noisy pictures predicted at once: many of a tiny model's, few of a large one's (2^18 latent values in all)."""
    return max(1, min(128, 2**18 // latents[0].numel()))
