"""Raw text data sets as a causal language model is trained on them: tokens, and labels on the answers alone."""

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
from torch import nn
from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..audit.language.text_rows import FORMATS, EncodedText, TextRow, encode_row, read_row, row_format


logger = logging.getLogger(__name__)

# A column with another answer to each question, and what its tokens and labels are called.
OTHER_ANSWER_COLUMN = "counterfactual"
_ENCODED = ("input_ids", "attention_mask", "labels")
_OTHER = tuple(f"{OTHER_ANSWER_COLUMN}_{name}" for name in ("input_ids", "labels"))
_WAS_CUT = "was_cut_to_max_length"
_IGNORED = -100


def is_language_model(model: nn.Module) -> bool:
    """Whether `model` is a causal language model of transformers without an encoder."""
    config = getattr(model, "config", None)
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    return type(inner).__name__ in names and not getattr(config, "is_encoder_decoder", False)


def is_raw(dataset: Any, columns: list[str]) -> bool:
    """
    Whether the examples of a map-style set have none of the columns that the model takes, and so have to be encoded.

    Args:
        dataset (`Any`):
            Map-style. One without examples, or with examples that are no mappings, is not raw.
        columns (`list[str]`):
            That the model takes, with the names of its labels.
    """
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__") or not len(dataset):
        return False
    names = dataset.column_names if _is_plain(dataset) else dataset[0]
    return isinstance(names, (Mapping, list)) and not any(name in columns for name in names)


def _is_plain(dataset: Any) -> bool:
    """A `datasets.Dataset` whose examples have the columns that it says."""
    return isinstance(dataset, datasets.Dataset) and dataset.format["type"] != "custom"


@dataclass(frozen=True)
class TextEncoder:
    """
    From a row of text to what a causal language model is trained on.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Of the model.
        max_length (`int`, *optional*):
            In tokens; what is longer is cut at its end.
        answers_only (`bool`, *optional*, defaults to `True`):
            Nothing but answers has labels, with what ends them. Where nothing is asked, all of the text has.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None = None
    answers_only: bool = True

    def __call__(self, row: Mapping[str, Any], index: int | None = None) -> dict[str, Any]:
        """
        Lists of numbers, without padding: `input_ids`, `attention_mask`, `labels` (-100 where nothing is to be learned), and
        with a column `counterfactual` the same for that answer, as `counterfactual_input_ids` and `counterfactual_labels`; None
        where the row has none.

        Raises:
            ValueError: the row cannot be read, or nothing of its answer is left by `max_length`.
        """
        try:
            found = read_row(row)
            text, labels, cut = self._encode(found)
            encoded = {"input_ids": text, "attention_mask": [1] * len(text), "labels": labels, _WAS_CUT: cut}
            if row.get(OTHER_ANSWER_COLUMN):
                other, other_labels, _ = self._encode(TextRow(found.prompt, row[OTHER_ANSWER_COLUMN]))
                encoded |= dict(zip(_OTHER, (other, other_labels), strict=True))
            elif OTHER_ANSWER_COLUMN in row:
                encoded |= dict.fromkeys(_OTHER)
        except ValueError as error:
            raise ValueError(f"row {index}: {error}") from error
        return encoded

    def _encode(self, row: TextRow) -> tuple[list[int], list[int], bool]:
        whole = encode_row(self.tokenizer, row)
        ids = whole.input_ids
        labels = [_IGNORED] * whole.prompt_length + ids[whole.prompt_length :]
        if not self.answers_only or whole.is_text:
            labels = list(ids)
        elif not isinstance(row.prompt, str):
            self._label_earlier_answers(row, whole, labels)
        cut = self.max_length is not None and len(ids) > self.max_length
        if cut:
            ids, labels = ids[: self.max_length], labels[: self.max_length]
            if all(label == _IGNORED for label in labels):
                raise ValueError(
                    f"max_length={self.max_length} leaves nothing of an answer after a prompt of {whole.prompt_length} "
                    "tokens; give a larger max_length, or shorten the prompt"
                )
        return ids, labels, cut

    def _label_earlier_answers(self, row: TextRow, whole: EncodedText, labels: list[int]) -> None:
        """Of a conversation the assistant's turns before the last, where the chat template shows them as it would have then."""
        for turn, message in enumerate(row.prompt):
            if message["role"] != "assistant" or not turn:
                continue
            earlier = encode_row(self.tokenizer, TextRow(row.prompt[:turn], message["content"]))
            start, stop = earlier.prompt_length, len(earlier.input_ids)
            if whole.input_ids[:stop] == earlier.input_ids:
                labels[start:stop] = earlier.input_ids[start:]


