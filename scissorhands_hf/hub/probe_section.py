"""What a card tells of the probes of a pipeline, a table and a picture for each report of them; and what its erasures did."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..report.markdown import Safe, code, prose, table
from ..report.probe_report import ProbeReport, ProbeScore


if TYPE_CHECKING:
    import os

    from .run import CardInfo

# In the order of the table: what a report calls the models, and what a card does.
_MODELS = {"reference": "original", "pipeline": "erased", "control": "control"}
PROBE_PLOT = re.compile(r"probes_\d+\.png")
# Settings of probes that are the package's own numbers; any other may hold words of the user's, or name the concept.
_PLAIN_SETTING = re.compile(r"\d+(\.\d+)? ?%?( vectors?| bits)?|noise × [\d.]+|(same|new) word|no words")


def read_probes(probes: Any) -> list[dict[str, Any]]:
    """
    What a card is told of probes, as the dictionaries that a run's folder keeps.

    Args:
        probes (`ProbeReport` or `str` or `os.PathLike` or a list of them):
            Reports of [`~scissorhands_hf.audit.probe_concept`], or the folders or files that they were saved to. Of their
            pictures nothing is taken over.

    Raises:
        TypeError: something else.
        ValueError: a report without a score, or a file that holds another kind of report.
        FileNotFoundError: a folder or file that is not there.
    """
    given: Sequence[ProbeReport | str | os.PathLike] = probes if isinstance(probes, (list, tuple)) else [probes]
    reports = []
    for one in given:
        if isinstance(one, (str, Path)):
            one = ProbeReport.load(one)
        if not isinstance(one, ProbeReport):
            raise TypeError(f"probes holds a {type(one).__name__}; give reports of probe_concept, or where they were saved")
        if not one.scores:
            raise ValueError(f"probes: the report on {one.concept!r} holds no score; run at least one probe")
        reports.append(one.to_dict())
    return reports


def plot_names(info: CardInfo) -> list[str]:
    """Files of the pictures that may be shown: with `disclose="full"` alone, as they name the concept, and all pictures."""
    if (info.disclose, info.pictures) != ("full", "all"):
        return []
    return [f"probes_{number}.png" for number in range(1, len(info.probes) + 1)]


def draw_probes(info: CardInfo, directory: Path) -> None:
    """
    Draw the pictures that may be shown into a run's folder, and take away those of before.

    Raises:
        ImportError: matplotlib is missing.
    """
    for old in directory.glob("probes_*.png"):
        old.unlink()
    for name, report in zip(plot_names(info), info.probes, strict=False):
        ProbeReport.from_dict(report).plot(directory / name)


def public_probes(info: CardInfo) -> list[dict[str, Any]]:
    """What may be seen of the reports. Below `"full"` neither the concept nor any words: how often a probe found it, and in how
    many pictures."""
    if info.disclose == "full":
        return info.probes
    shown = []
    for report in info.probes:
        scores = [{**score, "setting": _plain(score["setting"])} for score in report["scores"]]
        numbers = {name: value for name, value in report.get("measure", {}).items() if isinstance(value, (int, float))}
        shown.append({"concept": None, "scores": scores, "measure": numbers, "unavailable": {}})
    return shown


def _plain(setting: str) -> str:
    return setting if _PLAIN_SETTING.fullmatch(setting) else ""


def probe_sections(info: CardInfo, drawn: Sequence[str]) -> list[dict[str, Any]]:
    """For each report what its section is made of: the concept, the table, remarks, and the picture if it is among `drawn`."""
    sections = []
    for report, name in zip(public_probes(info), [*plot_names(info), *[None] * len(info.probes)], strict=False):
        sections.append(
            {
                "concept": code(report["concept"]) if report["concept"] else Safe("what was removed"),
                "table": _table([_score(values) for values in report["scores"]]),
                "remarks": _remarks(report),
                "plot": Safe(name) if name in drawn else None,
            }
        )
    return sections


def _score(values: dict[str, Any]) -> ProbeScore:
    return ProbeScore(**{name: values[name] for name in ("probe", "setting", "model", "seen", "images", "seed", "step")})


def _table(scores: Sequence[ProbeScore]) -> Safe:
    """A row for each probe and setting, a column for each model: the share, its interval, and the number of pictures."""
    models = [model for model in _MODELS if any(score.model == model for score in scores)]
    rows: dict[tuple[str, str, int], dict[str, ProbeScore]] = {}
    for score in scores:
        # Where settings are not told, those of one probe are told apart by their place alone.
        place, number = (score.probe, score.place), 0
        while score.model in rows.get((*place, number), {}):
            number += 1
        rows.setdefault((*place, number), {})[score.model] = score
    cells = [
        [code(probe, in_table=True), setting, *(_cell(found.get(model)) for model in models)]
        for (probe, setting, _), found in rows.items()
    ]
    return Safe(table(["probe", "setting", *(_MODELS[model] for model in models)], cells, text_columns=2))


def _cell(score: ProbeScore | None) -> Safe:
    if score is None:
        return Safe("")
    low, high = score.interval
    return Safe(f"{score.share:.0f} ({low:.0f}–{high:.0f}; {score.images})")


def _remarks(report: dict[str, Any]) -> list[Safe]:
    models = {score["model"] for score in report["scores"]}
    lines = []
    if "control" not in models:
        lines.append(
            Safe("No control that never saw it was at hand: what these shares are like where nothing was learned is not known.")
        )
    lines += [
        Safe(f"{code(probe)} could not be run: {prose(reason)}") for probe, reason in report.get("unavailable", {}).items()
    ]
    measure = {name: value for name, value in report.get("measure", {}).items() if value is not None}
    if measure:
        how = ", ".join(f"{prose(name.replace('_', ' '))} {code(str(value))}" for name, value in measure.items())
        lines.append(Safe(f"Measured with: {how}."))
    return lines


def what_was_done(reports: Sequence[dict[str, Any]]) -> list[Safe]:
    """Of a pipeline's erasures, in plain words: were the words led elsewhere, and were weights re-initialised?"""
    lines = []
    objectives = [report.get("settings", {}).get("forget_objective") for report in reports]
    if "closed_form" in objectives:
        lines.append(
            Safe(
                "**The words are led elsewhere.** Layers that read prompts answer what was removed as something else; the "
                "denoiser still knows the picture. Whoever has the weights can bring it back with a learned word, or with a "
                "picture as the start."
            )
        )
    if "removal" in objectives:
        lines.append(
            Safe(
                "**It was taken out of what the denoiser makes of pictures**, with words and without, rather than led "
                "elsewhere by its words."
            )
        )
    trims = [report["trim"] for report in reports if "trimmed" in report.get("trim", {})]
    if trims:
        cut = sum(trim["trimmed"] for trim in trims)
        compared = max(trim.get("candidates") or 0 for trim in trims)
        of = f" of the {compared:,} compared" if cut and compared and len(trims) == 1 else ""
        lines.append(Safe(f"{cut:,} weights{of} were re-initialised." if cut else "No weight was re-initialised."))
    return lines
