"""The retain and the forget set as a trainer reads them: without unused columns, each with its collator."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
from torch import nn
from transformers.trainer_utils import RemoveColumnsCollator

from .paired_batches import fetch_examples


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSet:
    """
    A set and what makes a batch of its examples.

    Args:
        examples (`Any`):
            Map-style.
        collate (`Callable[[list], Any]`):
            From a list of examples to a batch.
        columns (`Sequence[str]`, *optional*):
            What is left of an example; None for all of it.
        dropped (`Sequence[str]`, *optional*, defaults to `()`):
            Columns that are not there any more.
    """

    examples: Any
    collate: Callable[[list], Any]
    columns: Sequence[str] | None = None
    dropped: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """
        The batch of the examples at `indices`, on the CPU.

        Raises:
            ValueError: a transform or a collator asks for a column that was left out as unused.
        """
        try:
            return self.collate(fetch_examples(self.examples, indices))
        except KeyError as error:
            name = error.args[0] if error.args else None
            if name in self.unused():
                raise ValueError(
                    f"the column {name!r} is asked for by the set's transform or by the data_collator, and was left out "
                    "because the model's forward pass does not take it. Set remove_unused_columns=False."
                ) from error
            raise

    def unused(self) -> set[str]:
        """Names of the columns that are left out."""
        if self.columns is None or isinstance(self.examples, datasets.Dataset):
            return set(self.dropped)
        first = self.examples[0]
        return set(first) - set(self.columns) if isinstance(first, Mapping) else set()


def model_columns(model: nn.Module, label_names: Sequence[str]) -> list[str]:
    """Names of the columns that `model` takes: the arguments of its forward pass, and whatever labels are called."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # PEFT's wrappers take anything
    return list(dict.fromkeys([*inspect.signature(inner.forward).parameters, "label", "label_ids", *label_names]))


def training_set(
    dataset: Any, collate: Callable[[list], Any], columns: Sequence[str] | None, model_name: str, description: str
) -> TrainingSet:
    """
    A set without the columns that the model does not take, as [`~transformers.Trainer`] strips a training set. Trainer itself
    would be given pairs, of which it would drop the keys "retain" and "forget"; so each set is stripped by itself.

    Args:
        dataset (`Any`):
            Map-style; of a `datasets.Dataset` unused columns are not read at all.
        collate (`Callable[[list], Any]`):
            The trainer's collator.
        columns (`Sequence[str]`, *optional*):
            To keep; None (`remove_unused_columns=False`) for all.
        model_name, description (`str`):
            Of the model's class and of the set, for messages.

    Raises:
        ValueError: a `datasets.Dataset` has none of the columns.
    """
    if columns is None:
        return TrainingSet(dataset, collate)
    if not isinstance(dataset, datasets.Dataset):
        return TrainingSet(dataset, RemoveColumnsCollator(collate, columns, logger, model_name, description), columns)
    unused = [name for name in dataset.column_names if name not in columns]
    if len(unused) == len(dataset.column_names):
        raise ValueError(
            f"the {description} set has none of the columns that {model_name}.forward takes ({', '.join(columns)}), only "
            f"{', '.join(unused)}. Rename its columns, or set remove_unused_columns=False and give a data_collator."
        )
    if unused:
        logger.info("Columns of the %s set that %s.forward does not take are left out: %s", description, model_name, unused)
    return TrainingSet(dataset.remove_columns(unused), collate, columns, unused)
