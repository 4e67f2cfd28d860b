"""The field's four numbers: UA, RA, TA and MIA, each defined here and nowhere else. All are percentages.

They are read against a model retrained from scratch without the forget set: the closer, the better. High is not good in
itself: a model that unlearned a random tenth of its data should still get most of it right, as it does with unseen data.
"""

from collections.abc import Mapping

import numpy as np


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Percentage of rows of `logits` (n, classes) whose largest entry is at `labels` (n,)."""
    return 100.0 * float((logits.argmax(axis=1) == labels).mean())


def true_class_confidence(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Softmax probability of the true class, float64 of shape (n,)."""
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities[np.arange(len(labels)), labels]


def membership_attack(
    retain: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], forget: tuple[np.ndarray, np.ndarray]
) -> float:
    """Confidence-based membership inference attack, as the SalUn / Scissorhands line of work defines it.

    A support vector classifier (RBF kernel, C = 3, gamma "auto") learns to tell members (retain) from non-members (test) by
    the probability that the model gives the true class, on equally many of each: the first n of both, n the size of the
    smaller set. It then looks at the forget set.

    Args:
        retain, test, forget (`tuple[np.ndarray, np.ndarray]`):
            Pairs of logits (n, classes) and labels (n,).

    Returns:
        Percentage of the forget set that it takes for non-members ("MIA-efficacy"). Higher means that fewer forget examples
        look like training data; the goal is the value of a retrained model, not 100.

    Raises:
        ImportError: scikit-learn is missing.
    """
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ImportError("The membership attack needs scikit-learn: pip install 'scissorhands_hf[demo]'") from error
    members, others, targets = (true_class_confidence(*part)[:, None] for part in (retain, test, forget))
    size = min(len(members), len(others))
    features = np.concatenate([members[:size], others[:size]])
    attack = SVC(C=3, gamma="auto", kernel="rbf").fit(features, np.repeat([1, 0], size))
    return 100.0 * float((attack.predict(targets) == 0).mean())


def unlearning_metrics(predictions: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """UA, RA, TA and MIA in percent, see `METRICS`.

    Args:
        predictions (`Mapping[str, tuple[np.ndarray, np.ndarray]]`):
            For `"forget"`, `"retain"` and `"test"` the pair of logits, shape (n, classes), and labels, shape (n,), as
            `trainer.predict(dataset)` returns them. For class forgetting, test without the forgotten class.

    Raises:
        KeyError: one of the three is missing.
        ValueError: shapes do not fit.
    """
    for name in ("forget", "retain", "test"):
        logits, labels = predictions[name]
        if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
            raise ValueError(f"{name}: logits {logits.shape} and labels {labels.shape} are not (n, classes) and (n,), n >= 1")
    return {
        "UA": 100.0 - accuracy(*predictions["forget"]),
        "RA": accuracy(*predictions["retain"]),
        "TA": accuracy(*predictions["test"]),
        "MIA": membership_attack(predictions["retain"], predictions["test"], predictions["forget"]),
    }
