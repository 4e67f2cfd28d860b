"""What probes of a concept found in a pipeline, beside a reference that knows it and a control that never saw it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .intervals import wilson_interval
from .markdown import Safe, code, prose, table
from .strict_json import plain_numbers, to_json


if TYPE_CHECKING:
    from PIL.Image import Image

REPORT_NAME = "probe_report.json"
MODELS = ("pipeline", "reference", "control")
"""What is probed, what it is to be compared with: a model that knows the concept, and one that never saw it."""


@dataclass(frozen=True)
class ProbeScore:
    """
    In how many pictures of one probe a judge saw the concept.

    Args:
        probe (`str`):
            Its name, as "token".
        setting (`str`):
            Of the probe, as "4 vectors"; "" where it has but one.
        model (`str`):
            "pipeline", "reference" or "control".
        seen (`int`):
            Pictures that show the concept.
        images (`int`):
            Pictures drawn, at least 1.
        seed (`int`):
            Of their noise, and of what the probe learned.
        step (`int`, *optional*):
            Of training, where the score is one of a curve.
    """

    probe: str
    setting: str
    model: str
    seen: int
    images: int
    seed: int
    step: int | None = None

    @property
    def place(self) -> str:
        """The setting, and the step of a curve: a row of tables."""
        return self.setting if self.step is None else f"{self.setting}, {self.step} steps"

    @property
    def share(self) -> float:
        """Percent of the pictures."""
        return 100 * self.seen / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Percent that hold the true share in 95 % of cases, see [`~scissorhands_hf.report.intervals.wilson_interval`]."""
        low, high = wilson_interval(self.seen, self.images)
        return 100 * low, 100 * high


