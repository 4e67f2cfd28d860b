"""The sets of an audit: rows read and encoded once, with whatever else is asked of each question, before any model is run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from .text_rows import EncodedText, TextRow, encode_row, read_row, row_format


# MUSE (arXiv:2407.06460) prompts with the first 200 tokens of a text and compares 128 more.
TEXT_PROMPT, TEXT_CONTINUATION = 200, 128


@dataclass
class AskedSet:
    """
    Rows with what is scored and what is asked of them, place by place.

    Args:
        name (`str`):
            As in figures.
        rows (`list[TextRow]`):
            As read.
        encoded (`list[EncodedText]`):
            With their answers.
        facts (`list[list[str]]`, *optional*):
            Wordings of what an answer must hold, where all rows have a `fact`.
        others (`dict[str, list[EncodedText]]`, *optional*):
            The rows asked otherwise: "paraphrased", "translated".
        right (`list[EncodedText]`, *optional*):
            The right answers in other words, or as they are where there are none such; with `wrong`.
        wrong (`list[list[EncodedText]]`, *optional*):
            The wrong answers of each row.
    """

    name: str
    rows: list[TextRow]
    encoded: list[EncodedText]
    facts: list[list[str]] | None = None
    others: dict[str, list[EncodedText]] = field(default_factory=dict)
    right: list[EncodedText] | None = None
    wrong: list[list[EncodedText]] | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass
class AuditSets:
    """
    Everything that models are asked.

    Args:
        forget, retain (`AskedSet`):
            What is to be forgotten, and what is to stay.
        holdout (`AskedSet`, *optional*):
            Of the forget set's kind, never learned.
        general (`list[EncodedText]`, *optional*):
            Texts of no set.
        utility (`dict[str, AskedSet]`, *optional*):
            Further sets of what is to stay, with wrong answers to choose from.
        shots (`list[TextRow]`, *optional*):
            Examples for MUSE's prompt.
    """

    forget: AskedSet
    retain: AskedSet
    holdout: AskedSet | None = None
    general: list[EncodedText] | None = None
    utility: dict[str, AskedSet] = field(default_factory=dict)
    shots: list[TextRow] = field(default_factory=list)

    def texts(self) -> list[EncodedText]:
        """Of all rows of all sets, as they are asked and answered."""
        asked = [self.forget, self.retain, *([self.holdout] if self.holdout else []), *self.utility.values()]
        others = [text for texts in self.forget.others.values() for text in texts]
        return [text for one in asked for text in one.encoded] + others + (self.general or [])


def asked_set(
    name: str, rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, others: bool = False
) -> AskedSet:
    """
    Read and encode a set.

    Args:
        name (`str`):
            Of the argument, for errors.
        rows (`Iterable[Mapping[str, Any]]`):
            In any of the formats of [`read_row`]. Columns that are read beside are TOFU's `perturbed_answer` (a list of wrong
            answers) and `paraphrased_answer`; `paraphrased_question` and `translated_question`, with `translated_answer` where
            the answer is to be in that language, too; and `fact`, what an answer has to hold (a text, or several wordings).
        tokenizer (`PreTrainedTokenizerBase`):
            Of the model.
        max_length (`int`):
            Longer rows are cut at their end.
        others (`bool`, *optional*, defaults to `False`):
            Whether questions in other words are read.

    Raises:
        TypeError: `rows` is no collection of rows.
        ValueError: there are none, one cannot be read, or some rows have a column that others lack.
    """
    if isinstance(rows, (str, Mapping)) or not isinstance(rows, Iterable):
        raise TypeError(f"{name}={type(rows).__name__} is not a list or data set of rows")
    listed = list(rows)
    if not listed:
        raise ValueError(f"{name} holds no rows")
    try:
        read = [read_row(row) for row in listed]
        encoded = [encode_row(tokenizer, row, max_length) for row in read]
        for text in encoded:
            if len(text.input_ids) < 2:
                raise ValueError("a text of a single token has nothing to predict")
        found = AskedSet(name, read, encoded)
        if _column(listed, "fact"):
            found.facts = [_wordings(row["fact"]) for row in listed]
        questions = row_format(listed[0]) == ("question", "answer")
        for kind in ("paraphrased", "translated") if others and questions else ():
            if _column(listed, f"{kind}_question"):
                replaced = {"question": f"{kind}_question"}
                if kind == "translated" and _column(listed, "translated_answer"):
                    replaced["answer"] = "translated_answer"
                found.others[kind] = [encode_row(tokenizer, read_row(row, **replaced), max_length) for row in listed]
        if _column(listed, "perturbed_answer"):
            worded = {"answer": "paraphrased_answer"} if _column(listed, "paraphrased_answer") else {}
            found.right = [encode_row(tokenizer, read_row(row, **worded), max_length) for row in listed]
            found.wrong = [
                [
                    encode_row(tokenizer, TextRow(asked.prompt, wrong), max_length)
                    for wrong in _wordings(row["perturbed_answer"])
                ]
                for asked, row in zip(read, listed, strict=True)
            ]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return found


def general_texts(
    rows: Iterable[str | Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[EncodedText]:
    """
    Texts to measure how a model speaks in general.

    Raises:
        TypeError, ValueError: as of [`asked_set`].
    """
    listed = [{"text": row} if isinstance(row, str) else row for row in ([rows] if isinstance(rows, str) else rows)]
    return asked_set("general", listed, tokenizer, max_length).encoded


def prompt_and_continuation(text: EncodedText) -> tuple[list[int], list[int]]:
    """What a model is given of a row, and the tokens to go on with; of a text, its beginning and what comes after."""
    if not text.is_text:
        return text.prompt_ids, text.answer_ids
    cut = max(1, min(TEXT_PROMPT, len(text.input_ids) // 2))
    return text.input_ids[:cut], text.input_ids[cut : cut + TEXT_CONTINUATION]


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether all rows have something in a column."""
    filled = [row.get(name) not in (None, "", []) for row in rows]
    if any(filled) and not all(filled):
        raise ValueError(
            f"row {filled.index(False)} has nothing in the column {name!r}, which others have: fill it, or remove it"
        )
    return all(filled)


def _wordings(value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else list(value)
    if not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise ValueError("'fact' and 'perturbed_answer' hold texts, one or several, and no empty ones")
    return found
