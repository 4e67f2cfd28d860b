"""Pieces of the pages as HTML: progress, losses, bars, tables. Whatever a visitor typed is escaped here, and nowhere is it not.

Colours come from the page's own variables, so that everything is legible in its light and dark mode.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from spaces_demo.jobs import Status


if TYPE_CHECKING:
    from PIL.Image import Image

    from scissorhands_hf.report.concept_report import ConceptErasureReport, PromptScore
    from spaces_demo.publish import Pushed


STAGE_NAMES = {
    "original": "Measure the original",
    "download": "Download",
    "load": "Load",
    "before": "Draw with the original",
    "pictures": "Draw pictures to learn from",
    "prompts": "Read the prompts",
    "targets": "Work out the targets",
    "sensitivity": "Cut and edit weights",
    "repair": "Repair",
    "report": "Draw and compare",
    "drawing": "Draw",
    "ask": "Ask",
    "probe-pipeline": "Attack the erased",
    "probe-reference": "Attack the original",
    "probe-control": "Attack the control",
    "audit": "Measure",
    "files": "Make the files",
    "check": "Load and compare",
    "upload": "Upload",
}
MOST_MODULES = 16
# Pixels of pictures on a page.
SMALL_PICTURE, LARGE_PICTURE = 128, 320


def note(text: str, kind: str = "", points: Sequence[str] = ()) -> str:
    """A framed message; `kind` is "", "done", "warning" or "error"."""
    items = "".join(f"<li>{escape(point)}</li>" for point in points)
    role = "alert" if kind in ("error", "warning") else "status"
    return f'<div class="sh-note {kind}" role="{role}">{escape(text)}{f"<ul>{items}</ul>" if items else ""}</div>'


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def progress(status: Status) -> str:
    """The stages, a bar for the whole, the step, time and time left, and the last losses as a line."""
    if status.finished:
        return f'<div class="sh-track full"><div></div></div><div class="sh-line"><span>{clock(status.seconds)}</span></div>'
    names = list(status.stages)
    place = names.index(status.stage) if status.stage in names else -1
    items = []
    for number, name in enumerate(names):
        state = "past" if number < place else "now" if number == place else ""
        items.append(f'<li class="{state}">{escape(STAGE_NAMES.get(name, name))}</li>')
    percent = round(100 * status.share)
    step = f"step {status.step} of {status.total}" if status.stage and status.total > 1 else ""
    left = "" if status.seconds_left is None else f"about {clock(status.seconds_left)} left"
    waiting = "waiting for another visitor's run to end" if status.stage is None else ""
    return (
        f'<ul class="sh-stages">{"".join(items)}</ul>'
        f'<div class="sh-track" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-label="progress"><div style="width:{percent}%"></div></div>'
        f'<div class="sh-line"><span>{percent} %</span><span>{waiting or step}</span>'
        f"<span>{clock(status.seconds)} so far</span><span>{left}</span></div>"
    )


def losses(points: Sequence[tuple[int, float | None, float | None]]) -> str:
    """Retain and forget loss over the steps of repair, each scaled to its own range; empty before the first two points."""
    width, height, margin = 560, 150, 8
    parts, keys = [], []
    from scissorhands_hf.report.figures import FIGURES

    looks = (("retain_loss", "#2b9348", "sh-retrained"), ("forget_loss", "#e07a5f", "sh-after"))
    for column, (name, colour, kind) in enumerate(looks, 1):
        line = [(point[0], point[column]) for point in points if point[column] is not None and np.isfinite(point[column])]
        if len(line) < 2:
            continue
        steps, values = [step for step, _ in line], [value for _, value in line]
        low, high = min(values), max(values)
        spread_x, spread_y = max(steps) - min(steps) or 1, high - low or 1
        path = " ".join(
            f"{margin + (width - 2 * margin) * (step - min(steps)) / spread_x:.1f},"
            f"{height - margin - (height - 2 * margin) * (value - low) / spread_y:.1f}"
            for step, value in line
        )
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round" points="{path}"/>')
        keys.append(f'<span class="{kind}">{FIGURES[name].heading} loss {values[-1]:.4g} (from {low:.4g} to {high:.4g})</span>')
    if not parts:
        return ""
    axis = f'<line x1="0" y1="{height - 1}" x2="{width}" y2="{height - 1}" stroke="currentColor" stroke-opacity=".4"/>'
    return (
        '<div class="sh-card"><h4>Loss during repair</h4><p>Over the steps; each line has its own scale.</p>'
        f'<div class="sh-key">{"".join(keys)}</div>'
        f'<svg class="sh-plot" viewBox="0 0 {width} {height}" role="img" aria-label="loss curves">{axis}{"".join(parts)}</svg>'
        "</div>"
    )


def bars(
    title: str,
    meaning: str,
    rows: Sequence[tuple[str, Sequence[tuple[str, float | None]]]],
    top: float,
    unit: str,
    kind: str = "",
) -> str:
    """Horizontal bars. A row is its name and the bars of it, each (style class, value); a row without bars is a heading."""
    cells = []
    for name, values in rows:
        if not values:
            cells.append(f'<div class="group">{escape(name)}</div>')
            continue
        drawn = "".join(
            f'<div class="sh-bar {style}"><i style="width:{max(0.0, min(100.0, 80 * value / (top or 1))):.1f}%"></i>'
            f"{_figure(value, unit)}</div>"
            for style, value in values
            if value is not None
        )
        cells.append(f'<div class="name">{escape(name).replace(".", ".<wbr>")}</div><div>{drawn}</div>')
    return (
        f'<div class="sh-card"><h4>{escape(title)}</h4><p>{escape(meaning)}</p>'
        f'<div class="sh-bars {kind}">{"".join(cells)}</div></div>'
    )


def _figure(value: float, unit: str) -> str:
    if unit != "%":
        return f"{value:.2f}"
    if 0 < value < 0.05:
        return "< 0.1 %"
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


KEY_BEFORE_AFTER = '<div class="sh-key"><span class="sh-before">before</span><span class="sh-after">after</span></div>'


def changes_per_layer(report: ConceptErasureReport) -> str:
    """What was done, what was cut, and by how much the edit changed the layers that read text."""
    per_module, per_layer = report.trim.get("per_module", {}), report.edit.get("per_layer", {})
    points = "".join(f"<li>{escape(text)}</li>" for text in report.notes)
    done = f'<div class="sh-card"><h4>What was done</h4><ul class="sh-meanings">{points}</ul></div>' if points else ""
    return done + (cut_per_layer(per_module) if per_module else "") + (edit_per_layer(per_layer) if per_layer else "")


def edit_per_layer(per_layer: Mapping[str, float]) -> str:
    """By how much of its norm the closed-form edit changed each layer; the most changed ones, in the model's order."""
    shown = set(sorted(per_layer, key=per_layer.__getitem__, reverse=True)[:MOST_MODULES])
    rows = [(name, [("sh-after", 100 * value)]) for name, value in per_layer.items() if name in shown]
    more = f" The {len(shown)} most changed of {len(per_layer)} are shown." if len(per_layer) > len(shown) else ""
    meaning = f"Layers that read the prompt now answer the concept's words otherwise; change in % of each layer's norm.{more}"
    return bars("What was edited", meaning, rows, 100 * max(per_layer.values()), "%", "long-names")