@dataclass
class ProbeReport:
    """
    What [`~scissorhands_hf.audit.probe_concept`] found. Saved, it holds no path, and no picture unless asked for.

    Args:
        concept (`str`):
            What was looked for.
        scores (`list[ProbeScore]`, *optional*):
            One for each probe, setting and model.
        unavailable (`dict[str, str]`, *optional*):
            Probes that were asked for and could not be run, each with the reason.
        measure (`dict[str, Any]`, *optional*):
            How it was measured: judge, pictures a share, seed, sampling, the attacker's pictures.
        seconds (`dict[str, dict[str, float]]`, *optional*):
            Wall-clock seconds of each probe, by model.
        versions (`dict[str, str]`, *optional*):
            Of the libraries.
        pictures (`dict[tuple[str, str, str], list[Image]]`, *optional*):
            Some of what was drawn, by probe, setting and model; saved only when asked for.
    """

    kind: ClassVar[str] = "probes"

    concept: str
    scores: list[ProbeScore] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    measure: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    pictures: dict[tuple[str, str, str], list[Image]] = field(default_factory=dict, compare=False, repr=False)

    def score(self, probe: str, setting: str = "", model: str = "pipeline", step: int | None = None) -> ProbeScore:
        """
        The score of one probe.

        Raises:
            KeyError: it was not measured.
        """
        for score in self.scores:
            if (score.probe, score.setting, score.model, score.step) == (probe, setting, model, step):
                return score
        raise KeyError(f"probe={probe!r}, setting={setting!r}, model={model!r}, step={step!r} was not measured")

    def areas(self) -> dict[str, dict[str, float]]:
        """
        For each curve, "relearning: same word", the area below it by model: the mean share, in percent, from the first to the
        last of its steps, which lie on straight lines between those measured.
        """
        found: dict[str, dict[str, float]] = {}
        for name, setting, model in dict.fromkeys((s.probe, s.setting, s.model) for s in self.scores if s.step is not None):
            curve = sorted(
                (score.step, score.share)
                for score in self.scores
                if (score.probe, score.setting, score.model) == (name, setting, model)
            )
            pairs = list(pairwise(curve))
            if pairs:
                area = sum((after - before) * (low + high) / 2 for (before, low), (after, high) in pairs)
                found.setdefault(f"{name}: {setting}", {})[model] = area / (curve[-1][0] - curve[0][0])
        return found

    def models(self) -> list[str]:
        """Those that were measured, the probed one first."""
        return [model for model in MODELS if any(score.model == model for score in self.scores)]

    def to_dict(self) -> dict[str, Any]:
        """All fields but `pictures` as JSON-ready values, with the share and interval of each score."""
        scores = [{**asdict(score), "share": score.share, "interval": list(score.interval)} for score in self.scores]
        rest = {name: getattr(self, name) for name in ("concept", "unavailable", "measure", "seconds", "versions")}
        return plain_numbers({"report": self.kind, **rest, "scores": scores, "areas": self.areas()})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbeReport:
        """
        The report of [`to_dict`], without pictures.

        Raises:
            ValueError: the values are those of another kind of report.
        """
        values = dict(values)
        if (kind := values.pop("report", None)) != cls.kind:
            raise ValueError(f"this is a report of kind {kind!r}, not {cls.kind!r}")
        values.pop("areas", None)
        counted = ("probe", "setting", "model", "seen", "images", "seed", "step")
        scores = [ProbeScore(**{name: score[name] for name in counted}) for score in values.pop("scores", [])]
        return cls(scores=scores, **values)

    def save(self, path: str | os.PathLike, *, pictures: bool = False) -> Path:
        """
        Write `probe_report.json` into the folder `path` (or to `path` itself if it ends in .json).

        Args:
            path (`str` or `os.PathLike`):
                The folder, or the file.
            pictures (`bool`, *optional*, defaults to `False`):
                Write some of the pictures beside it, which show the concept wherever a probe found it.
        """
        path = Path(path)
        target = path if path.suffix == ".json" else path / REPORT_NAME
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        partial.write_text(to_json(self.to_dict()), encoding="utf-8")
        os.replace(partial, target)
        if pictures:
            from .strips import compose_strip

            for number, (key, images) in enumerate(self.pictures.items()):
                # Settings may hold words of the user's, which are no file names.
                compose_strip(images).save(target.with_name(f"{target.stem}_{number:02d}_{key[0]}_{key[2]}.png"))
        return target

    @classmethod
    def load(cls, path: str | os.PathLike) -> ProbeReport:
        """Read a report that [`save`] wrote, from its folder or file."""
        path = Path(path)
        return cls.from_dict(json.loads((path if path.suffix == ".json" else path / REPORT_NAME).read_text(encoding="utf-8")))

    def to_markdown(self) -> str:
        """A row for each probe and setting, a column for each model; then what could not be run, and how it was measured."""
        by_place = {(score.probe, score.place, score.model): score for score in self.scores}
        models = self.models()
        places = dict.fromkeys((score.probe, score.place) for score in self.scores)
        rows = [
            [code(place[0], in_table=True), place[1], *(_cell(by_place.get((*place, model))) for model in models)]
            for place in places
        ]
        for name, areas in self.areas().items():
            probe, _, setting = name.partition(": ")
            cells = [Safe(f"{areas[model]:.1f}") if model in areas else Safe("") for model in models]
            rows.append([code(probe, in_table=True), f"{setting}, area below the curve", *cells])
        blocks = [f"Pictures that show {code(self.concept)}, in percent, with the interval that holds 95 %:"]
        blocks.append(table(["probe", "setting", *models], rows, text_columns=2) if rows else "No probe was run.")
        notes = [f"- {code(probe)} is not available: {prose(reason)}" for probe, reason in self.unavailable.items()]
        if self.measure:
            how = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.measure.items() if value is not None)
            notes.append(f"- Measured with: {prose(how)}.")
        return "\n\n".join([*blocks, *(["\n".join(notes)] if notes else [])]) + "\n"

    def plot(self, path: str | os.PathLike) -> Path:
        """
        Draw the shares with their intervals to a PNG.

        Raises:
            ImportError: matplotlib is missing.
            ValueError: nothing was measured.
        """
        from .probe_plot import plot_probes

        return plot_probes(self, Path(path))


def _cell(score: ProbeScore | None) -> Safe:
    if score is None:
        return Safe("")
    low, high = score.interval
    return Safe(f"{score.share:.1f} ({low:.0f}–{high:.0f}; {score.images})")
