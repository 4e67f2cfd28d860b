"""What a model says when it says what it finds likeliest: plain greedy answers, in batches that are padded on the left."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from .answer_scores import pad_batch


def greedy_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int = 16,
) -> list[list[int]]:
    """
    The tokens that the model puts after each prompt, in the prompts' order, without special tokens at their end.

    Args:
        model (`nn.Module`):
            A causal language model that generates. What its own generation settings say of sampling and of penalties is not
            applied; its ends of sequence are.
        tokenizer (`PreTrainedTokenizerBase`):
            For its end of sequence. Its padding is not used, and not changed.
        prompts (`Sequence[Sequence[int]]`):
            Token ids, at least one each.
        max_new_tokens (`int`):
            Where an answer is cut off.
        batch_size (`int`, *optional*, defaults to 16):
            Prompts at a time.
    """
    ends = _end_tokens(model, tokenizer)
    padding = min(ends) if ends else 0
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_length=0,
        do_sample=False,
        num_beams=1,
        # Those of the model would be filled in where these are left open.
        temperature=1.0,
        top_p=1.0,
        top_k=50,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=sorted(ends) or None,
        pad_token_id=padding,
    )
    device = next(model.parameters()).device
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers: dict[int, list[int]] = {}
    for begin in range(0, len(order), batch_size):
        indices = order[begin : begin + batch_size]
        inputs = pad_batch([prompts[index] for index in indices], padding, left=True, device=device)
        with torch.no_grad():
            output = model.generate(**inputs, generation_config=config)
        for index, row in zip(indices, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            stop = next((place for place, token in enumerate(row) if token in ends), len(row))
            answers[index] = row[:stop]
    return [answers[index] for index in range(len(prompts))]


def _end_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    ends = getattr(model.generation_config, "eos_token_id", None)
    listed = ends if isinstance(ends, (list, tuple)) else [ends]
    return {token for token in (*listed, tokenizer.eos_token_id) if token is not None}


def in_words(tokenizer: PreTrainedTokenizerBase, answers: Sequence[Sequence[int]]) -> list[str]:
    """Token ids as text, without special tokens and outer white space."""
    return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]
