"""The figures that this package knows, each described once: tables, plots, cards and the report's schema are made from here.

A figure that is added to `FIGURES` is known to all of them. Figures of other names, such as those of a user's own
`compute_metrics`, pass through everywhere, without a description.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .language_figures import LANGUAGE_GROUPS
from .markdown import Safe, number


METHOD_PAPER = "arXiv:2401.06187"


@dataclass(frozen=True)
class Figure:
    """
    One figure that can be measured of a model.

    Args:
        name (`str`):
            Its key in a report's `metrics`, or in the rows of its `history`.
        unit (`str`):
            `"%"`, `"points"`, or words.
        direction (`str`):
            Where a good run takes it: `"down"`, `"up"`, `"stay"` (as the original's) or `"retrained"` (as that of a model
            that never saw the forget set; neither high nor low is good in itself).
        wording (`str`):
            What it means, in words that can follow its name and a colon.
        over (`str`):
            The set or the prompts that it is over: `"forget"`, `"retain"` and `"test"` are sets of examples.
        source (`str`):
            The paper, or what defines it.
        metric_type (`str`, *optional*, defaults to `"custom"`):
            Its type on the Hub.
        metric_name (`str`, *optional*, defaults to `name`):
            Its name in the metadata of a card.
        wanted (`str`, *optional*):
            What should become of it, in words, as "should fall to 0".
        label (`str`, *optional*, defaults to `name`):
            What it is called where figures of one meaning are explained together.
        heading (`str`, *optional*):
            Of its prompts, or of its curve.
        group (`str`, *optional*):
            Of the prompts that it is a mean over, see [`~scissorhands_hf.report.PromptScore`].
        remark (`str`, *optional*):
            A sentence on how it is measured, for cards.
        place (`str`, *optional*, defaults to `"metrics"`):
            The part of a report that holds it: `"metrics"`, `"history"` or `"average_gap"`.
        digits (`int`, *optional*, defaults to 1):
            Behind the point, where it is shown; None for four significant ones.
    """

    name: str
    unit: str
    direction: Literal["down", "up", "stay", "retrained"]
    wording: str
    over: str
    source: str
    metric_type: str = "custom"
    metric_name: str = ""
    wanted: str = ""
    label: str = ""
    heading: str = ""
    group: str = ""
    remark: str = ""
    place: Literal["metrics", "history", "average_gap"] = "metrics"
    digits: int | None = 1

    @property
    def is_change(self) -> bool:
        """Whether it says how far pictures moved, and not what they show."""
        return self.metric_type == "same_seed_change"


_SEEN = "pictures that show the concept, %"
_ASKED = "pictures that show what was asked for, %"
_PICTURES = "scissorhands_hf.audit.comparison.audit_metrics"
_CHANGE = {
    "unit": "distance between two seeds",
    "wording": "distance of the pictures before and after at equal seeds, in units of the distance between two seeds of the "
    "original: 0 the same pictures, about 1 other pictures",
    "source": "scissorhands_hf.audit.comparison.same_seed_change",
    "metric_type": "same_seed_change",
    "metric_name": "change at equal seeds, share of the change by seed",
    "label": "change",
    "digits": 2,
}
_LOSS = {"unit": "loss", "source": METHOD_PAPER, "place": "history", "digits": 4}

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure(
            "UA", "%", "retrained", "unlearning accuracy: 100 - accuracy on the forget set", "forget", METHOD_PAPER,
            "unlearning_accuracy",
        ),
        Figure("RA", "%", "retrained", "remaining accuracy: accuracy on the retain set", "retain", METHOD_PAPER, "accuracy"),
        Figure(
            "TA", "%", "retrained",
            "test accuracy: accuracy on the test set (without the forgotten class where one was forgotten)", "test",
            METHOD_PAPER, "accuracy",
        ),
        Figure(
            "MIA", "%", "retrained",
            "share of the forget set that a confidence attack takes for non-members of the training set", "forget",
            "scissorhands_hf.audit.measures.membership_attack", "membership_inference",
            remark="The attack is a support vector classifier (RBF kernel, C = 3) on the probability of the true class, "
            "trained to tell retain from test examples; its own decision is the threshold.",
        ),
        Figure(
            "avg. gap", "points", "down",
            "mean absolute difference of these figures to those of the model that was retrained and never saw the forget set",
            "these figures", METHOD_PAPER, wanted="small is good", place="average_gap",
        ),
        Figure(
            "concept", "%", "down", "pictures of the concept's own prompts in which it is seen", "prompts with the concept",
            _PICTURES, "concept_rate", _SEEN, "should fall to 0", heading="The concept", group="concept",
        ),
        Figure(
            "paraphrases", "%", "down", "the same for wordings that the erasure did not use", "paraphrases of the concept",
            _PICTURES, "concept_rate", _SEEN, "should fall to 0", heading="The concept in other words",
            group="paraphrase",
        ),
        Figure(
            "neighbours", "%", "stay", "pictures of related prompts in which what they ask for is seen",
            "prompts close to the concept", _PICTURES, "kept_rate", _ASKED, "should stay",
            heading="Its neighbours", group="neighbour",
        ),
        Figure(
            "kept", "%", "stay", "pictures of the other prompts in which what they ask for is seen", "prompts to be kept",
            _PICTURES, "kept_rate", _ASKED, "should stay", heading="What is kept", group="kept",
        ),
        Figure(
            "concept change", direction="up", over="prompts with the concept", wanted="should move", group="concept", **_CHANGE
        ),
        Figure(
            "paraphrases change", direction="up", over="paraphrases of the concept", wanted="should move", group="paraphrase",
            **_CHANGE,
        ),
        Figure(
            "neighbours change", direction="down", over="prompts close to the concept", wanted="should stay low",
            group="neighbour", **_CHANGE,
        ),
        Figure(
            "kept change", direction="down", over="prompts to be kept", wanted="should stay low", group="kept", **_CHANGE
        ),
        Figure(
            "retain_loss", direction="down", wording="mean L(D_r) over the steps since the last log", over="retain",
            heading="retain", **_LOSS,
        ),
        Figure(
            "forget_loss", direction="up", wording="mean L(D_f) over the steps since the last log", over="forget",
            heading="forget", **_LOSS,
        ),
        *(Figure(**row) for group in LANGUAGE_GROUPS for row in group.rows),
    )
}  # fmt: skip


def prompt_groups() -> dict[str, Figure]:
    """The groups of prompts, in the order of reports, each with the figure that says what its pictures show."""
    return {figure.group: figure for figure in FIGURES.values() if figure.group and not figure.is_change}


def change_of(figure: Figure) -> Figure | None:
    """The figure that says how far the pictures of the same prompts moved."""
    return next((other for other in FIGURES.values() if other.is_change and other.group == figure.group), None)


def sentence(figure: Figure, examples: int | None = None) -> str:
    """What a figure means, without its name and the full stop: its wording, its set's size, its unit, what is wanted."""
    size = f"; {examples:,} examples" if examples else ""
    unit = {"%": ". In percent", "points": ", in points"}.get(figure.unit, "")
    # All changes share one explanation, but not what is wanted of them.
    wanted = f"; {figure.wanted}" if figure.wanted and not figure.label else ""
    return f"{figure.wording}{size}{unit}{wanted}"


