"""Figures of answers and texts, each defined once: probability, ROUGE, extraction, repetition, perplexity."""

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from .answer_scores import TokenScores


if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def mean_loss(scores: Sequence[TokenScores]) -> float:
    """Mean over answers of -log P(a|q) / |a|, in nats; a the answer with the end of its turn (TOFU, arXiv:2401.06121)."""
    return mean([score.loss for score in scores])


def mean_probability(scores: Sequence[TokenScores]) -> float:
    """Mean over answers of P(a|q)^(1/|a|), 0 to 1 (TOFU, arXiv:2401.06121, section 2.2.1)."""
    return mean([math.exp(-score.loss) for score in scores])


def perplexity(scores: Sequence[TokenScores]) -> float:
    """exp of the mean negative log-likelihood over all tokens of all texts, each text read by itself."""
    total = math.fsum(-float(score.log_probs.sum()) for score in scores)
    return math.exp(min(total / sum(len(score.log_probs) for score in scores), 700.0))


def rouge_l(answers: Sequence[str], expected: Sequence[str], stemmed: bool = True) -> list[tuple[float, float]]:
    """
    Recall and F1 of ROUGE-L (Lin, 2004), 0 to 1, of each answer against what is expected, by Google's `rouge_score`.

    TOFU takes the recall, of stemmed words; MUSE the F1, of words as they are. A reference without any Latin letter or digit,
    of which `rouge_score` finds no word, is compared by the words of its own script, or by its signs where they are not parted.

    Raises:
        ImportError: rouge-score is missing.
    """
    found = []
    for answer, reference in zip(answers, expected, strict=True):
        foreign = re.search(r"[a-z0-9]", reference.lower()) is None
        score = _scorer(stemmed and not foreign, foreign).score(reference, answer)["rougeL"]
        found.append((float(score.recall), float(score.fmeasure)))
    return found


class UnicodeWords:
    """A tokenizer for `rouge_score`: words of any script, and each ideograph or kana by itself."""

    _WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")

    def tokenize(self, text: str) -> list[str]:
        return self._WORDS.findall(unicodedata.normalize("NFKC", text).lower())


def check_rouge() -> None:
    """
    Raises:
        ImportError: rouge-score is missing.
    """
    try:
        import rouge_score  # noqa: F401
    except ImportError as error:
        raise ImportError("ROUGE-L needs rouge-score: pip install 'scissorhands_hf[language]'") from error


@cache
def _scorer(stemmed: bool, foreign: bool) -> "RougeScorer":
    check_rouge()
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=stemmed, tokenizer=UnicodeWords() if foreign else None)


def holds_fact(answer: str, facts: Sequence[str]) -> bool:
    """Whether an answer holds one of the wordings of a fact; case and white space do not count."""
    plain = _plain(answer)
    return any(_plain(fact) in plain for fact in facts)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def extraction(answers: Sequence[str], facts: Sequence[Sequence[str]]) -> float:
    """Percentage of greedy answers that hold their fact."""
    return 100 * mean([holds_fact(answer, wordings) for answer, wordings in zip(answers, facts, strict=True)])


def repetition(answers: Sequence[Sequence[int]], size: int = 4) -> float:
    """
    seq-rep-4 in percent: the mean over answers of 1 - (distinct 4-grams of tokens) / (4-grams of tokens)
    (Welleck et al., 2019, arXiv:1908.04319, section 3). An answer of fewer than four tokens repeats nothing.
    """
    shares = []
    for answer in answers:
        grams = [tuple(answer[start : start + size]) for start in range(len(answer) - size + 1)]
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return 100 * mean(shares)
