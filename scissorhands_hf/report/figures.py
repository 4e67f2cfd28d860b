"""The field's four numbers, named once."""

from collections.abc import Mapping


METRICS = {
    "UA": "unlearning accuracy: 100 - accuracy on the forget set",
    "RA": "remaining accuracy: accuracy on the retain set",
    "TA": "test accuracy: accuracy on the test set (without the forgotten class where one was forgotten)",
    "MIA": "share of the forget set that a confidence attack takes for non-members of the training set",
}


def average_gap(metrics: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Mean absolute difference, in points, of the metrics that both have; the reference is the retrained model."""
    shared = [name for name in metrics if name in reference]
    if not shared:
        raise ValueError(f"no metric in common: {sorted(metrics)} and {sorted(reference)}")
    return sum(abs(metrics[name] - reference[name]) for name in shared) / len(shared)
