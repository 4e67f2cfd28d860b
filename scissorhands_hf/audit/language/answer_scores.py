"""How likely a model finds answers, token by token: everything that losses, memorisation and membership attacks are made of.

Batches are padded on the right, which no causal model sees from the left, so positions are those of the text alone. Of the
logits only those before answer tokens are computed where the model can leave the others out, and none are kept.
"""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .text_rows import EncodedText


# Logits that may be in memory at a time, in numbers: 64 million are 256 MB in float32.
LOGITS_AT_A_TIME = 64_000_000


@dataclass(frozen=True)
class TokenScores:
    """
    Of one answer, for each of its tokens and of the end of its turn, given all that comes before. Natural logarithms.

    Args:
        log_probs (`np.ndarray`):
            Float64 of shape (tokens,): log p of the token.
        means, deviations (`np.ndarray`):
            Float64 of shape (tokens,): mean and standard deviation of log p over the vocabulary, weighed by p.
        greedy (`np.ndarray`):
            Bool of shape (tokens,): the token is the likeliest.
        answer_length (`int`):
            How many of them are the answer's, without the end of its turn.
    """

    log_probs: np.ndarray
    means: np.ndarray
    deviations: np.ndarray
    greedy: np.ndarray
    answer_length: int

    @property
    def loss(self) -> float:
        """Mean negative log p of the answer and the end of its turn, which TOFU counts in (arXiv:2401.06121)."""
        return -float(self.log_probs.mean())

    def of_answer(self) -> "TokenScores":
        """Without the end of the turn, as OpenUnlearning measures memorisation and membership (arXiv:2506.12618)."""
        parts = (part[: self.answer_length] for part in (self.log_probs, self.means, self.deviations, self.greedy))
        return TokenScores(*parts, self.answer_length)


def score_answers(model: nn.Module, texts: Sequence[EncodedText], batch_size: int = 16) -> list[TokenScores]:
    """
    Score the answers of encoded rows, in their order.

    Args:
        model (`nn.Module`):
            A causal language model, in the mode that it is to be measured in.
        texts (`Sequence[EncodedText]`):
            Each with at least one answer token that something comes before.
        batch_size (`int`, *optional*, defaults to 16):
            At most so many at a time, and fewer where their logits would be many.

    Raises:
        ValueError: the answer has no token that could be predicted.
    """
    for text in texts:
        if len(text.input_ids) - max(text.prompt_length, 1) < 1:
            raise ValueError("a text of a single token has nothing to predict; leave it out")
    takes = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
    scores: dict[int, TokenScores] = {}
    for indices in _batches(texts, batch_size, _vocabulary(model)):
        scores |= zip(indices, _score_batch(model, [texts[index] for index in indices], "logits_to_keep" in takes), strict=True)
    return [scores[index] for index in range(len(texts))]


def _vocabulary(model: nn.Module) -> int:
    return model.get_output_embeddings().weight.shape[0]


def _batches(texts: Sequence[EncodedText], batch_size: int, vocabulary: int) -> Iterator[list[int]]:
    """Indices, the longest texts first, so that those of a batch are about as long and memory is tried at once."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index].input_ids))
    while order:
        longest = len(texts[order[0]].input_ids)
        size = max(1, min(batch_size, LOGITS_AT_A_TIME // (longest * vocabulary)))
        yield order[:size]
        order = order[size:]


def pad_batch(rows: Sequence[Sequence[int]], padding: int, left: bool, device: torch.device) -> dict[str, Tensor]:
    """
    `input_ids` and `attention_mask`, both int64 of shape (rows, longest).

    Args:
        rows (`Sequence[Sequence[int]]`):
            Token ids.
        padding (`int`):
            Id of the token in masked places.
        left (`bool`):
            Pad on the left, for generation.
        device (`torch.device`):
            Of the tensors.
    """
    longest = max(map(len, rows))
    ids, mask = torch.full((len(rows), longest), padding), torch.zeros(len(rows), longest, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), None) if left else slice(len(row))
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@torch.no_grad()
def _score_batch(model: nn.Module, texts: Sequence[EncodedText], keeps: bool) -> list[TokenScores]:
    device = next(model.parameters()).device
    inputs: dict[str, Any] = pad_batch([text.input_ids for text in texts], 0, left=False, device=device)
    # The logits at a place predict the token after it.
    first = [max(text.prompt_length, 1) - 1 for text in texts]
    offset = min(first) if keeps else 0
    if keeps:
        inputs["logits_to_keep"] = torch.arange(offset, inputs["input_ids"].shape[1] - 1, device=device)
    logits = model(**inputs, use_cache=False).logits
    scores = []
    for row, (text, start) in enumerate(zip(texts, first, strict=True)):
        targets = torch.tensor(text.input_ids[start + 1 :], device=device)
        parts = [_token_scores(*part) for part in _chunks(logits[row, start - offset :][: len(targets)], targets)]
        columns = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
        scores.append(TokenScores(*columns, min(len(targets), text.prompt_length + text.answer_length - start - 1)))
    return scores


def _chunks(logits: Tensor, targets: Tensor, size: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(logits.split(size), targets.split(size), strict=True)


def _token_scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    log_p = logits.float().log_softmax(dim=-1)
    p = log_p.exp()
    # 0 · -inf, of tokens that are ruled out altogether, is 0.
    weighed = torch.where(p > 0, p * log_p, 0.0)
    squares = torch.where(p > 0, weighed * log_p, 0.0).sum(dim=-1)
    chosen = log_p.gather(-1, targets[:, None]).squeeze(-1)
    # Not every accelerator knows float64.
    chosen, means, squares = (part.cpu().double() for part in (chosen, weighed.sum(dim=-1), squares))
    return chosen, means, (squares - means**2).clamp(min=0).sqrt(), (log_p.argmax(dim=-1) == targets).cpu()
