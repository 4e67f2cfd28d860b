"""Models that an audit is given, as they are or by name: checked before any is run, and loaded when their turn comes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .audit_settings import LanguageAuditSettings
from .language_sets import AuditSets, prompt_and_continuation
from .rounded_weights import linear_weights


DTYPES = ("auto", "float32", "float16", "bfloat16")
Model = PreTrainedModel | nn.Module | str | os.PathLike


def check_model(
    argument: str, model: Any, tokenizer: PreTrainedTokenizerBase, sets: AuditSets, settings: LanguageAuditSettings
) -> None:
    """
    Raises:
        TypeError: it is no model that generates, and no name of one.
        ValueError: it is of another kind, does not belong to the tokenizer, or reads fewer tokens than it would be given.
        OSError: there is no model of that name.
    """
    named = isinstance(model, (str, os.PathLike))
    if not named and not (isinstance(model, nn.Module) and hasattr(model, "generate") and hasattr(model, "config")):
        raise TypeError(f"{argument}={type(model).__name__} is no language model of transformers that generates, nor its id")
    config: PreTrainedConfig = AutoConfig.from_pretrained(model) if named else model.config
    shown = f"{argument}={str(model) if named else type(model).__name__}"
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{shown} is an encoder-decoder; this audit is for causal language models")
    if not named:
        _check_loaded(argument, shown, model, tokenizer, bool(settings.rounding))
    _check_context(shown, getattr(config.get_text_config(), "max_position_embeddings", None), sets, settings)


def _check_loaded(argument: str, shown: str, model: Any, tokenizer: PreTrainedTokenizerBase, rounded: bool) -> None:
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
        raise ValueError(f"{shown} has no output layer over a vocabulary; load it as a causal LM")
    size = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > size:
        raise ValueError(
            f"{argument} has {size} embeddings and the tokenizer {len(tokenizer)} tokens: they do not belong together"
        )
    if rounded:
        linear_weights(model)


def _check_context(shown: str, context: Any, sets: AuditSets, settings: LanguageAuditSettings) -> None:
    """A model with learned places fails beyond them, and others say nothing sensible there."""
    texts = sets.texts()
    longest = max(len(text.input_ids) for text in texts)
    prompt = max(len(prompt_and_continuation(text)[0]) for text in texts)
    if not isinstance(context, int) or max(longest, prompt + settings.max_new_tokens) <= context:
        return
    what, way = f"a text of {longest} tokens", "max_length"
    if longest <= context:
        what, way = f"a prompt of {prompt} tokens with {settings.max_new_tokens} new ones", "max_new_tokens"
    raise ValueError(f"{shown} reads {context} tokens, and {what} is longer; give a smaller {way}={getattr(settings, way)}")


@contextmanager
def loaded(given: Model, dtype: str, device: Any) -> Iterator[nn.Module]:
    """
    A model as it is; one that was named is loaded, and let go of afterwards.

    Args:
        given ([`~transformers.PreTrainedModel`], `str` or `os.PathLike`):
            The model.
        dtype (`str`):
            To load in: one of `DTYPES`.
        device (`Any`):
            To load to.
    """
    if not isinstance(given, (str, os.PathLike)):
        yield given
        return
    yield AutoModelForCausalLM.from_pretrained(given, dtype=dtype).to(device).eval()
