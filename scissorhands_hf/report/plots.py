"""The picture of a report: figures of each model, loss curves, and how much of each layer was cut."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .canvas import new_figure
from .figures import FIGURES, history_figures, is_measured, measured, names_of


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .unlearning_report import UnlearningReport

COLOURS = {"original": "#8d99ae", "retrained": "#2b9348", "unlearned": "#e07a5f"}


def plot_report(report: "UnlearningReport", path: Path) -> Path:
    """Draw the parts that the report has, side by side, to a PNG.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the report has nothing to draw.
    """
    losses = [row for row in report.history if is_measured(row.get("retain_loss"))]
    cut = report.trim.get("per_module")
    panels = [
        *(partial(draw_metrics, metrics=part, title=title) for title, part in by_unit(report.metrics).items()),
        *([lambda axes: draw_losses(axes, losses)] if losses else []),
        *([lambda axes: draw_cut(axes, cut)] if cut else []),
    ]
    if not panels:
        raise ValueError("the report holds no figures, no losses and no trim to draw")
    figure = new_figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, format="png")
    return path


def by_unit(metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, dict[str, float]]]:
    """The figures that share an axis, by its title: those of one unit; figures that are not known among themselves."""
    titles = {"%": "Measured, in percent", "": "Measured"}
    parts: dict[str, dict[str, dict[str, float]]] = {}
    for name in sorted(names_of(metrics), key=lambda name: list(FIGURES).index(name) if name in FIGURES else len(FIGURES)):
        unit = FIGURES[name].unit if name in FIGURES else ""
        part = parts.setdefault(titles.get(unit, f"Measured, {unit}"), {})
        for model, figures in measured(metrics).items():
            if name in figures:
                part.setdefault(model, {})[name] = figures[name]
    return parts


def draw_metrics(axes: "Axes", metrics: dict[str, dict[str, float]], title: str = "Measured, in percent") -> None:
    """Grouped bars: one group for each figure that some model has, one bar for each model."""
    names = names_of(metrics)
    percent = all(name in FIGURES and FIGURES[name].unit == "%" for name in names)
    width = 0.8 / len(metrics)
    for index, (model, figures) in enumerate(metrics.items()):
        places = [x + (index - (len(metrics) - 1) / 2) * width for x, name in enumerate(names) if name in figures]
        values = [figures[name] for name in names if name in figures]
        bars = axes.bar(places, values, width, label=model, color=COLOURS.get(model))
        axes.bar_label(bars, fmt="%.1f" if percent else "%.3g", fontsize=7, padding=1)
    axes.set_xticks(range(len(names)), names)
    if percent:
        axes.set_ylim(0, 112)
    else:
        axes.margins(y=0.12)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, -0.24), ncols=len(metrics), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_losses(axes: "Axes", history: list[dict[str, float]]) -> None:
    """Retain and forget loss over the optimizer steps of repair."""
    colours = {"retain": COLOURS["retrained"], "forget": COLOURS["unlearned"]}
    for figure in history_figures():
        rows = [row for row in history if is_measured(row.get(figure.name))]
        values = [row[figure.name] for row in rows]
        axes.plot([row["step"] for row in rows], values, label=figure.heading, color=colours.get(figure.over), marker=".")
    axes.set_xlabel("optimizer step")
    axes.set_title("Loss during repair", fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_cut(axes: "Axes", per_module: dict[str, dict[str, int]], most: int = 24) -> None:
    """Share of each module's weights that was re-initialised; the `most` cut modules, in the model's order."""
    shares = {name: 100 * row["trimmed"] / row["weights"] for name, row in per_module.items()}
    shown = set(sorted(shares, key=shares.get, reverse=True)[:most])
    draw_bars(axes, {name: shares[name] for name in per_module if name in shown})
    axes.set_title("Re-initialised weights, % of each module", fontsize=10)


def draw_bars(axes: "Axes", values: dict[str, float]) -> None:
    """A bar for each module, the first one on top."""
    axes.barh(range(len(values)), list(values.values()), color=COLOURS["unlearned"])
    axes.set_yticks(range(len(values)), [_tail(name) for name in values], fontsize=6)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def _tail(name: str, length: int = 34) -> str:
    # What all of a pipeline's names have in the middle leaves no room for where in the model they are.
    name = name.replace(".attentions.", ".").replace(".transformer_blocks.", ".")
    return name if len(name) <= length else "…" + name[-length:]
