"""Rows of text data sets as people have them, read alike and encoded alike, with the answer told from what is asked.

A row is in the first of these formats whose columns it has:

| columns | what is asked | the answer |
|---|---|---|
| `messages` | all messages but the last | the last, of the assistant |
| `prompt`, `completion` | text, or messages | text, or one message of the assistant |
| `question`, `answer` | a message of the user | text |
| `instruction`, `output`, perhaps `input` | a message of the user, the input after a blank line | text |
| `text` | nothing | all of it |

Messages are put into words by the tokenizer's chat template. Where it has none, a question is asked as
"Question: …\\nAnswer: …" (as MUSE asks base models, arXiv:2407.06460), and other messages are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase


Message = Mapping[str, str]
FORMATS = (("messages",), ("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("text",))


@dataclass(frozen=True)
class TextRow:
    """
    What is asked and what is answered.

    Args:
        prompt (`str` or `tuple[Mapping[str, str], ...]`):
            Text that the answer follows, or messages that it replies to. `""`: nothing is asked, the answer is a text.
        answer (`str`):
            Not empty.
    """

    prompt: str | tuple[Message, ...]
    answer: str

    @property
    def question(self) -> str:
        """What is asked, in words alone: the prompt, or its last message."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]


@dataclass(frozen=True)
class EncodedText:
    """
    Token ids of a row, and where its answer lies in them.

    Args:
        input_ids (`list[int]`):
            Of the prompt, the answer and the end of its turn, without padding.
        prompt_length (`int`):
            How many of them come before the answer; a causal model generates from `input_ids[:prompt_length]`.
        answer_length (`int`):
            How many of them are the answer's. What comes after ends its turn.
        is_text (`bool`, *optional*, defaults to `False`):
            Nothing was asked: what comes before the answer is no more than a token that begins texts.
    """

    input_ids: list[int]
    prompt_length: int
    answer_length: int
    is_text: bool = False

    @property
    def prompt_ids(self) -> list[int]:
        return self.input_ids[: self.prompt_length]

    @property
    def answer_ids(self) -> list[int]:
        return self.input_ids[self.prompt_length : self.prompt_length + self.answer_length]


def row_format(columns: Sequence[str] | Mapping[str, Any]) -> tuple[str, ...]:
    """
    The columns that make a row of one of the formats.

    Raises:
        ValueError: there are none such.
    """
    for names in FORMATS:
        if all(name in columns for name in names):
            return names
    known = "; ".join(" and ".join(map(repr, names)) for names in FORMATS)
    raise ValueError(f"a row with the columns {', '.join(map(repr, columns))} is in none of the formats that are read: {known}")


def read_row(row: Mapping[str, Any], **replaced: str) -> TextRow:
    """
    A row of a data set, in any of the formats.

    Args:
        row (`Mapping[str, Any]`):
            Its columns; those of no format are left alone.
        replaced (`str`, *optional*):
            Read one column from another, as `question="paraphrased_question"`.

    Raises:
        ValueError: the row is in no known format, or a column holds what it cannot.
    """
    names = row_format(row)
    if unknown := [name for name in replaced if name not in names]:
        raise ValueError(f"{unknown[0]!r} is no column of a row with {' and '.join(map(repr, names))}")
    values = {name: row[replaced.get(name, name)] for name in names}
    match names:
        case ("messages",):
            messages = _messages(values["messages"], "messages")
            found = TextRow(messages[:-1], _reply(messages[-1:], "messages"))
            if not found.prompt:
                raise ValueError("'messages' holds an answer and nothing that it replies to")
        case ("prompt", "completion") if not isinstance(values["prompt"], str):
            completion = values["completion"]
            answer = completion if isinstance(completion, str) else _reply(_messages(completion, "completion"), "completion")
            found = TextRow(_messages(values["prompt"], "prompt"), answer)
        case ("prompt", "completion"):
            found = TextRow(values["prompt"], _text(values["completion"], "completion"))
        case ("question", "answer"):
            found = TextRow(_asked(_text(values["question"], "question")), _text(values["answer"], "answer"))
        case ("instruction", "output"):
            more = row.get("input") or ""
            asked = _text(values["instruction"], "instruction") + (f"\n\n{more}" if more else "")
            found = TextRow(_asked(asked), _text(values["output"], "output"))
        case _:
            found = TextRow("", _text(values["text"], "text"))
    if not found.answer.strip():
        raise ValueError(f"{names[-1]!r} is empty: there is nothing to score")
    return found


