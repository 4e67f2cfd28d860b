"""Draw pictures with a pipeline that depend on nothing but prompt, index and seed, and leave the pipeline as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .untouched import undisturbed


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

# Arguments of a pipeline's call that drawing sets itself.
OWN_ARGUMENTS = (
    "prompt", "prompt_embeds", "generator", "num_images_per_prompt", "latents", "output_type", "return_dict",
)  # fmt: skip

NEGATIVE_PROMPTS = ("negative_prompt", "negative_prompt_2", "negative_prompt_3")


def check_sampling(sampling: Mapping[str, Any], unsupported: Collection[str] = ()) -> None:
    """
    Refuse arguments of a pipeline's call that cannot be the user's.

    Args:
        sampling (`Mapping`):
            What pictures are to be drawn with.
        unsupported (collection of `str`, *optional*):
            Arguments that must be left at the pipeline's default.

    Raises:
        ValueError: one of these, one that drawing sets itself, or several negative prompts.
    """
    for name in sampling:
        if name in OWN_ARGUMENTS:
            raise ValueError(f"sampling has {name!r}, which is set for every picture drawn; leave it out")
        if name in unsupported:
            raise ValueError(f"sampling has {name!r}: only the pipeline's default is supported for it; leave it out")
        if name in NEGATIVE_PROMPTS:
            _check_negative_prompt(name, sampling[name])


def _check_negative_prompt(name: str, value: Any) -> None:
    texts = list(value) if isinstance(value, list | tuple) else [value]
    if value is not None and (len(texts) != 1 or not isinstance(texts[0], str)):
        raise ValueError(f"sampling has {name}={value!r}: one text serves every picture; give it as it is")


def for_each_picture(sampling: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The arguments for `count` pictures: a single negative prompt serves them all, of which some pipelines want a list."""

    def text(value: Any) -> Any:
        return value[0] if isinstance(value, list | tuple) else value

    return {
        name: [text(value)] * count if name in NEGATIVE_PROMPTS and value is not None else value
        for name, value in sampling.items()
    }


def picture_seed(prompt: str, index: int, seed: int) -> int:
    """Seed of the `index`-th picture of `prompt`, 0 ≤ seed < 2**63; the other prompts have no part in it."""
    digest = hashlib.sha256(f"{seed}\0{index}\0{prompt}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def draw_pictures(
    pipe: DiffusionPipeline,
    prompts: Sequence[str],
    *,
    images_per_prompt: int,
    seed: int,
    sampling: Mapping[str, Any],
    batch_size: int = 16,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, list[Image]]:
    """Pictures for each distinct prompt; the same call gives the same pictures, whatever is drawn beside them.

    Each picture has its own CPU generator, seeded by [`picture_seed`], so neither the batch size (beyond rounding) nor
    the device's random numbers matter. The pipeline is [`undisturbed`].

    Args:
        pipe (`DiffusionPipeline`):
            A text-to-image pipeline.
        prompts (`Sequence[str]`):
            Texts.
        images_per_prompt (`int`):
            At least 1.
        seed (`int`):
            Any integer.
        sampling (`Mapping[str, Any]`):
            Further arguments of the pipeline's call, such as `num_inference_steps` and `guidance_scale`. A single negative
            prompt is used for every picture.
        batch_size (`int`, *optional*, defaults to `16`):
            Pictures drawn at once, at least 1.
        on_batch (`Callable[[int, int], None]`, *optional*):
            Called after each batch with the number of pictures drawn and of pictures in all.

    Raises:
        ValueError: a number is below 1, no prompt is given, or `sampling` has an argument that drawing itself sets.
    """
    for argument, value in (("images_per_prompt", images_per_prompt), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{argument}={value} must be at least 1")
    if not prompts:
        raise ValueError("prompts is empty: give at least one")
    check_sampling(sampling)
    jobs = [(prompt, index) for prompt in dict.fromkeys(prompts) for index in range(images_per_prompt)]
    pictures: dict[str, list[Image]] = {prompt: [] for prompt, _ in jobs}
    with undisturbed(pipe):
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            drawn = pipe(
                [prompt for prompt, _ in batch],
                generator=[torch.Generator().manual_seed(picture_seed(*job, seed)) for job in batch],
                output_type="pil",
                **for_each_picture(sampling, len(batch)),
            ).images
            for (prompt, _), image in zip(batch, drawn, strict=True):
                pictures[prompt].append(image)
            if on_batch is not None:
                on_batch(start + len(batch), len(jobs))
    return pictures
