"""The picture of an erasure: the same seeds before and after, what a judge saw in them, loss curves, and the cut."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .canvas import new_figure
from .figures import FIGURES, change_of, is_measured, measured, prompt_groups
from .plots import COLOURS, draw_bars, draw_cut, draw_losses
from .strips import GAP, compose_strip, shown_size


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from PIL.Image import Image

    from .concept_report import ConceptErasureReport, PromptScore

MOST_PROMPTS = {"kept": 4}  # of the other groups 3
MOST_SEEDS = 5
WIDTH = 13.6  # inches, as are all lengths below
LABEL_WIDTH = 3.1
MIDDLE_GAP = 0.4
HALF_WIDTH = (WIDTH - LABEL_WIDTH - MIDDLE_GAP - 0.15) / 2
HEADING_CHARACTERS = 32
HEADING_HEIGHT = 0.42
TITLE_HEIGHT = 0.75
WARNING_HEIGHT = 0.24
PANEL_HEIGHT = 3.5
DPI = 110


@dataclass(frozen=True)
class PictureRow:
    """One prompt's line in the picture."""

    score: PromptScore
    original: list[Image]
    unlearned: list[Image]


def plot_concept_report(report: ConceptErasureReport, path: Path) -> Path:
    """Draw the parts that the report has to a PNG. The texts of users appear as written, cut where they are long.

    Raises:
        ImportError: matplotlib or pillow is missing.
        ValueError: the report has nothing to draw.
    """
    groups = choose_rows(report)
    losses = [row for row in report.history if is_measured(row.get("retain_loss"))]
    cut, edited = report.trim.get("per_module"), report.edit.get("per_layer")
    metrics = measured(report.metrics)
    # The figures of the groups of prompts, and whatever else is in percent.
    drawn = [name for name, figure in FIGURES.items() if figure.place == "metrics" and figure.unit == "%"]
    shares = {model: {name: figures[name] for name in drawn if name in figures} for model, figures in metrics.items()}
    changes = {
        figure.name: metrics["unlearned"][change.name]
        for figure in prompt_groups().values()
        if (change := change_of(figure)) and change.name in metrics.get("unlearned", {})
    }
    panels = [
        *([lambda axes: draw_shares(axes, shares)] if any(shares.values()) else []),
        *([lambda axes: draw_changes(axes, changes)] if changes else []),
        *([lambda axes: draw_losses(axes, losses)] if losses else []),
        *([lambda axes: draw_cut_small(axes, cut)] if cut else []),
        *([lambda axes: draw_edit(axes, edited)] if edited and not cut else []),
    ]
    if not panels and not groups:
        raise ValueError("the report holds no pictures, no figures, no losses and no trim to draw")

    strips = {group: [strip_height(row) for row in rows] for group, rows in groups.items()}
    picture_height = sum(HEADING_HEIGHT + sum(heights) for heights in strips.values())
    top = TITLE_HEIGHT + WARNING_HEIGHT * min(len(report.warnings), 3)
    height = top + picture_height + (PANEL_HEIGHT if panels else 0)
    figure = new_figure(figsize=(WIDTH, height), layout="constrained" if panels else None)
    parts = figure.subfigures(2, 1, height_ratios=[top + picture_height, PANEL_HEIGHT]) if panels else [figure]
    _draw_title(parts[0], report, top + picture_height)
    _draw_groups(parts[0], groups, strips, top, top + picture_height)
    if panels:
        for axes, draw in zip(parts[1].subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw(axes)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, format="png")
    return path


def choose_rows(report: ConceptErasureReport) -> dict[str, list[PictureRow]]:
    """The prompts to show, by group: where there are too many, those that came out worst, in the report's order."""

    def badness(score: PromptScore) -> tuple[float, float]:
        if groups[score.group].direction == "down":
            return (score.unlearned or 0.0, -score.change)
        return (score.drop or 0.0, score.change)

    groups = prompt_groups()
    chosen: dict[str, list[PictureRow]] = {}
    for group in groups:
        members = [s for s in report.prompts if s.group == group and all(report.pictures.get(s.prompt, {}).values())]
        members = [s for s in members if {"original", "unlearned"} <= report.pictures.get(s.prompt, {}).keys()]
        worst = sorted(members, key=badness, reverse=True)[: MOST_PROMPTS.get(group, 3)]
        rows = [
            PictureRow(s, *(report.pictures[s.prompt][model][:MOST_SEEDS] for model in ("original", "unlearned")))
            for s in members
            if any(s is shown for shown in worst)
        ]
        if rows:
            chosen[group] = rows
    return chosen


def shorten(text: str, width: int, lines: int = 2) -> str:
    """`text` in at most `lines` lines of `width` characters, with an ellipsis where it was cut."""
    wrapped = textwrap.wrap(" ".join(text.split()), width, max_lines=lines, placeholder=" …")
    return "\n".join(line if len(line) <= width else f"{line[: width - 1]}…" for line in wrapped)


def strip_height(row: PictureRow) -> float:
    """Inches that a row takes, when five pictures fill half of the width beside the label."""
    width, height = shown_size(row.original[0])
    return HALF_WIDTH / (MOST_SEEDS * (width + GAP)) * height + 0.12