def cut_per_layer(per_module: Mapping[str, Mapping[str, int]]) -> str:
    """How much of each layer was re-initialised; the most cut layers, in the model's order."""
    shares = {name: 100 * row["trimmed"] / row["weights"] for name, row in per_module.items() if row["trimmed"]}
    if not shares:
        return note("No weight was re-initialised.", "warning")
    shown = set(sorted(shares, key=shares.__getitem__, reverse=True)[:MOST_MODULES])
    rows = [(name, [("sh-after", shares[name])]) for name in per_module if name in shown]
    cut = sum(row["trimmed"] for row in per_module.values())
    more = f" The {len(shown)} most cut of {len(shares)} layers are shown." if len(shares) > len(shown) else ""
    meaning = f"{cut:,} weights were set back to fresh random values; the share of each layer.{more}"
    return bars("What was cut", meaning, rows, max(shares.values()), "%", "long-names")


def metrics_table(metrics: Mapping[str, Mapping[str, float]], gaps: Mapping[str, float] | None = None) -> str:
    """A row for each model, a column for each figure, and what the figures mean."""
    from scissorhands_hf.report.figures import explanations, figures_table

    heads, rows = figures_table(metrics, gaps)
    meanings = "".join(f"<li><b>{escape(label)}</b>: {escape(meaning)}</li>" for label, meaning in explanations(heads))
    return f'<div class="sh-card"><h4>Figures</h4>{table(rows, heads)}<ul class="sh-meanings">{meanings}</ul></div>'


