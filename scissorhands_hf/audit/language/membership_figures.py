"""Was a text in the training data? Attacks that rank texts by what the model says of them, and how well they tell members.

Each attack gives a score that is low where a text looks like training data. The area under the curve (AUC) is the chance that a
member scores lower than a non-member: 1 tells all, 0.5 is guessing.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from .answer_scores import TokenScores


MIN_K = 0.4  # of MUSE (arXiv:2407.06460) and OpenUnlearning (arXiv:2506.12618); the attack's own paper tries 0.1 to 0.5


def loss_attack(scores: TokenScores) -> float:
    """Mean negative log-likelihood (Yeom et al., arXiv:1709.01604)."""
    return scores.loss


def zlib_attack(scores: TokenScores, answer: str) -> float:
    """Mean negative log-likelihood over the bytes that zlib compresses the text to (Carlini et al., arXiv:2012.07805)."""
    return scores.loss / len(zlib.compress(answer.encode("utf-8")))


def reference_attack(scores: TokenScores, reference: TokenScores) -> float:
    """Mean negative log-likelihood, less that of a model that never saw the text (Carlini et al., arXiv:2012.07805)."""
    return scores.loss - reference.loss


def min_k_attack(scores: TokenScores, share: float = MIN_K) -> float:
    """Min-K%: mean negative log p of the `share` of tokens that are least likely (Shi et al., arXiv:2310.16789)."""
    return _lowest(scores.of_answer().log_probs, share)


def min_k_plus_attack(scores: TokenScores, share: float = MIN_K) -> float:
    """
    Min-K%++ (Zhang et al., arXiv:2404.02936): the same of (log p - mean) / deviation, both over the vocabulary. As
    in OpenUnlearning, no variance counts as less than 1e-6.
    """
    answer = scores.of_answer()
    return _lowest((answer.log_probs - answer.means) / np.maximum(answer.deviations, 1e-3), share)


def _lowest(values: np.ndarray, share: float) -> float:
    return -float(np.sort(values)[: max(1, int(len(values) * share))].mean())


def area_under_curve(members: Sequence[float], others: Sequence[float]) -> float:
    """P(member < other) + P(member = other) / 2, over all pairs: the Mann-Whitney statistic."""
    low, high = np.asarray(members, dtype=np.float64)[:, None], np.asarray(others, dtype=np.float64)[None]
    return float((low < high).mean() + (low == high).mean() / 2)


def area_interval(area: float, members: int, others: int, level: float = 0.95) -> tuple[float, float]:
    """
    A confidence interval of the area under the curve that does not shrink to a point at 0 and 1: all areas from which the one
    found is at most z standard errors away, with the error that Hanley & McNeil (1982, Radiology 143:29-36) give for each
    (Newcombe 2006, Statistics in Medicine 25:559-573, inverts it so).

    Args:
        area (`float`):
            0 to 1.
        members, others (`int`):
            How many texts of each kind.
        level (`float`, *optional*, defaults to 0.95):
            Of confidence.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.ppf((1 + level) / 2))

    def excess(other: float) -> float:
        pairs = 1 + (members - 1) * (1 - other) / (2 - other) + (others - 1) * other / (1 + other)
        return (area - other) ** 2 - z**2 * other * (1 - other) * pairs / (members * others)

    # At the area itself, and at 0 and 1, the two sides are equal or both 0: roots are looked for a little inside.
    tiny = 1e-9
    low = brentq(excess, tiny, min(area, 1 - tiny)) if excess(tiny) > 0 else 0.0
    high = brentq(excess, max(area, tiny), 1 - tiny) if excess(1 - tiny) > 0 else 1.0
    return float(low), float(high)
