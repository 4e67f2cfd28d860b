"""Draw the same pictures with a pipeline before and after, and say how they differ."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..report.concept_report import PromptScore
from ..report.figures import change_of, prompt_groups


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

    from .judges import Judge

# Arguments of the pipeline call that belong to drawing itself.
OWN_ARGUMENTS = ("prompt", "generator", "num_images_per_prompt", "latents", "output_type", "return_dict")
GREY_LEVEL = 1 / 255


@dataclass(frozen=True)
class AuditPrompt:
    """A prompt to draw before and after.

    Args:
        prompt: as the pipeline gets it.
        group: "concept", "paraphrase", "neighbour" or "kept".
        label: what a judge is to look for in its pictures; None where nothing can be looked for.
    """

    prompt: str
    group: str
    label: str | None = None

    def __post_init__(self) -> None:
        if self.group not in prompt_groups():
            raise ValueError(f"group={self.group!r} of the prompt {self.prompt!r} is none of {', '.join(prompt_groups())}")


def picture_seed(prompt: str, index: int, seed: int) -> int:
    """Seed of the ``index``-th picture of ``prompt``, 0 ≤ seed < 2**63; the other prompts have no part in it."""
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

    Each picture has its own CPU generator, seeded by :func:`picture_seed`, so neither the batch size (beyond rounding) nor
    the device's random numbers matter. Global random states, progress bar settings and training flags are as before
    afterwards. A safety checker is left out meanwhile: it blackens pictures after the fact, and the model itself is measured.

    Args:
        pipe: a text-to-image pipeline.
        prompts: texts.
        images_per_prompt: at least 1.
        seed: any integer.
        sampling: further arguments of the pipeline's call, such as ``num_inference_steps`` and ``guidance_scale``. A single
            negative prompt is used for every picture.
        batch_size: pictures drawn at once, at least 1.
        on_batch: called after each batch with the number of pictures drawn and of pictures in all.

    Raises:
        ValueError: a number is below 1, no prompt is given, or ``sampling`` has an argument that drawing itself sets.
    """
    for argument, value in (("images_per_prompt", images_per_prompt), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{argument}={value} must be at least 1")
    if not prompts:
        raise ValueError("prompts is empty: give at least one")
    if taken := [argument for argument in OWN_ARGUMENTS if argument in sampling]:
        raise ValueError(f"sampling must not have {taken}: drawing sets them itself")
    jobs = [(prompt, index) for prompt in dict.fromkeys(prompts) for index in range(images_per_prompt)]
    pictures: dict[str, list[Image]] = {prompt: [] for prompt, _ in jobs}
    with _quiet_and_unchanged(pipe):
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            repeated = {
                argument: [value] * len(batch) if argument.startswith("negative_prompt") and isinstance(value, str) else value
                for argument, value in sampling.items()
            }
            drawn = pipe(
                [prompt for prompt, _ in batch],
                generator=[torch.Generator().manual_seed(picture_seed(*job, seed)) for job in batch],
                output_type="pil",
                **repeated,
            ).images
            for (prompt, _), image in zip(batch, drawn, strict=True):
                pictures[prompt].append(image)
            if on_batch is not None:
                on_batch(start + len(batch), len(jobs))
    return pictures


@contextmanager
def _quiet_and_unchanged(pipe: DiffusionPipeline) -> Iterator[None]:
    """Draw in evaluation mode, without progress bars and safety checker, and put all back, random states included."""
    modules = [module for module in pipe.components.values() if isinstance(module, torch.nn.Module)]
    training = [part for module in modules for part in module.modules() if part.training]
    # diffusers has a public setter of the bar's settings, but (up to 0.42) no getter.
    bar = getattr(pipe, "_progress_bar_config", None)
    checker = getattr(pipe, "safety_checker", None)
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = sorted({p.device.index for module in modules for p in module.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices=devices):
            pipe.set_progress_bar_config(disable=True)
            if checker is not None:
                pipe.safety_checker = None
            for part in training:
                part.training = False
            yield
    finally:
        for part in training:
            part.training = True
        if checker is not None:
            pipe.safety_checker = checker
        if bar is None:
            vars(pipe).pop("_progress_bar_config", None)
        else:
            pipe.set_progress_bar_config(**bar)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def compare_pictures(
    prompts: Sequence[AuditPrompt],
    original: Mapping[str, Sequence[Image]],
    unlearned: Mapping[str, Sequence[Image]],
    judge: Judge | None = None,
) -> list[PromptScore]:
    """Score each prompt: how far its pictures moved, and in how many a judge sees what they are to show.

    Args:
        prompts: which pictures to compare, in the order of the result.
        original, unlearned: by prompt, pictures of equal seeds at equal places, as :func:`draw_pictures` returns them; at
            least two a prompt, all of one size.
        judge: looks for ``label`` among the labels of all prompts that it knows. Prompts with a label that it does not know,
            and all prompts without a judge, have no shares.

    Raises:
        ValueError: pictures of a prompt are missing, fewer than two, or do not fit each other.
    """
    candidates = list(
        dict.fromkeys(p.label for p in prompts if judge is not None and p.label is not None and judge.knows(p.label))
    )
    scores = []
    for asked in prompts:
        before, after = list(original.get(asked.prompt, [])), list(unlearned.get(asked.prompt, []))
        shares: list[float | None] = [None, None]
        change = same_seed_change(before, after, asked.prompt)
        if judge is not None and asked.label in candidates:
            seen = [asked.label in labels for labels in judge([*before, *after], candidates)]
            shares = [100 * sum(part) / len(part) for part in (seen[: len(before)], seen[len(before) :])]
        scores.append(PromptScore(asked.prompt, asked.group, asked.label, len(before), *shares, change))
    return scores


def same_seed_change(original: Sequence[Image], unlearned: Sequence[Image], prompt: str = "") -> float:
    """How far pictures moved at equal seeds, in units of how far apart two seeds of the original are.

    The root mean square pixel distance of the pairs, over that of all pairs of different original pictures. 0: the same
    pictures; about 1: pictures as different as another seed's. Where the original draws one picture for all seeds, the unit
    is one grey level.

    Raises:
        ValueError: fewer than two pictures, or numbers or sizes that differ.
    """
    if len(original) != len(unlearned) or len(original) < 2:
        raise ValueError(
            f"the prompt {prompt!r} has {len(original)} original and {len(unlearned)} unlearned pictures: both must have the "
            "same number, at least 2"
        )
    if len(sizes := {image.size for image in (*original, *unlearned)}) > 1:
        raise ValueError(f"the pictures of the prompt {prompt!r} differ in size: {sorted(sizes)}")
    before, after = (
        np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]) / 255
        for images in (original, unlearned)
    )
    moved = float(np.sqrt(np.mean((after - before) ** 2, dtype=np.float64)))
    # The mean squared difference of all pairs is twice the unbiased variance, which needs no loop over pairs.
    apart = float(np.sqrt(2 * np.mean(before.var(axis=0, ddof=1), dtype=np.float64)))
    return moved / max(apart, GREY_LEVEL)


def audit_metrics(scores: Sequence[PromptScore]) -> dict[str, dict[str, float]]:
    """The means over prompts that go into a report's ``metrics``: shares of both models where they were judged, in percent,
    by the names "concept", "paraphrases", "neighbours" and "kept"; and of the unlearned model the "… change" of each."""
    metrics: dict[str, dict[str, float]] = {"original": {}, "unlearned": {}}
    for group, figure in prompt_groups().items():
        members = [score for score in scores if score.group == group]
        judged = [score for score in members if score.original is not None and score.unlearned is not None]
        if judged:
            metrics["original"][figure.name] = _mean([score.original for score in judged])
            metrics["unlearned"][figure.name] = _mean([score.unlearned for score in judged])
        if members and (change := change_of(figure)):
            metrics["unlearned"][change.name] = _mean([score.change for score in members])
    return {model: figures for model, figures in metrics.items() if figures}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