def table(rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """A table of text, escaped here. A row of one cell is a heading over the rows below it."""
    width = max(len(heads), 2)
    head = f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in heads)}</tr></thead>" if heads else ""
    body = "".join(
        f'<tr><td colspan="{width}"><b>{escape(row[0])}</b></td></tr>'
        if len(row) == 1
        else f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row in rows
    )
    return f'<div class="sh-scroll"><table class="sh-table">{head}<tbody>{body}</tbody></table></div>'


def confusion(matrix: np.ndarray, classes: Sequence[str], title: str, forgotten: str) -> str:
    """Counts: row = what the picture shows, column = what the model says. Right answers are green, wrong ones red."""
    columns = "".join(f'<th class="{"forgotten" if name == forgotten else ""}">{escape(name)}</th>' for name in classes)
    rows = ""
    for number, (name, counts) in enumerate(zip(classes, matrix, strict=True)):
        most = max(1, int(counts.sum()))
        cells = ""
        for column, count in enumerate(counts):
            strength = 100 * count / most
            kind = ("" if column == number else "wrong") + (" strong" if strength > 60 else "")
            cells += f'<td class="{kind}" style="--sh-s:{strength:.0f}%">{int(count) or ""}</td>'
        rows += f'<tr><th class="{"forgotten" if name == forgotten else ""}">{escape(name)}</th>{cells}</tr>'
    return (
        f'<div class="sh-card"><h4>{escape(title)}</h4><p>Row: what the picture shows. Column: what the model says.</p>'
        f'<div class="sh-scroll"><table class="sh-matrix"><thead><tr><th></th>{columns}</tr></thead><tbody>{rows}</tbody>'
        "</table></div></div>"
    )


def scores(prompt_scores: Sequence[PromptScore], title: str = "What the pictures show", measure: str = "") -> str:
    """Bars for each prompt: the share of pictures in which its label is seen, before and after; else how far pictures moved."""
    from scissorhands_hf.report.figures import prompt_groups

    judged = any(score.original is not None for score in prompt_scores)
    rows: list[tuple[str, list[tuple[str, float | None]]]] = []
    for group, figure in prompt_groups().items():
        members = [score for score in prompt_scores if score.group == group and (score.original is not None or not judged)]
        if not members:
            continue
        rows.append((f"{figure.heading} ({figure.wanted})" if judged else figure.heading, []))
        for score in members:
            name = f"{score.prompt} → {score.label}" if judged and score.label else score.prompt
            values = [("sh-before", score.original), ("sh-after", score.unlearned)] if judged else [("sh-after", score.change)]
            rows.append((name, values))
    if judged:
        meaning = (
            "Share of the pictures in which the judge, a small classifier, sees what is named after the arrow. The upper bar "
            "is the original model, the lower one the unlearned."
        )
        html = bars(title, meaning, rows, 100.0, "%").replace("</p>", f"</p>{KEY_BEFORE_AFTER}", 1)
    else:
        meaning = (
            "How far the pictures moved at equal seeds: 0 means the same pictures, about 1 other pictures. Large is wanted for "
            "the concept, small for what is kept. No judge knows what these pictures show."
        )
        html = bars(title, meaning, rows, max([1.0, *(score.change for score in prompt_scores)]), "")
    return html.replace("</p>", f"</p><p>{escape(measure)}</p>", 1) if measure else html


def verdict(report: ConceptErasureReport) -> str:
    """The outcome in words, from the measured means alone, and the run's own warnings."""
    from scissorhands_hf.report.figures import change_of, measured, prompt_groups

    metrics = measured(report.metrics)
    before, after = metrics.get("original", {}), metrics.get("unlearned", {})
    what = ", ".join(report.concepts)
    points = []
    for figure in prompt_groups().values():
        change = change_of(figure)
        if figure.name in before and figure.name in after:
            shares = f"{before[figure.name]:.0f} % before, {after[figure.name]:.0f} % after"
            points.append(f"{figure.heading} is seen where it was asked for in {shares}; {figure.wanted}.")
        elif change and change.name in after:
            points.append(f"{figure.heading}: pictures moved by {after[change.name]:.2f} (0: the same, about 1: others).")
    if any(report.edit.get("instead", [])):
        led = (f"“{a}” to “{b}”" for a, b in zip(report.concepts, report.edit["instead"], strict=True) if b)
        points.append(f"Prompts were led from {', '.join(led)}.")
    seconds = report.seconds.get("total") or sum(report.seconds.values())
    text = note(f"Done in {clock(seconds)}. Erased: {what}.", "done", points)
    return text + "".join(note(warning, "warning") for warning in report.warnings)


