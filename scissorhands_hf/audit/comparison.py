"""What is asked of a pipeline before and after, and how the pictures differ; they are drawn in `drawing`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..report.concept_report import PromptScore
from ..report.figures import change_of, prompt_groups


if TYPE_CHECKING:
    from PIL.Image import Image

    from .judges import Judge

GREY_LEVEL = 1 / 255


@dataclass(frozen=True)
class AuditPrompt:
    """A prompt to draw before and after.

    Args:
        prompt (`str`):
            As the pipeline gets it.
        group (`str`):
            "concept", "paraphrase", "neighbour" or "kept".
        label (`str`, *optional*):
            What a judge is to look for in its pictures; None where nothing can be looked for.
    """

    prompt: str
    group: str
    label: str | None = None

    def __post_init__(self) -> None:
        if self.group not in prompt_groups():
            raise ValueError(f"group={self.group!r} of the prompt {self.prompt!r} is none of {', '.join(prompt_groups())}")


def compare_pictures(
    prompts: Sequence[AuditPrompt],
    original: Mapping[str, Sequence[Image]],
    unlearned: Mapping[str, Sequence[Image]],
    judge: Judge | None = None,
) -> list[PromptScore]:
    """Score each prompt: how far its pictures moved, and in how many a judge sees what they are to show.

    Args:
        prompts (`Sequence[AuditPrompt]`):
            Which pictures to compare, in the order of the result.
        original, unlearned (`Mapping[str, Sequence[Image]]`):
            By prompt, pictures of equal seeds at equal places, as [`draw_pictures`] returns them; at least two a prompt,
            all of one size.
        judge (`Judge`, *optional*):
            Looks for `label` among the labels of all prompts that it knows. Prompts with a label that it does not know, and
            all prompts without a judge, have no shares.

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
    """The means over prompts that go into a report's `metrics`: shares of both models where they were judged, in percent,
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
