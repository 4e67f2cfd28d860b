"""One object with everything that was measured of a run."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .figures import FIGURES, average_gap, explanations, figures_table, left_out, measured, names_of
from .markdown import prose, table
from .strict_json import plain_numbers, to_json


REPORT_NAME = "unlearning_report.json"


@dataclass
class UnlearningReport:
    """What a run did and what was measured of it. Only measured figures are in it; it holds no example and no path.

    Args:
        settings (`dict[str, Any]`, *optional*):
            Effective settings of the method.
        metrics (`dict[str, dict[str, float | None]]`, *optional*):
            For each model measured ("original", "unlearned", "retrained", …) its figures by name, such as UA, RA, TA and
            MIA in percent. One that came out as no finite number is null in the file, and shown nowhere.
        trim (`dict[str, Any]`, *optional*):
            Threshold, counts and re-initialised weights per module.
        history (`list[dict[str, float]]`, *optional*):
            One dict per log step with step, retain_loss, forget_loss, projected_share and more.
        seconds (`dict[str, float]`, *optional*):
            Wall-clock seconds by stage, and of retraining as "retrained" where that was measured.
        notes (`list[str]`, *optional*):
            Sentences on how figures were measured (set, size, seed), for tables and cards.
        versions (`dict[str, str]`, *optional*):
            Of the libraries.
        sets (`dict[str, int]`, *optional*):
            Number of examples by set: "forget", "retain", and "eval:NAME" of evaluation sets.
    """

    kind: ClassVar[str] = "unlearning"  # tells the classes of saved reports apart

    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    trim: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float | None]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    sets: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values, with `average_gap` to the retrained model for each measured model. A number that is
        not finite is None; of settings, where it means something, its name as text ("inf")."""
        values = {"report": self.kind, **asdict(self), "average_gap": self.average_gaps()}
        values["settings"] = {
            name: str(value) if isinstance(value, float) and math.isinf(value) else value
            for name, value in self.settings.items()
        }
        return plain_numbers(values)

    def average_gaps(self) -> dict[str, float]:
        """Average gap in points to the model called "retrained", where there is one, for every other model; none where figures
        have other units than percent, as losses and perplexities of language models, since a mean over them means nothing."""
        metrics = measured(self.metrics)
        reference = metrics.get("retrained")
        if reference is None or any(FIGURES[name].unit != "%" for name in names_of(metrics) if name in FIGURES):
            return {}
        return {name: average_gap(m, reference) for name, m in metrics.items() if name != "retrained" and m}

    def save(self, path: str | os.PathLike) -> Path:
        """Write `unlearning_report.json` into the folder `path` (or to `path` itself if it ends in .json)."""
        path = Path(path)
        target = path if path.suffix == ".json" else path / REPORT_NAME
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        partial.write_text(to_json(self.to_dict()), encoding="utf-8")
        os.replace(partial, target)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike) -> "UnlearningReport":
        """Read a report that [`save`] wrote, from its folder or file; it comes back as the class that wrote it.

        Raises:
            ValueError: the file holds a report of a class that is not this one or a kind of it.
        """
        path = Path(path)
        values = json.loads((path if path.suffix == ".json" else path / REPORT_NAME).read_text(encoding="utf-8"))
        values.pop("average_gap", None)
        values.pop("earlier", None)  # of a published report
        from . import concept_report, language_report  # noqa: F401  (their kinds are known once they are imported)

        kind = values.pop("report", UnlearningReport.kind)
        found = next((c for c in (UnlearningReport, *UnlearningReport.__subclasses__()) if c.kind == kind), None)
        if found is None or not issubclass(found, cls):
            raise ValueError(f"{path.name} holds a report of kind {kind!r}, which is no {cls.__name__}")
        return found.from_dict(values)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "UnlearningReport":
        """The report with these field values."""
        return cls(**values)

    def to_markdown(self) -> str:
        """The measured figures as a Markdown table, one row a model, with what each figure means below it."""
        if not self.metrics:
            return "No figures were measured.\n"
        heads, rows = figures_table(self.metrics, self.average_gaps())
        meanings = [f"- **{label}**: {meaning}." for label, meaning in explanations(heads)]
        notes = [f"- {prose(note)}" for note in (*(f"{gone}." for gone in left_out(self.metrics)), *self.notes)]
        return "\n".join([table(heads, rows), "", *meanings, *notes]) + "\n"

    def plot(self, path: str | os.PathLike) -> Path:
        """Draw figures, loss curves and cut per layer to a PNG at `path`; see `plots`."""
        from .plots import plot_report

        return plot_report(self, Path(path))
