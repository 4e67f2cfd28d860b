"""Another answer beside each forget example: given by the user in columns of its own, or a refusal after the example's prompt.

The other answer of an example is the example itself with each column `counterfactual_X` in the place of `X`: of a classifier
`counterfactual_labels` suffices, of a language model it takes `counterfactual_input_ids` and `counterfactual_labels`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import datasets
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from .paired_batches import fetch_examples
from .scissorhands_config import ScissorhandsConfig
from .token_scores import IGNORED


PREFIX = "counterfactual_"
# The key, in a forget batch, of the batch of other answers.
OTHER_ANSWER = "other_answer"
# What belongs to each token of a text, and would not fit another.
_OF_INPUTS = ("attention_mask", "token_type_ids", "position_ids")
_OF_LABELS = ("decoder_input_ids", "decoder_attention_mask", "shift_labels")


def other_answer(example: Mapping[str, Any]) -> dict[str, Any]:
    """An example with its other answer in place of its own."""
    given = {name.removeprefix(PREFIX): value for name, value in example.items() if name.startswith(PREFIX)}
    kept = {name: value for name, value in example.items() if not name.startswith(PREFIX)}
    stale = (*_OF_INPUTS, *_OF_LABELS) if "input_ids" in given else _OF_LABELS
    if "input_ids" in given and "attention_mask" in kept:
        given.setdefault("attention_mask", [1] * len(given["input_ids"]))
    return {name: value for name, value in kept.items() if name not in stale} | given


class OtherAnswerCollator:
    """Collates forget examples, and their other answers beside them under the key `"other_answer"`, both by one collator."""

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = collate

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, Any]:
        own = [{name: value for name, value in row.items() if not name.startswith(PREFIX)} for row in examples]
        return {**self.collate(own), OTHER_ANSWER: self.collate([other_answer(row) for row in examples])}


class RefusingExamples(Dataset):
    """
    Examples of a language model, each with a refusal as its other answer: its prompt, the text, and what its own answer ends
    with (from its first special token on, as end-of-turn and end-of-text).

    Args:
        examples (`Dataset`):
            Map-style, of dicts with `input_ids` and `labels`, the latter -100 on the prompt.
        answers (`Sequence[str]`):
            The refusals, which examples get in turn.
        tokenizer (`PreTrainedTokenizerBase`):
            Of the model.
        prompt_apart (`bool`, *optional*, defaults to `False`):
            The labels are the answer alone, as those of encoder-decoder models.

    Raises:
        ValueError: at construction, of the first example, or when one is read: it has no prompt that could be told from its
            answer.
    """

    def __init__(self, examples: Any, answers: Sequence[str], tokenizer: Any, prompt_apart: bool = False):
        self.examples, self.answers, self.tokenizer, self.prompt_apart = examples, answers, tokenizer, prompt_apart
        self[0]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._with_refusal(self.examples[index], index)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        examples = fetch_examples(self.examples, indices)
        return [self._with_refusal(example, index) for example, index in zip(examples, indices, strict=True)]

    def _with_refusal(self, example: Mapping[str, Any], index: int) -> dict[str, Any]:
        ids = [int(token) for token in example["input_ids"]]
        labels = [int(label) for label in example["labels"]] if "labels" in example else []
        answered = [place for place, label in enumerate(labels) if label != IGNORED]
        if not answered or not (self.prompt_apart or (answered[0] and len(labels) == len(ids))):
            raise ValueError(
                f"refusal_answers={list(self.answers)!r} take the place of answers, and forget example {index} has no labels "
                "of -100 on its prompt that would tell where its answer begins. Mask the prompts, or give the other answers in "
                "columns counterfactual_input_ids and counterfactual_labels with forget_objective='counterfactual'."
            )
        answer = [labels[place] for place in answered]
        special = set(self.tokenizer.all_special_ids)
        ending = next((answer[place:] for place, token in enumerate(answer) if token in special), [])
        # Tokenizers write the space before a word into it, so the refusal begins as the answer did.
        text = self.answers[index % len(self.answers)].strip()
        text = f" {text}" if self.tokenizer.decode(answer).startswith(" ") else text
        refusal = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], *ending]
        if self.prompt_apart:
            return {**example, f"{PREFIX}labels": refusal}
        prompt = ids[: answered[0]]
        return {
            **example,
            f"{PREFIX}input_ids": [*prompt, *refusal],
            f"{PREFIX}labels": [IGNORED] * len(prompt) + refusal,
        }


def with_other_answers(
    examples: Any,
    collate: Callable[[list], Any],
    columns: Sequence[str] | None,
    args: ScissorhandsConfig,
    processing_class: Any,
    model: nn.Module,
) -> tuple[Any, Callable[[list], Any], list[str] | None]:
    """
    Forget examples with their other answers: the set, its collator, and the columns that it needs.

    Args:
        examples, collate (`Dataset`):
            Map-style, and what makes a batch of its examples.
        columns (`Sequence[str]`, *optional*):
            That the model takes; None for all.
        args (`ScissorhandsConfig`):
            Of the run.
        processing_class (`Any`):
            Of the trainer; a tokenizer, or a processor that has one, where answers are to be refused.
        model (`nn.Module`):
            Of the trainer.

    Raises:
        ValueError: there are no other answers, or no tokenizer to make refusals with.
    """
    if args.refusal_answers is not None:
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                f"refusal_answers={args.refusal_answers!r} are to be tokenized, and processing_class is a "
                f"{type(processing_class).__name__}; give the trainer the model's tokenizer as its processing_class"
            )
        config = getattr(model, "config", None)
        examples = RefusingExamples(examples, args.refusal_answers, tokenizer, getattr(config, "is_encoder_decoder", False))
    else:
        check_other_answers(examples, args.forget_objective)
    wanted = None if columns is None else [*columns, *(f"{PREFIX}{name}" for name in columns)]
    return examples, OtherAnswerCollator(collate), wanted


def have_other_texts(examples: Any) -> bool:
    """Whether each of the examples of a language model has another answer beside it, in columns of its own."""
    columns = [f"{PREFIX}input_ids", f"{PREFIX}labels"]
    if not set(columns).issubset(_columns(examples)):
        return False
    rows = examples.with_format(None).select_columns(columns) if isinstance(examples, datasets.Dataset) else examples
    return all(rows[index].get(name) is not None for index in range(len(rows)) for name in columns)


def _columns(examples: Any) -> list[str]:
    names = getattr(examples, "column_names", None)
    return names if names is not None else list(examples[0]) if isinstance(examples[0], Mapping) else []


def name_other_columns(examples: Any) -> list[str]:
    """Columns that look as if they were meant for other answers."""
    return [name for name in _columns(examples) if name.startswith(PREFIX.rstrip("_"))]


def check_other_answers(examples: Any, objective: str | None) -> None:
    """Raise ValueError where forget examples hold no other answers, or one that is their own."""
    names = _columns(examples)
    if any(name.startswith(PREFIX) for name in names):
        columns = ["labels", f"{PREFIX}labels"]
        if isinstance(examples, datasets.Dataset) and set(columns) <= set(names):
            _check_each_answer(examples.with_format(None).select_columns(columns))
        return
    raise ValueError(
        f"forget_objective={objective!r} needs another answer beside each forget example, and forget_dataset has the columns "
        f"{', '.join(map(str, names))}. Give {PREFIX}labels (of a language model {PREFIX}input_ids, too): the same prompt with "
        "the answer to give instead" + (", or refusal_answers." if objective == "dpo" else ".")
    )


def _check_each_answer(rows: datasets.Dataset) -> None:
    for index, row in enumerate(rows):
        if row[f"{PREFIX}labels"] is None:
            raise ValueError(f"forget_dataset[{index}] has no other answer beside it; give one, or leave the example out")
        if row[f"{PREFIX}labels"] == row["labels"]:
            raise ValueError(
                f"forget_dataset[{index}] has its own answer as the other answer, which would teach it rather than have it "
                "forgotten; give another one, or leave the example out"
            )
