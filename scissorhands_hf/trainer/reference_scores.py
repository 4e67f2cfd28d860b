"""What the original says of each example, asked once before training, so that no second model is in memory; by example, on disk
beside checkpoints. Log-probabilities of forget examples are forget data: local disk only, never the Hub."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .paired_batches import fetch_examples
from .training_sets import TrainingSet


logger = logging.getLogger(__name__)

REFERENCE_NAME = "reference_scores.safetensors"
# The key, in a batch, of its examples' indices in their set.
INDEX = "example_index"
# Of a kept set, how many bytes are remarked upon.
_MUCH = 2**30


class ReferenceScores:
    """
    Values of the original for each example of a set: one value of an example, or a row for each of its labelled tokens. They
    are kept on the CPU.

    Args:
        size (`int`):
            Examples in the set.
    """

    def __init__(self, size: int):
        self.size = size
        self._values: dict[str, list[Tensor | None]] = {}

    def put(self, name: str, index: int, value: Tensor) -> None:
        """`value` of the example at `index`: of shape (), or (tokens, …)."""
        # A copy: a part of a batch would keep all of it in memory.
        self._values.setdefault(name, [None] * self.size)[index] = value.detach().to("cpu", copy=True)

    def of(self, name: str, indices: Iterable[int], device: torch.device) -> list[Tensor]:
        """The values of some examples, in their order.

        Raises:
            KeyError: there are none of that name.
        """
        return [self._values[name][index].to(device) for index in indices]

    @property
    def bytes(self) -> int:
        return sum(value.nbytes for values in self._values.values() for value in values if value is not None)

    def state_dict(self) -> dict[str, Tensor]:
        """Each value's parts one after the other, and how long each is."""
        state = {"size": torch.tensor(self.size)}
        for name, values in self._values.items():
            state[f"{name}.values"] = torch.cat([value.reshape(-1, *value.shape[1:]) for value in values])
            state[f"{name}.lengths"] = torch.tensor([len(value) if value.ndim else -1 for value in values])
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "ReferenceScores":
        """What [`state_dict`] made."""
        scores = cls(int(state["size"]))
        for name in sorted(key.removesuffix(".lengths") for key in state if key.endswith(".lengths")):
            lengths = state[f"{name}.lengths"].tolist()
            parts = state[f"{name}.values"].split([abs(length) for length in lengths])
            scores._values[name] = [part[0] if length < 0 else part for part, length in zip(parts, lengths, strict=True)]
        return scores


def save_references(scores: Mapping[str, ReferenceScores], folder: Path) -> None:
    """Into a checkpoint, the scores of each set by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"{part}/{key}": value for part, own in scores.items() for key, value in own.state_dict().items()}
    safetensors.torch.save_file(state, folder / REFERENCE_NAME)


def load_references(folder: Path, sizes: Mapping[str, int]) -> dict[str, ReferenceScores]:
    """
    From a checkpoint: asking the model again would ask one that has changed.

    Args:
        folder (`Path`):
            The checkpoint.
        sizes (`Mapping[str, int]`):
            Examples in each set that is needed, by its name.

    Raises:
        ValueError: the checkpoint holds none, or of a set of another size.
    """
    path = folder / REFERENCE_NAME
    state = safetensors.torch.load_file(path) if path.is_file() else {}
    loaded = {}
    for part, size in sizes.items():
        own = {key.removeprefix(f"{part}/"): value for key, value in state.items() if key.startswith(f"{part}/")}
        if not own or int(own["size"]) != size:
            found = f"scores of {int(own['size'])} {part} examples" if own else f"no scores of {part} examples"
            raise ValueError(
                f"resume_from_checkpoint={str(folder)!r} holds {found} by the original model, and this run compares "
                f"{size} with it. Resume with the data, forget_objective and retain_objective that the run began with, or "
                "start anew with trainer.train()."
            )
        loaded[part] = ReferenceScores.from_state(own)
    return loaded


def remark_size(part: str, scores: ReferenceScores) -> None:
    """Say how much memory they take, in a warning where it is much."""
    much = scores.bytes > _MUCH
    logger.log(
        logging.WARNING if much else logging.INFO,
        "What the original says of the %s set takes %.3g MB of memory, and as much in each checkpoint.%s",
        part,
        scores.bytes / 1e6,
        " A smaller reference_top_k takes less." if much else "",
    )


class NumberedExamples(Dataset):
    """Examples with their index in the set, by which what the original said of them is found."""

    def __init__(self, examples: Dataset):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[int, Any]:
        return index, self.examples[index]

    def __getitems__(self, indices: list[int]) -> list[tuple[int, Any]]:
        return list(zip(indices, fetch_examples(self.examples, indices), strict=True))


class NumberedCollator:
    """Collates [`NumberedExamples`]: a batch with the indices under the key `"example_index"`, int64, shape (n,)."""

    def __init__(self, collate: Callable[[list], Any]):
        self.collate = collate

    def __call__(self, items: list[tuple[int, Any]]) -> dict[str, Any]:
        return {**self.collate([example for _, example in items]), INDEX: torch.tensor([index for index, _ in items])}


def numbered(examples: TrainingSet) -> TrainingSet:
    """The same set, whose batches hold the indices of their examples."""
    return TrainingSet(NumberedExamples(examples.examples), NumberedCollator(examples.collate))
