"""The picture of a probe report: the share that each probe found, of each model, with its interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .canvas import new_figure
from .markdown import one_line


if TYPE_CHECKING:
    from .probe_report import ProbeReport

COLOURS = {"pipeline": "#e07a5f", "reference": "#8d99ae", "control": "#2b9348"}


def plot_probes(report: ProbeReport, path: Path) -> Path:
    """
    Draw a row for each probe and setting, and in it a point for each model, to a PNG.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the report has no scores.
    """
    if not report.scores:
        raise ValueError("the report holds no scores to draw")
    rows = list(dict.fromkeys((score.probe, score.place) for score in report.scores))
    models = report.models()
    figure = new_figure(figsize=(7.2, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for index, model in enumerate(models):
        scores = [score for score in report.scores if score.model == model]
        places = [rows.index((score.probe, score.place)) + 0.22 * (index - (len(models) - 1) / 2) for score in scores]
        lows, highs = zip(
            *((score.share - score.interval[0], score.interval[1] - score.share) for score in scores), strict=True
        )
        # An end of the interval may round to the other side of a share of 0 or 100 %.
        errors = [[max(0.0, low) for low in lows], [max(0.0, high) for high in highs]]
        shares = [score.share for score in scores]
        axes.errorbar(shares, places, xerr=errors, fmt="o", markersize=4.5, capsize=2, color=COLOURS[model], label=model)
    # Names of users' own are shown as they are: a dollar sign would begin a formula.
    labels = [one_line(f"{probe} {setting}".strip(), limit=48).replace("$", r"\$") for probe, setting in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(-3, 103)
    axes.set_xlabel("pictures that show the concept, %")
    axes.set_title(one_line(f"Probes of “{report.concept}”", limit=60).replace("$", r"\$"), fontsize=10, loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(models))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, format="png")
    return path
