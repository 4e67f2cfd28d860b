"""The picture of an audit of language models: a panel for each unit, a row for each figure, a mark for each model."""

from pathlib import Path
from typing import TYPE_CHECKING

from .canvas import new_figure
from .figures import FIGURES, measured
from .plots import COLOURS


if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .language_report import LanguageReport

_TITLES = {"%": "In percent", "0 to 1": "0 to 1", "area under the curve": "Membership attacks, area under the curve"}
# Of models that have no colour of their own.
_OTHERS = ("#4361ee", "#9d4edd", "#f4a259", "#1b4332")
_RANGES = {"%": (-3.0, 103.0), "0 to 1": (-0.03, 1.03), "area under the curve": (-0.03, 1.03)}


def plot_language_report(report: "LanguageReport", path: Path) -> Path:
    """Draw the figures to a PNG: those of one unit share an axis, and those of no common unit have one each.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: the report has nothing to draw.
    """
    panels = panels_of(report)
    if not panels:
        raise ValueError("the report holds no figures to draw")
    wide = {title: names for title, names in panels.items() if len(names) > 1}
    narrow = {title: names for title, names in panels.items() if len(names) == 1}
    columns = [*([wide[title]] for title in wide), *([list(narrow.values())] if narrow else [])]
    rows = max([*map(len, wide.values()), 3 * len(narrow)])
    figure = new_figure(figsize=(5.4 * len(columns), 1.6 + 0.27 * rows), layout="constrained")
    parts = figure.subfigures(1, len(columns), squeeze=False)[0]
    for title, part in zip(wide, parts, strict=False):
        draw_marks(part.subplots(), report, wide[title], title)
    if narrow:
        for axes, (title, names) in zip(parts[-1].subplots(len(narrow), 1, squeeze=False)[:, 0], narrow.items(), strict=True):
            draw_marks(axes, report, names, title)
    models = list(measured(report.metrics))
    handles, labels = parts[0].axes[0].get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    figure.legend(
        [found[model] for model in models if model in found], [model for model in models if model in found],
        loc="outside lower center", ncols=len(models), frameon=False, fontsize=9,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, format="png")
    return path


def panels_of(report: "LanguageReport") -> dict[str, list[str]]:
    """Figures by the title of their axis, in the order of the tables."""
    panels: dict[str, list[str]] = {}
    for _, names in report.groups():
        for name in names:
            unit = FIGURES[name].unit if name in FIGURES else ""
            panels.setdefault(_TITLES.get(unit, f"{name}, {unit}" if unit and unit != name else name), []).append(name)
    return panels


def draw_marks(axes: "Axes", report: "LanguageReport", names: list[str], title: str) -> None:
    """A row for each figure, the first one on top; a mark for each model, on a line where it has an interval."""
    others = iter(_OTHERS * 4)
    for index, (model, figures) in enumerate(measured(report.metrics).items()):
        colour = COLOURS.get(model) or next(others)
        found = [
            (row, figures[name], report.intervals.get(model, {}).get(name)) for row, name in enumerate(names) if name in figures
        ]
        shift = 0.16 * (index - (len(report.metrics) - 1) / 2)
        axes.scatter([value for _, value, _ in found], [row + shift for row, _, _ in found], s=26, color=colour, label=model)
        for row, _, ends in found:
            if ends is not None:
                axes.plot(ends, [row + shift] * 2, color=colour, linewidth=1.4, alpha=0.6)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    unit = FIGURES[names[0]].unit if names[0] in FIGURES else ""
    if unit in _RANGES:
        axes.set_xlim(*_RANGES[unit])
    else:
        axes.margins(x=0.2)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_title(title, fontsize=10)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