class TextCollator:
    """
    Pads encoded texts to the longest of a batch, on the tokenizer's side. What is padded has neither attention nor a label, so
    a tokenizer without a token for padding pads with the one that ends a text.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Not changed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if tokenizer.pad_token is None:
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.pad_token = tokenizer.eos_token if tokenizer.eos_token is not None else tokenizer.unk_token
        self.pad = DataCollatorForSeq2Seq(tokenizer)

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, Any]:
        return dict(self.pad([{name: row[name] for name in _ENCODED if name in row} for row in examples]))


class TokenCollator:
    """
    Leaves everything but tokens out of encoded texts, for a collator that makes labels itself.

    Args:
        collate (`Callable[[list], Any]`):
            Of the examples' `input_ids` and `attention_mask`.
    """

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = collate

    def __call__(self, examples: list[Mapping[str, Any]]) -> Any:
        return self.collate([{name: row[name] for name in ("input_ids", "attention_mask")} for row in examples])


def text_tokenizer(processing_class: Any, argument: str, dataset: Any) -> PreTrainedTokenizerBase:
    """
    The tokenizer that raw text is read with.

    Raises:
        ValueError: there is none, or the columns are in no known format.
    """
    names = list(dataset.column_names if _is_plain(dataset) else dataset[0])
    try:
        row_format(names)
    except ValueError as error:
        raise ValueError(
            f"{argument} has the columns {', '.join(names)}. A causal language model is given input_ids (and labels), or text "
            f"in columns that the trainer encodes itself: {_formats()}. Rename its columns, or set remove_unused_columns=False "
            "and give a data_collator."
        ) from error
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"{argument} holds text ({', '.join(names)}), and processing_class is a {type(processing_class).__name__}: give "
            "the trainer the model's tokenizer, processing_class=AutoTokenizer.from_pretrained(...), or a set with input_ids"
        )
    return tokenizer


def context_length(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The longest text that model and tokenizer are made for, in tokens; None where neither says."""
    known = (getattr(getattr(model, "config", None), "max_position_embeddings", None), tokenizer.model_max_length)
    # A tokenizer that knows no limit says an enormous number.
    return min((length for length in known if isinstance(length, int) and 0 < length < 10**9), default=None)


def encode_texts(argument: str, dataset: Any, encoder: TextEncoder) -> datasets.Dataset:
    """
    A set of raw text with what `encoder` makes of it beside its columns.

    Args:
        argument (`str`):
            What the set is called in messages.
        dataset (`Any`):
            Map-style, of mappings; what is no `datasets.Dataset` becomes one.
        encoder (`TextEncoder`):
            Of one row.

    Raises:
        ValueError: naming the first row that cannot be encoded.
    """
    rows = dataset if isinstance(dataset, datasets.Dataset) else datasets.Dataset.from_list([dict(row) for row in dataset])
    # Said beforehand, for it cannot be seen in rows that have no other answer.
    tokens = datasets.List(datasets.Value("int64"))
    other = dict.fromkeys(_OTHER, tokens) if OTHER_ANSWER_COLUMN in rows.column_names else {}
    new = {**dict.fromkeys(_ENCODED, tokens), **other, _WAS_CUT: datasets.Value("bool")}
    features = datasets.Features({**rows.features, **new})
    try:
        encoded = rows.with_format(None).map(encoder, with_indices=True, features=features, desc=f"Tokenizing {argument}")
    except ValueError as error:
        raise ValueError(f"{argument}, {error}") from error
    cut = sum(encoded[_WAS_CUT])
    if cut:
        logger.warning(
            "%d of the %d rows of %s are longer than max_length=%d tokens and were cut at their end: what was cut off is "
            "neither forgotten nor kept. Give a larger max_length, or split long texts into several rows.",
            cut,
            len(encoded),
            argument,
            encoder.max_length,
        )
    if other and all(ids is None for ids in encoded[_OTHER[0]]):
        encoded = encoded.remove_columns(list(_OTHER))
    return encoded.remove_columns(_WAS_CUT)