def encode_row(tokenizer: PreTrainedTokenizerBase, row: TextRow, max_length: int | None = None) -> EncodedText:
    """
    Token ids of a row. A prompt is encoded by itself unless the tokens of prompt and answer together begin with it, so that
    what is scored is what could be generated.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Of the model. Its padding is not used.
        row (`TextRow`):
            What is encoded.
        max_length (`int`, *optional*):
            What is longer is cut at its end.

    Returns:
        The end of the turn is what the chat template puts after the answer up to its first special token, or the tokenizer's
        end of sequence. A text has none.

    Raises:
        ValueError: the template does not show the answer as it is, or nothing of the answer is left by `max_length`.
    """
    if row.prompt == "":
        ids = _plain(tokenizer, row.answer)
        given = min(1, len(ids) - 1) if ids and ids[0] == tokenizer.bos_token_id else 0
        ids = ids[:max_length]
        return EncodedText(ids, given, len(ids) - given, is_text=True)
    before, end = row.prompt, ""
    if isinstance(row.prompt, str):
        prompt_ids = _plain(tokenizer, before)
        answer_ids = _answer_ids(tokenizer, before, prompt_ids, row.answer, special=True)
    elif tokenizer.chat_template is None:
        before, answer = f"Question: {_only_question(row.prompt)}\nAnswer:", f" {row.answer}"
        prompt_ids = _plain(tokenizer, before)
        answer_ids = _answer_ids(tokenizer, before, prompt_ids, answer, special=True)
    else:
        before, answer, end = _in_template(tokenizer, row)
        prompt_ids = tokenizer(before, add_special_tokens=False)["input_ids"]
        answer_ids = _answer_ids(tokenizer, before, prompt_ids, answer, special=False)
    ids = [*prompt_ids, *answer_ids, *_end_ids(tokenizer, end)][:max_length]
    if len(ids) <= len(prompt_ids):
        raise ValueError(f"max_length={max_length} leaves nothing of the answer after a prompt of {len(prompt_ids)} tokens")
    return EncodedText(ids, len(prompt_ids), min(len(answer_ids), len(ids) - len(prompt_ids)))


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """With the special tokens that stand before a text, without those after it."""
    ids = list(tokenizer(text)["input_ids"])
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token or "\0"):
        ids.pop()
    return ids


def _answer_ids(
    tokenizer: PreTrainedTokenizerBase, before: str, prompt_ids: list[int], answer: str, special: bool
) -> list[int]:
    if special:
        together = _plain(tokenizer, before + answer)
    else:
        together = tokenizer(before + answer, add_special_tokens=False)["input_ids"]
    if together[: len(prompt_ids)] == prompt_ids and len(together) > len(prompt_ids):
        return together[len(prompt_ids) :]
    return tokenizer(answer, add_special_tokens=False)["input_ids"]


def _in_template(tokenizer: PreTrainedTokenizerBase, row: TextRow) -> tuple[str, str, str]:
    """What stands before the answer, the answer, and what comes after it, by the chat template."""
    messages = [dict(message) for message in row.prompt]
    before = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": row.answer}], tokenize=False)
    for answer in (row.answer, row.answer.strip()):
        # Some templates put more after the prompt, as an empty thought: that is before the answer, too.
        start = whole.find(answer, len(before)) if whole.startswith(before) else whole.rfind(answer)
        if start >= 0:
            return whole[:start], answer, whole[start + len(answer) :]
    raise ValueError("the tokenizer's chat template changes the answer, so its tokens cannot be told from the rest")


def _end_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    for index, token in enumerate(ids):
        if token in special:
            return ids[: index + 1]
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _asked(question: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": question},)


def _only_question(messages: Sequence[Message]) -> str:
    if len(messages) != 1:
        raise ValueError("the tokenizer has no chat_template, so only single questions can be asked, not whole conversations")
    return messages[0]["content"]


def _messages(value: Any, column: str) -> tuple[Message, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"{column!r} holds {type(value).__name__} and not a list of messages")
    if not all(isinstance(part, Mapping) and isinstance(part.get("content"), str) and "role" in part for part in value):
        raise ValueError(f"{column!r} holds something else than messages with a 'role' and a 'content' in words")
    return tuple(value)


def _reply(messages: Sequence[Message], column: str) -> str:
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise ValueError(f"{column!r} has to end in one message of the assistant, which is the answer")
    return messages[0]["content"]


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{column!r} holds {type(value).__name__} and not a text")
    return value
