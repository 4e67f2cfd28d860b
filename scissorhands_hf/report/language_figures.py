"""The figures of language models, for the registry: what each means, where it should go, and where it is defined."""

from dataclasses import dataclass
from typing import Any


TOFU, MUSE, OPEN_UNLEARNING = "arXiv:2401.06121", "arXiv:2407.06460", "arXiv:2506.12618"
RATIO, AREA = "0 to 1", "area under the curve"
_MEASURES = "scissorhands_hf.audit.language"
_ROUNDED = "arXiv:2410.16454"


@dataclass(frozen=True)
class Group:
    """
    A heading of tables, with the figures below it.

    Args:
        heading (`str`):
            In words.
        rows (`tuple[dict[str, Any], ...]`):
            Fields of [`~scissorhands_hf.report.Figure`].
    """

    heading: str
    rows: tuple[dict[str, Any], ...]


def _row(
    name: str, unit: str, direction: str, wording: str, over: str, source: str, digits: int | None = 3, **more: str
) -> dict[str, Any]:
    return {
        "name": name, "unit": unit, "direction": direction, "wording": wording, "over": over, "source": source,
        "label": more.pop("label", ""),
        "metric_type": more.pop("metric_type", name.split(" ", 1)[-1].lower().replace(" ", "_").replace("-", "_")),
        "digits": digits, **more,
    }  # fmt: skip


def _answers(part: str) -> tuple[dict[str, Any], ...]:
    """Of the answers on the forget or the retain set."""
    to = "retrained" if part == "forget" else "stay"
    told = (
        "mean over questions of min(R, 1/R), R the wrong answers' likelihood beside the right one's: 1 where they are alike"
        if part == "forget"
        else "mean over questions of max(0, 1 - R), R the wrong answers' likelihood beside the right one's"
    )
    return (
        _row(f"{part} loss", "nats", to, "mean negative log-likelihood of a token of the answers", part, TOFU, label="loss"),
        _row(
            f"{part} probability", RATIO, to, "mean over answers of P(a|q)^(1/|a|), the end of the turn counted in", part, TOFU,
            label="probability",
        ),
        _row(
            f"{part} ROUGE-L", RATIO, to, "mean ROUGE-L recall of greedy answers, of stemmed words", part, TOFU,
            metric_type="rouge", label="ROUGE-L",
        ),
        _row(
            f"{part} extraction", "%", to, "greedy answers that hold the fact asked for", part,
            f"{_MEASURES}.answer_figures.extraction", 1, label="extraction",
        ),
        _row(
            f"{part} extraction strength", RATIO, to,
            "1 - (shortest beginning of the answer after which greedy decoding goes on with all the rest) / length", part,
            f"{OPEN_UNLEARNING}, after arXiv:2012.07805", label="extraction strength",
        ),
        _row(
            f"{part} exact memorisation", RATIO, to,
            "share of the answer's tokens that are the likeliest given all before them", part,
            f"{OPEN_UNLEARNING}, after arXiv:2205.10770", label="exact memorisation",
        ),
        _row(f"{part} truth ratio", RATIO, to, told, part, TOFU),
        _row(
            f"{part} repetition", "%", "stay", "seq-rep-4 of greedy answers: 4-grams of tokens that were there before", part,
            "arXiv:1908.04319", 1, label="repetition",
        ),
    )  # fmt: skip


def _asked_again(kind: str, wording: str, source: str) -> tuple[dict[str, Any], ...]:
    return (
        _row(f"{kind} extraction", "%", "retrained", f"extraction {wording}", "forget", source, 1),
        _row(
            f"{kind} ROUGE-L", RATIO, "retrained", f"ROUGE-L {wording}", "forget", source,
            metric_type="rouge",
        ),
    )  # fmt: skip


def _attack(name: str, wording: str, source: str) -> dict[str, Any]:
    return _row(
        f"MIA {name}", AREA, "retrained",
        f"how well {wording} tells forget from holdout texts: 1 all, 0.5 guessing", "forget", source,
        metric_type="membership_inference",
    )  # fmt: skip


LANGUAGE_GROUPS = (
    Group("Forget set", _answers("forget")),
    Group("Against a retrained model", (
        _row(
            "forget quality", "p-value", "up",
            "Kolmogorov-Smirnov test that the truth ratios are distributed as a retrained model's", "forget", TOFU, None,
            wanted="should be above 0.05",
        ),
        _row(
            "PrivLeak", "% of a retrained model's", "retrained",
            "MUSE's relative area of the Min-40 % attack: towards -100 still known as training data, above 0 over-unlearned",
            "forget", MUSE, 1, wanted="should be near 0",
        ),
    )),
    Group("Asked otherwise", (
        *_asked_again("paraphrased", "of the forget set, asked in other words", f"{_MEASURES}.answer_figures.extraction"),
        *_asked_again("translated", "of the forget set, asked in another language", f"{_MEASURES}.answer_figures.extraction"),
    )),
    Group("Brought back", (
        *_asked_again(
            "relearned", "of forget pairs, after training on some others",
            "arXiv:2406.13356",
        ),
        *_asked_again("int8", "of the forget set, linear weights rounded to 8 bits", _ROUNDED),
        *_asked_again("int4", "of the forget set, linear weights rounded to 4 bits", _ROUNDED),
    )),
    Group("Membership attacks", (
        _attack("loss", "the loss", f"arXiv:1709.01604, as in {OPEN_UNLEARNING}"),
        _attack("zlib", "the loss over the text's compressed size", f"arXiv:2012.07805, as in {OPEN_UNLEARNING}"),
        _attack("Min-K%", "the mean log p of the least likely tokens", f"arXiv:2310.16789, as in {OPEN_UNLEARNING}"),
        _attack("Min-K%++", "the same, standardised over the vocabulary,", f"arXiv:2404.02936, as in {OPEN_UNLEARNING}"),
        _attack("reference", "the loss less a reference model's", f"arXiv:2012.07805, as in {OPEN_UNLEARNING}"),
    )),
    Group("MUSE", (
        _row("VerbMem", "%", "retrained", "mean ROUGE-L F1 of greedy continuations of texts", "forget", MUSE, 1),
        _row("KnowMem", "%", "retrained", "mean ROUGE-L F1 of answers to MUSE's prompt", "forget", MUSE, 1),
        _row("retain KnowMem", "%", "stay", "mean ROUGE-L F1 of answers to MUSE's prompt", "retain", MUSE, 1),
    )),
    Group("What is kept", (
        *_answers("retain"),
        _row(
            "model utility", RATIO, "stay", "harmonic mean of probability, ROUGE-L and truth ratio over the kept sets",
            "retain", TOFU,
        ),
        _row(
            "perplexity", "perplexity", "stay", "exp of the mean loss of a token of general texts", "general",
            f"{_MEASURES}.answer_figures.perplexity", 1,
        ),
        _row(
            "general repetition", "%", "stay", "seq-rep-4 of greedy continuations of general texts", "general",
            "arXiv:1908.04319", 1,
        ),
    )),
)  # fmt: skip