def settings_table(settings: Mapping[str, object], seconds: Mapping[str, float], measure: Mapping[str, object]) -> str:
    """What the run was made with, and how long each stage took."""
    rows: list[list[str]] = []
    for heading, values in (("Settings", settings), ("Seconds", seconds), ("Measured with", measure)):
        shown = [[name, f"{value:.4g}" if isinstance(value, float) else str(value)] for name, value in values.items()]
        rows += [[heading], *shown] if shown else []
    return table(rows)


def attack_table(prompt_scores: Sequence[PromptScore], judged: bool) -> str:
    """All paraphrases that were tried, the worst first."""
    shares = [[f"{score.original:.0f} %", f"{score.unlearned:.0f} %"] if judged else [] for score in prompt_scores]
    rows = [[score.prompt, *seen, f"{score.change:.2f}"] for score, seen in zip(prompt_scores, shares, strict=True)]
    heads = ["prompt", *(["before", "after"] if judged else []), "change"]
    return (
        '<div class="sh-card"><h4>Wordings that were tried</h4><p>The one that brings most of the concept back comes first. '
        f"Change: how far the pictures moved at equal seeds.</p>{table(rows, heads)}</div>"
    )


def card_body(card: str) -> str:
    """A card's Markdown below its front matter, for the preview."""
    return card.split("\n---\n", 1)[-1] if card.startswith("---\n") else card


def pushed(result: Pushed) -> str:
    """The link to what was pushed."""
    kind = "private" if result.private else "public"
    return (
        f'<div class="sh-note done" role="status">Pushed to <a href="{escape(result.url)}" target="_blank" rel="noopener">'
        f"{escape(result.repository)}</a> ({kind}).</div>"
    )


START = (
    "The shipped model is a small Stable Diffusion pipeline that draws ten garments in six colours. Here is what it draws now; "
    "press Erase to make it forget a dress."
)
PUBLISH = (
    "Erase a concept, or an author, first. Then see the model's card here, made from what was measured, and push the model to "
    "the Hub or download it."
)
OWN_COMPUTER = (
    "Pushes go to the account that `hf auth login` stored on this computer. On a Space, visitors sign in here with a button."
)
HEADER = """
<div class="sh-head">
<h1>Make a model forget</h1>
<p>Name something the image model can draw: it is taken out of the weights, or, if you ask for that, its words are led
elsewhere, and everything else is to stay. Then look at the proof: the same prompts and seeds, before and after, and attacks
that tell the two apart. A classifier and a language model forget here, too.</p>
<ol><li><b>Erase</b> a concept</li><li><b>Compare</b> and attack the result</li>
<li><b>Publish</b> it with a measured card</li></ol>
</div>
"""


def pictures(rows: Sequence[tuple[str, Sequence[Image], Sequence[Image]]], heads: tuple[str, str] = ("Before", "After")) -> str:
    """A row for each prompt: its pictures by both models side by side, at equal places of equal seeds."""
    cells = [f'<div class="head">{escape(heads[0])}</div><div class="head">{escape(heads[1])}</div>']
    for prompt, before, after in rows:
        cells.append(f'<div class="prompt">“{escape(prompt)}”</div>')
        for head, images in zip(heads, (before, after), strict=True):
            shown = "".join(
                f'<img src="{image_address(image)}" alt="{escape(head)}: {escape(prompt)}, picture {number}">'
                for number, image in enumerate(images, 1)
            )
            cells.append(f'<div class="strip">{shown}</div>')
    return f'<div class="sh-pictures">{"".join(cells)}</div>'


def image_address(image: Image) -> str:
    """In the page itself: a picture is then seen by nobody else, and gone with the page. Tiny ones are enlarged smoothly."""
    if image.width < SMALL_PICTURE:
        image = image.resize((SMALL_PICTURE, SMALL_PICTURE * image.height // image.width), 3)  # bicubic
    image = image.convert("RGB")
    image.thumbnail((LARGE_PICTURE, LARGE_PICTURE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
