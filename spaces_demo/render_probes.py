"""Pieces of what probes found as HTML: the shares, the plot, pictures of each. Names of concepts are escaped here."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from spaces_demo.render import image_address, table


if TYPE_CHECKING:
    from scissorhands_hf.report import ProbeReport, ProbeScore
    from spaces_demo.tasks import Probed

MODELS = {"reference": "Original", "pipeline": "Erased", "control": "Never saw it"}
WHAT = {
    "words": "asked for by its own words",
    "empty": "asked for nothing: the empty prompt",
    "token": "asked for by a learned word: textual inversion, on the attacker's pictures",
    "img2img": "a picture of it as the start, noised by this much, and the empty prompt",
}
SHOWN = 4


def outcome(result: Probed) -> list[str]:
    """What the shares say, in words that the figures alone decide; a few pictures prove no small difference."""
    points = []
    for probe, place in dict.fromkeys((score.probe, score.place) for score in result.report.scores):
        shares = {score.model: score for score in result.report.scores if (score.probe, score.place) == (probe, place)}
        said = ", ".join(f"{MODELS[model].lower()} {shares[model].share:.0f} %" for model in MODELS if model in shares)
        points.append(f"{WHAT.get(probe, probe)}{f' ({place})' if place else ''}: {said}")
    if not result.controlled:
        points.append("No model that never saw this concept is shipped, so what gone looks like is not shown here.")
    return points


def shares(report: ProbeReport) -> str:
    """A row for each probe, a column for each model: percent of the pictures, and the interval that holds 95 %."""
    models = [model for model in MODELS if model in report.models()]
    found = {(score.probe, score.place, score.model): score for score in report.scores}
    rows = [
        [f"{probe} {place}".strip(), *(_cell(found.get((probe, place, model))) for model in models)]
        for probe, place in dict.fromkeys((score.probe, score.place) for score in report.scores)
    ]
    rows += [[f"{probe}: {reason}"] for probe, reason in report.unavailable.items()]
    meanings = "".join(f"<li><b>{escape(probe)}</b>: {escape(meaning)}</li>" for probe, meaning in WHAT.items())
    return (
        f'<div class="sh-card"><h4>Pictures that show “{escape(report.concept)}”, in percent</h4><p>In brackets the interval '
        f"that holds 95 %: {report.measure['pictures_a_share']} pictures a share are few.</p>"
        f'{table(rows, ["probe", *(MODELS[model] for model in models)])}<ul class="sh-meanings">{meanings}</ul></div>'
    )


def _cell(score: ProbeScore | None) -> str:
    if score is None:
        return ""
    low, high = score.interval
    return f"{score.share:.0f} ({low:.0f}–{high:.0f})"


def pictures(report: ProbeReport) -> str:
    """Of each probe a few pictures by every model."""
    models = [model for model in MODELS if model in report.models()]
    cells = [f'<div class="head">{MODELS[model]}</div>' for model in models]
    for probe, place in dict.fromkeys((score.probe, score.place) for score in report.scores):
        cells.append(f'<div class="prompt">{escape(f"{probe} {place}".strip())}: {escape(WHAT.get(probe, ""))}</div>')
        for model in models:
            shown = "".join(
                f'<img src="{image_address(image)}" alt="{MODELS[model]}: {escape(probe)} {escape(place)}, picture {number}">'
                for number, image in enumerate(report.pictures.get((probe, place, model), [])[:SHOWN], 1)
            )
            cells.append(f'<div class="strip">{shown}</div>')
    return f'<div class="sh-pictures of-{len(models)}">{"".join(cells)}</div>'


def plot(result: Probed) -> str:
    """In the page itself: nobody else sees it, and it is gone with the page."""
    data = base64.b64encode(result.plot).decode()
    meaning = escape(f"Shares that probes of {result.report.concept} found, with intervals")
    return f'<div class="sh-card sh-figure"><img src="data:image/png;base64,{data}" alt="{meaning}"></div>'
