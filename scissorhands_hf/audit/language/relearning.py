"""Does a little training on some of the forget set bring back the rest? A model that never knew it cannot be so reminded.

A few full-batch steps of AdamW on some forget pairs, as an attacker with a part of the data would take them (Hu et al.,
arXiv:2406.13356; Lynch et al., arXiv:2402.16835). What comes back of the *other* pairs is read against the same steps on a
retrained model, the control.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..untouched import weights_kept
from .answer_scores import pad_batch
from .text_rows import EncodedText


def split_for_relearning(count: int, taught: int | None, seed: int) -> tuple[list[int], list[int]]:
    """
    Which of the forget pairs are taught again, and which others are then asked for; both in ascending order.

    Args:
        count (`int`):
            Of the forget pairs.
        taught (`int`, *optional*):
            How many are taught again; default: a quarter, at least one.
        seed (`int`):
            Of the choice.

    Raises:
        ValueError: none would be taught, or none would be left.
    """
    size = max(1, count // 4) if taught is None else taught
    if not 0 < size < count:
        raise ValueError(
            f"relearn_examples={taught} of {count} forget examples: at least one has to be taught again and one left to ask "
            "for; relearn_steps=0 leaves relearning out"
        )
    chosen = set(random.Random(seed).sample(range(count), size))
    return sorted(chosen), [index for index in range(count) if index not in chosen]


@contextmanager
def relearned(
    model: nn.Module, texts: Sequence[EncodedText], steps: int, learning_rate: float, batch_size: int = 16
) -> Iterator[list[float]]:
    """
    Inside, the model has been trained on the answers of `texts`; afterwards it is as before, bit for bit.

    Args:
        model (`nn.Module`):
            All floating-point weights are trained, without dropout; those of less than 32 bits by way of float32 copies.
        texts (`Sequence[EncodedText]`):
            What is taught, all of it in each step. The loss is that of the answers and the ends of their turns.
        steps (`int`):
            Of AdamW, without weight decay.
        learning_rate (`float`):
            Constant.
        batch_size (`int`, *optional*, defaults to 16):
            Texts at a time; their gradients are summed.

    Yields:
        The loss before each step.
    """
    with weights_kept(model):
        for parameter in model.parameters():
            parameter.grad = None
            if parameter.is_floating_point():
                parameter.requires_grad_(True)
        with torch.enable_grad():
            losses = _train(model, texts, steps, learning_rate, batch_size)
        yield losses


def _train(model: nn.Module, texts: Sequence[EncodedText], steps: int, learning_rate: float, size: int) -> list[float]:
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    masters = [weight if weight.dtype == torch.float32 else weight.detach().float().requires_grad_() for weight in weights]
    optimizer = torch.optim.AdamW(masters, lr=learning_rate, weight_decay=0.0)
    total = sum(len(text.input_ids) - max(text.prompt_length, 1) for text in texts)
    losses = []
    for _ in range(steps):
        losses.append(0.0)
        for begin in range(0, len(texts), size):
            loss = _summed_loss(model, texts[begin : begin + size]) / total
            loss.backward()
            losses[-1] += float(loss.detach())
        for weight, master in zip(weights, masters, strict=True):
            if master is not weight and weight.grad is not None:
                master.grad, weight.grad = weight.grad.float(), None
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for weight, master in zip(weights, masters, strict=True):
                if master is not weight:
                    weight.copy_(master)
    return losses


def _summed_loss(model: nn.Module, texts: Sequence[EncodedText]) -> Tensor:
    inputs = pad_batch([text.input_ids for text in texts], 0, left=False, device=next(model.parameters()).device)
    labels = torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], -100)
    for row, text in enumerate(texts):
        labels[row, : text.prompt_length] = -100
    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
