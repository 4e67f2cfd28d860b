"""Everything that was measured of a concept's erasure, in one object; its picture is drawn in `concept_plot`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .figures import FIGURES, explanations, figures_table, left_out, show
from .markdown import prose, table
from .unlearning_report import UnlearningReport


if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class PromptScore:
    """What was measured of one prompt.

    Args:
        prompt (`str`):
            As the pipeline got it.
        group (`str`):
            "concept", "paraphrase", "neighbour" or "kept".
        label (`str`, *optional*):
            What the judge looked for.
        images (`int`):
            Pictures per model.
        original, unlearned (`float`, *optional*):
            Percent of the pictures in which the judge sees `label`; None where it was not judged.
        change (`float`):
            Root mean square pixel distance of the pictures before and after at equal seeds, in units of that between two
            seeds of the original (0: same picture, about 1: another picture).
    """

    prompt: str
    group: str
    label: str | None
    images: int
    original: float | None
    unlearned: float | None
    change: float

    @property
    def drop(self) -> float | None:
        """Points lost, of what was judged."""
        return None if self.original is None or self.unlearned is None else self.original - self.unlearned


@dataclass
class ConceptErasureReport(UnlearningReport):
    """What an erasure did and what was measured of it. Saved, it holds no picture and no path.

    `metrics` are means over prompts: "concept", "paraphrases", "neighbours" and "kept" in percent for "original" and
    "unlearned" where a judge looked, and of "unlearned" always "concept change", "kept change" and so on.

    Args:
        concepts (`list[str]`, *optional*):
            What was erased.
        anchor (`str`, *optional*):
            What was drawn towards in its place, if anything.
        edit (`dict[str, Any]`, *optional*):
            Of the closed-form edit, the "layers" and "weights" edited, the share of its norm by which each layer changed
            ("per_layer"), and what each concept's prompts show "instead"; and the concepts' "types".
        measure (`dict[str, Any]`, *optional*):
            How it was measured: judge or "same-seed change", pictures per prompt, seed, sampler, steps, guidance.
        prompts (`list[PromptScore]`, *optional*):
            A score for each prompt.
        warnings (`list[str]`, *optional*):
            Sentences on damage and on what could not be measured.
        pictures (`dict[str, dict[str, list[Image]]]`, *optional*):
            By prompt, the pictures of "original" and "unlearned" at equal seeds; drawn, not saved.
    """

    kind: ClassVar[str] = "concept_erasure"

    concepts: list[str] = field(default_factory=list)
    anchor: str | None = None
    edit: dict[str, Any] = field(default_factory=dict)
    measure: dict[str, Any] = field(default_factory=dict)
    prompts: list[PromptScore] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: dict[str, dict[str, list[Image]]] = field(default_factory=dict, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """All fields but `pictures` as JSON-ready values."""
        values = super(ConceptErasureReport, replace(self, pictures={})).to_dict()
        del values["pictures"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConceptErasureReport:
        """The report of [`to_dict`], without pictures."""
        prompts = [PromptScore(**score) for score in values.get("prompts", [])]
        return cls(**{**values, "prompts": prompts})

    def to_markdown(self) -> str:
        """Warnings, the figures (a row each, a column for each model), a row for each prompt, and how it was measured."""
        blocks = [f"**Warning:** {prose(warning)}" for warning in self.warnings]
        if not self.metrics and not self.prompts:
            return "\n\n".join([*blocks, "No figures were measured."]) + "\n"
        (_, *names), rows = figures_table(self.metrics)
        if names:
            models, *figures = zip(*rows, strict=True)
            blocks.append(table(["", *models], [[name, *values] for name, values in zip(names, figures, strict=True)]))
        change = next(figure for figure in FIGURES.values() if figure.is_change)
        if self.prompts:
            heads = ["prompt", "part", "looked for", "pictures", "original, %", "unlearned, %", change.label]
            blocks.append(table(heads, [_cells(score, change.name) for score in self.prompts], text_columns=3))
            names.append(change.name)
        meanings = [f"- **{label}**: {meaning}." for label, meaning in explanations(names)]
        if self.edit.get("instead"):
            pairs = zip(self.concepts, self.edit["instead"], strict=True)
            led = ", ".join(f"{prose(name)} to {prose(other) if other else 'nothing in particular'}" for name, other in pairs)
            meanings.append(f"- Prompts were led from {led}.")
        missing = [f"- {prose(gone)}." for gone in left_out(self.metrics)]
        measured = [f"- Measured with: {prose(self.describe_measure())}."] if self.measure else []
        return (
            "\n\n".join([*blocks, "\n".join([*meanings, *missing, *measured, *(f"- {prose(note)}" for note in self.notes)])])
            + "\n"
        )

    def describe_measure(self) -> str:
        """`measure` as one line: "judge fashion-judge, images per prompt 50, …"."""
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.measure.items() if value is not None)

    def plot(self, path: str | os.PathLike) -> Path:
        """Draw pictures before and after at equal seeds, scores, loss curves and cut per layer to a PNG.

        Raises:
            ImportError: matplotlib or pillow is missing.
            ValueError: the report has nothing to draw.
        """
        from .concept_plot import plot_concept_report

        return plot_concept_report(self, Path(path))


def _cells(score: PromptScore, change: str) -> list[str]:
    """A prompt's row in the table; shares have the digits of any group's, changes those of `change`."""
    shares = [show(name, share) for name, share in (("concept", score.original), ("concept", score.unlearned))]
    return [f'"{score.prompt}"', score.group, score.label or "", str(score.images), *shares, show(change, score.change)]