def warn_of_whole_texts(collator: DataCollatorForLanguageModeling, example: Any) -> None:
    """
    Say what a `DataCollatorForLanguageModeling` counts, and what not.

    Args:
        collator (`DataCollatorForLanguageModeling`):
            Makes labels of all tokens but those for padding.
        example (`Any`):
            One that is to be forgotten; of plain text there are no prompts to warn of.
    """
    if collator.mlm:
        return
    if not (isinstance(example, Mapping) and "text" in example):
        logger.warning(
            "data_collator=DataCollatorForLanguageModeling: every token counts in the loss, so that questions and prompts are "
            "forgotten and kept like answers. For the loss of answers alone leave data_collator out and give raw text (%s), or "
            "give labels of -100 on prompts and DataCollatorForSeq2Seq.",
            _formats(),
        )
    tokenizer = collator.tokenizer
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id == tokenizer.eos_token_id:
        logger.warning(
            "data_collator=DataCollatorForLanguageModeling takes %r for padding, which is also what ends a text: its label is "
            "left out, so the model is not shown where to stop. Give the tokenizer a pad_token of its own.",
            tokenizer.pad_token,
        )


def _formats() -> str:
    return "; ".join(" and ".join(columns) for columns in FORMATS)


class TextMixin:
    """What of a trainer reads text; to be named before Trainer."""

    args: Any
    model: nn.Module
    processing_class: Any
    train_dataset: Any
    forget_dataset: Any
    eval_dataset: Any
    data_collator: Callable[[list], Any]
    _encodes_texts = False

    def read_texts(self, data_collator: Callable[[list], Any] | None, columns: list[str]) -> None:
        """
        Encode the sets that are raw text, and collate them as such; at construction.

        Args:
            data_collator (`Callable`, *optional*):
                As it was given: raw text is encoded for a `DataCollatorForLanguageModeling`, and where there is none; any other
                is left to read what it is given.
            columns (`list[str]`):
                That the model takes.

        Raises:
            ValueError: the text cannot be encoded.
        """
        if not is_language_model(self.model):
            return
        raw = is_raw(self.train_dataset, columns) or is_raw(self.forget_dataset, columns)
        whole = isinstance(data_collator, DataCollatorForLanguageModeling)
        if whole:
            warn_of_whole_texts(data_collator, self.forget_dataset[0])
        self._encodes_texts, self._text_columns = raw and (data_collator is None or whole), columns
        if not self._encodes_texts:
            return
        self.train_dataset = self.read_text("train_dataset", self.train_dataset)
        self.forget_dataset = self.read_text("forget_dataset", self.forget_dataset)
        if isinstance(self.eval_dataset, dict):
            self.eval_dataset = {
                part: self.read_text(f"eval_dataset[{part!r}]", dataset) for part, dataset in self.eval_dataset.items()
            }
        else:
            self.eval_dataset = self.read_text("eval_dataset", self.eval_dataset)
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        self.data_collator = TokenCollator(data_collator) if whole else TextCollator(tokenizer)

    def read_text(self, argument: str, dataset: Any) -> Any:
        """A set with its text encoded; as it is, if it is not raw, or the trainer was not given raw text to begin with."""
        if not self._encodes_texts or not is_raw(dataset, self._text_columns):
            return dataset
        tokenizer = text_tokenizer(self.processing_class, argument, dataset)
        limit = self.args.max_length or context_length(self.model, tokenizer)
        with self.args.main_process_first(desc=f"tokenizing {argument}"):
            return encode_texts(argument, dataset, TextEncoder(tokenizer, limit, self.args.answers_only))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Trainer's, of raw text as well."""
        named = eval_dataset is None or isinstance(eval_dataset, str)
        return super().get_eval_dataloader(eval_dataset if named else self.read_text("eval_dataset", eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Trainer's, of raw text as well."""
        return super().get_test_dataloader(self.read_text("test_dataset", test_dataset))
