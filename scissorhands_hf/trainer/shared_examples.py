"""Forget examples that the retain set holds, too, by their content: repair would teach them again."""

import contextlib
import hashlib
import logging
import random
from collections.abc import Iterator, Mapping
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Subset


logger = logging.getLogger(__name__)

# Rows of each set that are read at most: stored ones are read fast, others are made by the user's code.
_STORED, _MADE = 20_000, 500


def warn_of_shared_examples(retain: Any, forget: Any, ignored: tuple[str, ...]) -> None:
    """
    Say in a warning how many of the forget examples are in the retain set, and how many of each were compared.

    Args:
        retain, forget (`Dataset`):
            Map-style. Of two `datasets.Dataset` the stored columns that both have are compared, without decoding; of two
            parts of one set (`torch.utils.data.Subset`) the indices; of others the items.
        ignored (`tuple[str, ...]`):
            Columns that say nothing of the content, such as ids.
    """
    if isinstance(retain, Subset) and isinstance(forget, Subset) and retain.dataset is forget.dataset:
        sets = [set(map(int, part.indices)) for part in (retain, forget)]
        sizes = [len(part) for part in (retain, forget)]
    else:
        stored = isinstance(retain, datasets.Dataset) and isinstance(forget, datasets.Dataset)
        columns = (
            [name for name in forget.column_names if name in retain.column_names and name not in ignored] if stored else []
        )
        if stored and not columns:
            return
        sizes = [min(len(part), _STORED if stored else _MADE) for part in (retain, forget)]
        with _random_state_kept():
            sets = [
                {_digest(row) for row in (_rows(part, columns, size) if stored else map(part.__getitem__, range(size)))}
                for part, size in zip((retain, forget), sizes, strict=True)
            ]
    shared = len(sets[0] & sets[1])
    if shared:
        logger.warning(
            "%d forget examples are also in the retain set, by their content (the first %d of %d retain and %d of %d forget "
            "examples were compared): repair will teach them again. Take them out of train_dataset.",
            shared,
            sizes[0],
            len(retain),
            sizes[1],
            len(forget),
        )


def _rows(dataset: datasets.Dataset, columns: list[str], size: int) -> Iterator[list[Any]]:
    """Rows as they are stored, before any transform or decoding; numbers in nested lists as one array, with lengths."""
    stored = dataset.select_columns(columns).select(range(size)).with_format("arrow")
    for start in range(0, size, 1000):
        table = stored[start : min(start + 1000, size)]
        parts = [table.column(name).combine_chunks() for name in columns]
        for index in range(table.num_rows):
            yield [_flat(part.slice(index, 1)) for part in parts]


def _flat(value: Any) -> Any:
    """Of an Arrow array with one entry."""
    lengths = []
    while hasattr(value, "storage"):  # an extension type, as Array2D
        value = value.storage
    while type(value).__name__ in ("ListArray", "LargeListArray", "FixedSizeListArray"):
        value = value.flatten()
        lengths.append(len(value))
    try:
        return lengths, value.to_numpy(zero_copy_only=True)
    except (ValueError, NotImplementedError):  # texts, bytes, structs, or missing values
        return lengths, value.to_pylist()


def _digest(example: Any) -> bytes:
    """Of the content alone: equal for equal examples, in this process."""
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, example)
    return digest.digest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    elif hasattr(value, "__array__") and not isinstance(value, np.generic):  # pictures
        value = np.asarray(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(repr(key).encode())
            _feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        digest.update(f"[{len(value)}".encode())
        for item in value:
            _feed(digest, item)
    else:
        digest.update(repr(value).encode())


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Items may be made at random; a run must not depend on that they were looked at."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
