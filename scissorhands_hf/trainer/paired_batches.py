"""Paired batches: what one step of repair sees of the retain and of the forget set."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import BatchSampler, Dataset


RETAIN = "retain"
FORGET = "forget"


def is_pair(inputs: Any) -> bool:
    """Whether `inputs` is a paired training batch, or a half of one by its name, as opposed to a flat (evaluation) batch."""
    return isinstance(inputs, dict) and bool(inputs) and inputs.keys() <= {RETAIN, FORGET}


class PairedDataset(Dataset):
    """Retain and forget examples under one index: retain first, then forget. Items come with the name of their set."""

    def __init__(self, retain: Dataset, forget: Dataset):
        self.retain, self.forget = retain, forget

    def __len__(self) -> int:
        return len(self.retain) + len(self.forget)

    def __getitem__(self, index: int) -> tuple[str, Any]:
        if index < len(self.retain):
            return RETAIN, self.retain[index]
        return FORGET, self.forget[index - len(self.retain)]

    def __getitems__(self, indices: list[int]) -> list[tuple[str, Any]]:
        """A whole batch at once, which is how `datasets` reads fast."""
        first_forget = len(self.retain)
        retain = fetch_examples(self.retain, [i for i in indices if i < first_forget])
        forget = fetch_examples(self.forget, [i - first_forget for i in indices if i >= first_forget])
        return [(RETAIN, example) for example in retain] + [(FORGET, example) for example in forget]


class PairedCollator:
    """Collates the retain and the forget examples of a batch separately: `{"retain": batch, "forget": batch}`."""

    def __init__(self, collate_retain: Callable[[list], Any], collate_forget: Callable[[list], Any]):
        self.collators = {RETAIN: collate_retain, FORGET: collate_forget}

    def __call__(self, items: list[tuple[str, Any]]) -> dict[str, Any]:
        groups: dict[str, list] = {}
        for kind, example in items:
            groups.setdefault(kind, []).append(example)
        return {kind: self.collators[kind](examples) for kind, examples in groups.items()}


class PairedBatchSampler(BatchSampler):
    """Index batches for [`PairedDataset`], a function of the seed and the epoch alone, so a resumed run meets the same.

    Each epoch visits every retain example once, in a new order. Forget batches come by `schedule`:

    - `"cycle"`: one in every step; the forget set starts over, in a new order, when it is used up.
    - `"once"`: each forget example once per epoch, as in the reference. When there are fewer forget than retain batches
      they are spread evenly over the epoch; when there are more, the epoch lasts until all have been seen and the retain
      set starts over.

    Batches are those of one device; over `num_processes` devices each takes every n-th batch, and all batches of one step
    have, or have not, a forget part alike.

    Args:
        retain_size, forget_size (`int`):
            Examples in each set, >= 1.
        retain_batch, forget_batch (`int`):
            Examples per batch, >= 1.
        schedule (`str`, *optional*, defaults to `"cycle"`):
            `"cycle"` or `"once"`.
        seed (`int`, *optional*, defaults to `0`):
            Of the orders.
        num_processes (`int`, *optional*, defaults to `1`):
            Devices that share the batches; the number of batches is a multiple of it.
        drop_last (`bool`, *optional*, defaults to `False`):
            Leave out a last retain batch that is not full.
    """

    def __init__(
        self,
        retain_size: int,
        forget_size: int,
        retain_batch: int,
        forget_batch: int,
        schedule: str = "cycle",
        seed: int = 0,
        num_processes: int = 1,
        drop_last: bool = False,
    ):
        self.retain_size, self.forget_size = retain_size, forget_size
        self.retain_batch, self.forget_batch = retain_batch, min(forget_batch, forget_size)
        self.schedule, self.seed, self.num_processes, self.epoch = schedule, seed, num_processes, 0
        # The name and the attribute that accelerate looks for; batches vary in size, so `batch_size` says None.
        self.drop_last = drop_last
        self.batch_size = None
        if drop_last and retain_size < retain_batch * num_processes:
            raise ValueError(
                f"dataloader_drop_last=True leaves no batch: {retain_size} retain examples do not fill "
                f"{num_processes} x {retain_batch}"
            )

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _steps(self, size: int, batch: int, drop_last: bool) -> int:
        """Steps in which all devices together go through `size` examples once."""
        per_step = batch * self.num_processes
        return size // per_step if drop_last else -(-size // per_step)

    @property
    def steps(self) -> int:
        """Steps of an epoch, each of `num_processes` batches."""
        retain_steps = self._steps(self.retain_size, self.retain_batch, self.drop_last)
        if self.schedule == "cycle":
            return retain_steps
        return max(retain_steps, self._steps(self.forget_size, self.forget_batch, False))

    def __len__(self) -> int:
        return self.steps * self.num_processes

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        retain = _Deck(self.retain_size, generator)
        forget = _Deck(self.forget_size, generator)
        forget_steps = self._steps(self.forget_size, self.forget_batch, False)
        for step in range(self.steps):
            if self.schedule == "cycle":
                has_forget, forget_left = True, None
            else:  # the forget batches, spread evenly: step t has one where the running share passes a whole number
                has_forget = (step + 1) * forget_steps // self.steps > step * forget_steps // self.steps
                forget_left = forget.left
            retain_left = None if self.steps > self._steps(self.retain_size, self.retain_batch, False) else retain.left
            retain_parts = _split(retain, self.retain_batch, self.num_processes, retain_left)
            forget_parts = _split(forget, self.forget_batch, self.num_processes, forget_left) if has_forget else None
            for process in range(self.num_processes):
                batch = retain_parts[process]
                if forget_parts is not None:
                    batch = batch + [self.retain_size + index for index in forget_parts[process]]
                yield batch


class _Deck:
    """Indices in random order, shuffled anew each time all have been dealt."""

    def __init__(self, size: int, generator: torch.Generator):
        self.size, self.generator = size, generator
        self.shuffle()

    def shuffle(self) -> None:
        self.order = torch.randperm(self.size, generator=self.generator).tolist()
        self.position = 0

    @property
    def left(self) -> int:
        return self.size - self.position

    def deal(self, count: int) -> list[int]:
        if self.position == self.size:
            self.shuffle()
        dealt = self.order[self.position : self.position + count]
        self.position += len(dealt)
        return dealt if len(dealt) == count else dealt + self.deal(count - len(dealt))


def _split(deck: _Deck, batch: int, processes: int, left: int | None) -> list[list[int]]:
    """One batch per process. With `left` given no more than that is dealt, shared as evenly as can be, none empty."""
    total = batch * processes if left is None else min(left, batch * processes)
    indices = deck.deal(max(total, processes))
    return [indices[process::processes] for process in range(processes)]


def fetch_examples(dataset: Dataset, indices: Sequence[int]) -> list[Any]:
    """The examples at `indices`, in one read where the dataset can."""
    if not indices:
        return []
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(list(indices))
    return [dataset[index] for index in indices]


def random_batches(size: int, batch: int, count: int, seed: int) -> list[list[int]]:
    """`count` batches of `batch` indices below `size` in a seeded random order that starts over when used up."""
    deck = _Deck(size, torch.Generator().manual_seed(seed))
    return [deck.deal(min(batch, size)) for _ in range(count)]
