"""Which logits of a language model predict which labels, and the log-probability of each labelled token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


IGNORED = -100


@dataclass(frozen=True)
class LabelledTokens:
    """
    The labelled tokens of a batch of n examples, m between them, one after the other.

    Args:
        logits (`Tensor`):
            By which each is predicted, shape (m, V), in the model's dtype.
        labels (`Tensor`):
            Each itself, int64, shape (m,).
        rows (`Tensor`):
            The example that it belongs to, int64 in [0, n), ascending, shape (m,).
        columns (`Tensor`):
            Where in the example it is predicted from, int64, shape (m,).
        examples (`int`):
            n.
    """

    logits: Tensor
    labels: Tensor
    rows: Tensor
    columns: Tensor
    examples: int

    def losses(self) -> Tensor:
        """−log π of each token, float32, shape (m,). Only logits of labelled tokens are widened, and none is stored twice."""
        return F.cross_entropy(self.logits.float(), self.labels, reduction="none")

    def per_example(self, values: Tensor) -> Tensor:
        """Sums of `values`, shape (m,), over the tokens of each example, shape (n,)."""
        return values.new_zeros(self.examples).index_add(0, self.rows, values)

    @property
    def lengths(self) -> Tensor:
        """Labelled tokens of each example, float32, shape (n,)."""
        return self.per_example(torch.ones_like(self.rows, dtype=torch.float32))


def labelled_tokens(logits: Tensor | None, labels: Tensor, shifted: bool) -> LabelledTokens:
    """
    The labelled tokens of a batch with the logits that predict them.

    Args:
        logits (`Tensor`):
            Shape (n, t, V).
        labels (`Tensor`):
            Shape (n, t), -100 where nothing is labelled.
        shifted (`bool`):
            Logits predict the next label, as those of causal models do, rather than their own.

    Raises:
        ValueError: the logits are of another shape.
    """
    if logits is None or logits.ndim != 3 or logits.shape[:-1] != labels.shape:
        shape = None if logits is None else tuple(logits.shape)
        raise ValueError(f"logits of shape {shape} do not belong to labels of shape {tuple(labels.shape)}, one for each")
    if shifted:
        labels = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
    return LabelledTokens(logits[rows, columns], labels[rows, columns], rows, columns, len(labels))


def top_entries(tokens: LabelledTokens, count: int) -> Tensor:
    """
    The entries of the vocabulary that are likeliest at each token, the label always among them, as the last if it is not one.

    Args:
        tokens (`LabelledTokens`):
            m of them.
        count (`int`):
            k; at most V − 1 are taken, so that something is left over.

    Returns:
        int64, shape (m, k).
    """
    ids = tokens.logits.topk(min(count, tokens.logits.shape[1] - 1), dim=1).indices
    absent = (ids != tokens.labels.unsqueeze(1)).all(1)
    ids[:, -1] = torch.where(absent, tokens.labels, ids[:, -1])
    return ids


def without_labels(batch: Mapping[str, Any], keep: bool) -> dict[str, Any]:
    """What a model is asked for its logits with: no labels, which a loss would be computed of, but to `keep` where inputs are
    made of them."""
    return dict(batch) if keep else {name: value for name, value in batch.items() if name not in ("labels", "shift_labels")}
