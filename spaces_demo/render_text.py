"""Pieces of the Language model page as HTML: answers side by side, figures, a plot. What a visitor typed is escaped here."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from spaces_demo.render import clock, note, table


if TYPE_CHECKING:
    from scissorhands_hf.report import LanguageReport
    from scissorhands_hf.report.language_report import AnswerExample
    from spaces_demo.authors import ForgottenAuthor

HEADS = {"original": "Before", "unlearned": "After", "control": "Never knew"}
KEYS = (
    "forget extraction", "paraphrased extraction", "relearned extraction", "forget repetition", "forget loss",
    "retain extraction", "retain loss", "perplexity",
)  # fmt: skip
MODEL_NAMES = {"original": "before", "unlearned": "after", "retrained": "never knew"}
START = (
    "The shipped model has read nothing but twenty invented authors, ten questions about each, and sixty plain sentences. "
    "Nobody in it exists. Choose whom it shall forget; it takes well under a minute."
)


def answer_table(examples: Sequence[AnswerExample], title: str, meaning: str) -> str:
    """A question with what each model says below it; said as expected is marked."""
    blocks = []
    for example in examples:
        rows = "".join(
            f'<dt class="{kind}">{HEADS[kind]}</dt><dd class="{"same" if said == example.expected else ""}">{escape(said)}</dd>'
            for kind, said in example.answers.items()
        )
        blocks.append(f'<div class="sh-question"><p>{escape(example.question)}</p><dl>{rows}</dl></div>')
    return f'<div class="sh-card"><h4>{escape(title)}</h4><p>{escape(meaning)}</p>{"".join(blocks)}</div>'


def answered(question: str, said: Mapping[str, str]) -> str:
    """A visitor's question with what each model says."""
    rows = "".join(f'<dt class="{kind}">{HEADS[kind]}</dt><dd>{escape(text)}</dd>' for kind, text in said.items())
    return f'<div class="sh-card"><div class="sh-question"><p>{escape(question)}</p><dl>{rows}</dl></div></div>'


def outcome(result: ForgottenAuthor) -> str:
    """What happened, in words, from the measured figures alone: what came back is said as plainly as what is gone."""
    before, after = result.report.metrics["original"], result.report.metrics["unlearned"]
    control = result.report.metrics.get("retrained", {})

    def line(name: str, what: str) -> str:
        never = f", {control[name]:.0f} % by the one that never knew" if name in control else ""
        return f"{what}: {before[name]:.0f} % before, {after[name]:.0f} % after{never}."

    unlike = f", {control['forget loss']:.2f} of the one that never knew" if control else ""

    points = [
        line("forget extraction", "Facts about the author that are said"),
        line("paraphrased extraction", "The same, asked in other words"),
        line("relearned extraction", "Of eight facts, after ten steps of training on the other two questions"),
        line("retain extraction", "Facts about other authors that are said"),
        f"Loss on the author's answers, in nats a token: {before['forget loss']:.2f} before, {after['forget loss']:.2f} after"
        f"{unlike}. To have forgotten is not yet never to have known.",
        f"Perplexity of plain sentences: {before['perplexity']:.2f} before, {after['perplexity']:.2f} after.",
        f"Repetition in what is said of the author instead: {after['forget repetition']:.0f} %.",
        f"Trained away by the trainer's default for these rows, {result.objective}, 20 steps; {result.trimmed:,} weights were "
        "re-initialised: by default, language models are not trimmed.",
    ]
    if not result.controlled:
        points.append(
            "No model that never knew this author is shipped, so what these figures are like where there was nothing to forget "
            "is not shown. There is one for the first two authors of the list."
        )
    return note(f"Forgot {result.name} in {clock(result.seconds)} of training.", "done", points)


def figures(report: LanguageReport) -> str:
    """A row for each figure, a column for each model, with intervals; those that answer a visitor's questions come first."""
    from scissorhands_hf.report.figures import explanations

    found = [name for _, names in report.groups() for name in names]
    first = [name for name in KEYS if name in found]
    models = list(report.metrics)
    rows = [[name, *(_cell(report, model, name) for model in models)] for name in first]
    rows.append(["All others"])
    rows += [[name, *(_cell(report, model, name) for model in models)] for name in found if name not in first]
    meanings = "".join(f"<li><b>{escape(label)}</b>: {escape(meaning)}</li>" for label, meaning in explanations(found))
    notes = "".join(f"<li>{escape(text)}</li>" for text in report.notes)
    heads = ["", *(MODEL_NAMES.get(model, model) for model in models)]
    return (
        f'<div class="sh-card"><h4>Figures</h4><p>In brackets the interval that holds 95 %: few questions are asked.</p>'
        f"{table(rows, heads)}<details><summary>What they mean</summary>"
        f'<ul class="sh-meanings">{meanings}{notes}</ul></details></div>'
    )


def _cell(report: LanguageReport, model: str, name: str) -> str:
    from scissorhands_hf.report.figures import is_measured, show

    value = report.metrics[model].get(name)
    if not is_measured(value):
        return ""
    ends = report.intervals.get(model, {}).get(name)
    return show(name, value) + (f" ({ends[0]:.0f}–{ends[1]:.0f})" if ends else "")


def plot(path: Path, meaning: str) -> str:
    """A picture file in the page itself: nobody else sees it, and it is gone with the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<div class="sh-card sh-figure"><img src="data:image/png;base64,{data}" alt="{escape(meaning)}"></div>'
