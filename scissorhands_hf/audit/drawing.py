"""Draw pictures with a pipeline that depend on nothing but prompt, index and seed, and leave the pipeline as it was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from .untouched import attributes_kept, undisturbed


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

# Arguments of a pipeline's call that drawing sets itself.
OWN_ARGUMENTS = (
    "prompt", "prompt_embeds", "generator", "num_images_per_prompt", "latents", "output_type", "return_dict",
)  # fmt: skip

# Of large pictures few are drawn at once: the autoencoder alone needs 3 GB for one of 1024² pixels in float32.
MOST_AT_ONCE, PIXELS_AT_ONCE = 16, 2**21
# Of pictures this large the autoencoder is given one at a time.
LARGE_PICTURE = 2**18

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


def picture_size(pipe: DiffusionPipeline, sampling: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width, in pixels, of the pictures that a pipeline draws; None where neither it nor `sampling` says."""
    default = getattr(pipe, "default_sample_size", None)
    if default is None:
        denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
        default = getattr(getattr(denoiser, "config", None), "sample_size", None)
    sides = default if isinstance(default, list | tuple) else (default, default)
    scale = getattr(pipe, "vae_scale_factor", None)
    sizes = [
        sampling.get(name) or (side * scale if side and scale else None)
        for name, side in zip(("height", "width"), sides, strict=True)
    ]
    return None if None in sizes else (sizes[0], sizes[1])


def pictures_of_size(height: int, width: int) -> int:
    """How many pictures of so many pixels are drawn, encoded or decoded at once."""
    return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (height * width)))


def pictures_at_once(pipe: DiffusionPipeline, sampling: Mapping[str, Any]) -> int:
    """How many pictures a pipeline draws at once, by their size."""
    size = picture_size(pipe, sampling)
    return MOST_AT_ONCE if size is None else pictures_of_size(*size)


@contextmanager
def decoded_one_by_one(pipe: DiffusionPipeline, sampling: Mapping[str, Any]) -> Iterator[None]:
    """Inside, an autoencoder that knows how decodes large pictures one at a time; afterwards as before."""
    size, vae = picture_size(pipe, sampling), getattr(pipe, "vae", None)
    if size is None or size[0] * size[1] < LARGE_PICTURE or not hasattr(vae, "use_slicing"):
        yield
        return
    with attributes_kept(vae):
        vae.enable_slicing()
        yield


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
    batch_size: int | None = None,
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
        batch_size (`int`, *optional*):
            Pictures drawn at once, at least 1. Default: 16, and fewer of more than about 360 × 360 pixels.
        on_batch (`Callable[[int, int], None]`, *optional*):
            Called after each batch with the number of pictures drawn and of pictures in all.

    Raises:
        ValueError: a number is below 1, no prompt is given, or `sampling` has an argument that drawing itself sets.
    """
    if batch_size is None:
        batch_size = pictures_at_once(pipe, sampling)
    for argument, value in (("images_per_prompt", images_per_prompt), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{argument}={value} must be at least 1")
    if not prompts:
        raise ValueError("prompts is empty: give at least one")
    check_sampling(sampling)
    jobs = [(prompt, index) for prompt in dict.fromkeys(prompts) for index in range(images_per_prompt)]
    pictures: dict[str, list[Image]] = {prompt: [] for prompt, _ in jobs}
    with undisturbed(pipe), decoded_one_by_one(pipe, sampling):
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