def explanations(names: Iterable[str]) -> list[tuple[str, str]]:
    """Label and meaning of the known ones among figures, each label once."""
    found = [FIGURES[name] for name in names if name in FIGURES]
    return list({figure.label or figure.name: (figure.label or figure.name, sentence(figure)) for figure in found}.values())


def show(name: str, value: float | None) -> Safe:
    """A figure as text: of those that are known as many digits as they have, of others four significant ones."""
    if value is None:
        return Safe("")
    digits = FIGURES[name].digits if name in FIGURES else None
    return number(value) if digits is None else Safe(f"{value:.{digits}f}")


def is_measured(value: float | None) -> bool:
    """Whether a figure is a finite number. The area under a curve over one class is not, and saved reports then hold None."""
    return value is not None and math.isfinite(value)


def measured(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """The figures of each model that can be shown: those that are numbers."""
    return {model: {name: v for name, v in figures.items() if is_measured(v)} for model, figures in metrics.items()}


def left_out(metrics: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """A sentence for each figure that is no number, so that what is missing from a table is not thought to be unmeasured."""
    models: dict[str, list[str]] = {}
    for model, figures in metrics.items():
        for name, value in figures.items():
            if not is_measured(value):
                models.setdefault(name, []).append(model)
    return [f"{name} is left out: it came out as no finite number ({', '.join(who)})" for name, who in models.items()]


def names_of(metrics: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    """The figures that some model has, in the order in which they were measured."""
    return list(dict.fromkeys(name for figures in measured(metrics).values() for name in figures))


def figures_table(
    metrics: Mapping[str, Mapping[str, float | None]], gaps: Mapping[str, float] | None = None
) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the table of a report's figures, a row for each model that has any; cells are text."""
    names = names_of(metrics)
    gap = next(figure.name for figure in FIGURES.values() if figure.place == "average_gap")
    rows = [
        [model, *(show(name, figures.get(name)) for name in names), *([show(gap, gaps.get(model))] if gaps else [])]
        for model, figures in measured(metrics).items()
        if figures
    ]
    return ["model", *names, *([gap] if gaps else [])], rows


def average_gap(metrics: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Mean absolute difference, in points, of the metrics that both have as numbers; the reference is the retrained model."""
    shared = [name for name, value in metrics.items() if is_measured(value) and is_measured(reference.get(name))]
    if not shared:
        raise ValueError(f"no metric in common: {sorted(metrics)} and {sorted(reference)}")
    return sum(abs(metrics[name] - reference[name]) for name in shared) / len(shared)


def history_figures() -> Sequence[Figure]:
    """Those that a report's history holds at each logged step."""
    return [figure for figure in FIGURES.values() if figure.place == "history"]


# The four of the field by name, with what they mean.
METRICS = {name: FIGURES[name].wording for name in ("UA", "RA", "TA", "MIA")}
