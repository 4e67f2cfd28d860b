"""Everything that an audit measured of language models, in one object; its picture is drawn in `language_plot`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .figures import FIGURES, is_measured, left_out, measured, names_of, sentence, show
from .language_figures import LANGUAGE_GROUPS
from .markdown import Safe, prose, table
from .unlearning_report import UnlearningReport


@dataclass
class AnswerExample:
    """
    A question with what each model says. It is forget data: it stays in the report's own file, and no push publishes it.

    Args:
        question, expected (`str`):
            As in the forget set.
        answers (`dict[str, str]`):
            By model, its greedy answer.
    """

    question: str
    expected: str
    answers: dict[str, str]


@dataclass
class LanguageReport(UnlearningReport):
    """What [`~scissorhands_hf.audit.audit_language_model`] measured. It holds no example unless the audit was asked for some.

    Args:
        intervals (`dict[str, dict[str, list[float]]]`, *optional*):
            By model and figure, the lower and upper end of its 95 % interval.
        measure (`dict[str, Any]`, *optional*):
            How it was measured: seed, tokens, batch size, steps of relearning, dtype.
        examples (`list[AnswerExample]`, *optional*):
            Forget questions with the answers of each model; never published.
    """

    kind: ClassVar[str] = "language_audit"

    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    measure: dict[str, Any] = field(default_factory=dict)
    examples: list[AnswerExample] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LanguageReport:
        """The report of [`to_dict`]."""
        return cls(**{**values, "examples": [AnswerExample(**example) for example in values.get("examples", [])]})

    def average_gaps(self) -> dict[str, float]:
        """None: the figures of language models have many units, and a mean over them means nothing."""
        return {}

    def groups(self) -> list[tuple[str, list[str]]]:
        """The figures that some model has, under their headings; those that are not known come last."""
        names = names_of(self.metrics)
        parts = [
            (group.heading, [row["name"] for row in group.rows if row["name"] in names])
            for group in LANGUAGE_GROUPS
        ]  # fmt: skip
        known = {name for _, part in parts for name in part}
        parts.append(("Others", [name for name in names if name not in known]))
        return [(heading, part) for heading, part in parts if part]

    def to_markdown(self) -> str:
        """A table under each heading, a row for each figure and a column for each model; then what the figures mean, how they
        were measured, and the examples, where there are any."""
        models = [model for model, figures in measured(self.metrics).items() if figures]
        if not models:
            return "No figures were measured.\n"
        blocks = []
        for heading, names in self.groups():
            rows = [[name, *(self._cell(model, name) for model in models)] for name in names]
            blocks += [f"### {heading}", table(["", *models], rows)]
        known = [FIGURES[name] for name in names_of(self.metrics) if name in FIGURES]
        meanings = {figure.label or figure.name: f"{sentence(figure)} ({figure.source})" for figure in known}
        lines = [f"- **{prose(label)}**: {meaning}." for label, meaning in meanings.items()]
        if self.sets:
            lines.append(f"- Examples: {prose(', '.join(f'{name} {size:,}' for name, size in self.sets.items()))}.")
        lines += [f"- {prose(gone)}." for gone in left_out(self.metrics)]
        if self.measure:
            lines.append(f"- Measured with: {prose(self.describe_measure())}.")
        lines += [f"- {prose(note)}" for note in self.notes]
        blocks += ["### How it was measured", "\n".join(lines)]
        if self.examples:
            blocks.append("### Examples")
            blocks += [_example(example) for example in self.examples]
        return "\n\n".join(blocks) + "\n"

    def describe_measure(self) -> str:
        """`measure` as one line."""
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.measure.items() if value is not None)

    def _cell(self, model: str, name: str) -> str:
        value = self.metrics[model].get(name)
        if not is_measured(value):
            return ""
        ends = self.intervals.get(model, {}).get(name)
        return (
            show(name, value) if ends is None else Safe(f"{show(name, value)} ({show(name, ends[0])} to {show(name, ends[1])})")
        )

    def plot(self, path: str | os.PathLike) -> Path:
        """Draw the figures of all models side by side to a PNG at `path`.

        Raises:
            ImportError: matplotlib is missing.
            ValueError: the report has nothing to draw.
        """
        from .language_plot import plot_language_report

        return plot_language_report(self, Path(path))


def _example(example: AnswerExample) -> str:
    rows = [["expected", prose(example.expected)], *([model, prose(answer)] for model, answer in example.answers.items())]
    return f"{prose(example.question)}\n\n{table(['', 'answer'], rows, text_columns=2)}"