def _draw_title(figure: Figure | SubFigure, report: ConceptErasureReport, height: float) -> None:
    names = ", ".join(f"“{concept}”" for concept in report.concepts)
    title = f"Erased: {names}" if names else "Concept erasure"
    place = height - 0.28
    figure.text(0.015, place / height, shorten(title, 90, 1), fontsize=14, weight="bold", va="center", parse_math=False)
    place -= 0.27
    if report.measure:
        figure.text(
            0.015, place / height, shorten(report.describe_measure(), 180, 1), fontsize=8, va="center", parse_math=False
        )
    for warning in report.warnings[:3]:
        place -= WARNING_HEIGHT
        text = shorten(f"Warning: {warning}", 160, 1)
        figure.text(0.015, place / height, text, fontsize=9, color="#c1121f", va="center", parse_math=False)


def _draw_groups(
    figure: Figure | SubFigure,
    groups: dict[str, list[PictureRow]],
    strips: dict[str, list[float]],
    top: float,
    height: float,
) -> None:
    """Rows from the top down; the axes are placed by hand, in inches, so that pictures line up over all rows."""
    left = {"original": LABEL_WIDTH, "unlearned": LABEL_WIDTH + HALF_WIDTH + MIDDLE_GAP}
    known = prompt_groups()
    place = height - top
    for group, rows in groups.items():
        line = (place - 0.3) / height
        # In two lines where one would run into the words over the pictures.
        heading = shorten(f"{known[group].heading}: {known[group].wanted}", HEADING_CHARACTERS)
        figure.text(0.015, line, heading, fontsize=10, weight="bold", va="center_baseline", linespacing=1.0)
        for model, word in (("original", "before"), ("unlearned", "after, same seeds")):
            figure.text(left[model] / WIDTH, line, word, fontsize=9, color=COLOURS[model], weight="bold")
        place -= HEADING_HEIGHT
        for row, row_height in zip(rows, strips[group], strict=True):
            place -= row_height
            middle = (place + row_height / 2) / height
            figure.text(
                0.022, middle + 0.02 / height, shorten(row.score.prompt, 34) or "(empty prompt)",
                fontsize=9, va="bottom", parse_math=False,
            )  # fmt: skip
            figure.text(
                0.022, middle - 0.04 / height, _verdict(row.score), fontsize=8, color="#555", va="top", parse_math=False
            )
            for model in ("original", "unlearned"):
                strip = compose_strip(getattr(row, model), MOST_SEEDS)
                axes = figure.add_axes(
                    (left[model] / WIDTH, place / height, HALF_WIDTH / WIDTH, (row_height - 0.06) / height), anchor="W"
                )
                axes.imshow(strip, interpolation="lanczos")
                axes.set_axis_off()


def _verdict(score: PromptScore) -> str:
    seen = ""
    if score.original is not None and score.unlearned is not None:
        seen = f"{shorten(score.label or '', 20, 1)}: {score.original:.0f} % → {score.unlearned:.0f} %   "
    return f"{seen}moved {score.change:.2f}"


def draw_shares(axes: Axes, shares: dict[str, dict[str, float]]) -> None:
    """Grouped bars of the shares in percent, one group for each group of prompts."""
    wanted = {n: f.wanted for n, f in FIGURES.items() if any(n in figures for figures in shares.values())}
    models = {model: figures for model, figures in shares.items() if figures}
    width = 0.8 / len(models)
    for index, (model, figures) in enumerate(models.items()):
        places = [x + (index - (len(models) - 1) / 2) * width for x, name in enumerate(wanted) if name in figures]
        word = {"original": "before", "unlearned": "after"}.get(model, model)
        bars = axes.bar(places, [figures[n] for n in wanted if n in figures], width, label=word, color=COLOURS.get(model))
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)
    axes.set_xticks(range(len(wanted)), [_tick(name, meaning) for name, meaning in wanted.items()], fontsize=7)
    axes.set_ylim(0, 124)
    axes.set_title("Pictures that show it, %", fontsize=10)
    axes.legend(fontsize=8, frameon=False, ncols=len(models), loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)


def draw_changes(axes: Axes, changes: dict[str, float]) -> None:
    """Bars of the same-seed change, against what another seed would have changed."""
    wanted = {name: change_of(FIGURES[name]) for name in changes}
    colours = [COLOURS["unlearned" if wanted[name].direction == "up" else "retrained"] for name in changes]
    bars = axes.bar(range(len(changes)), list(changes.values()), 0.6, color=colours)
    axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=1)
    axes.axhline(1, color="#555", linewidth=0.8, linestyle=":")
    axes.text(len(changes) - 0.55, 1.01, "another seed", fontsize=7, color="#555", ha="right", va="bottom")
    axes.set_xticks(range(len(changes)), [_tick(name, wanted[name].wanted) for name in changes], fontsize=7)
    axes.set_ylim(0, 1.15 * max(1.1, *changes.values()))
    axes.set_title("How far pictures moved, same seeds", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def draw_cut_small(axes: Axes, per_module: dict[str, dict[str, int]]) -> None:
    """The cut, with a title that ends where the axes end: the names of modules take the space to the left."""
    draw_cut(axes, per_module, most=14)
    axes.set_title("")
    axes.set_title("Re-initialised, % of each module", fontsize=10, loc="right")


def draw_edit(axes: Axes, per_layer: dict[str, float]) -> None:
    """By how much the closed-form edit changed text layers; the most changed ones, in the model's order."""
    shown = set(sorted(per_layer, key=per_layer.__getitem__, reverse=True)[:14])
    draw_bars(axes, {name: 100 * value for name, value in per_layer.items() if name in shown})
    axes.set_title("Edited, change in % of each layer's norm", fontsize=10, loc="right")


def _tick(name: str, wanted: str) -> str:
    return f"{name}\n{wanted.replace(' ', chr(10), 1)}"
