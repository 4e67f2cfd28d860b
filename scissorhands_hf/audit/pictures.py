"""Pictures of users: a list, a folder or a dataset, read with their captions; those that cannot be read are counted."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError


logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_CAPTION_COLUMNS = ("text", "caption", "prompt")
# Of the pictures given: more than that unreadable means that something else is wrong.
MOST_UNREADABLE = 0.25


def read_pictures(argument: str, source: Any) -> tuple[list[Image.Image], list[str | None]]:
    """
    RGB pictures and the caption of each (None where there is none).

    Args:
        argument (`str`):
            Its name, for errors.
        source (`Any`):
            A list of PIL images or paths, a folder of pictures (captions: a text file of the same name beside one), or a
            `datasets.Dataset` with an image column and perhaps a column "text", "caption" or "prompt".

    Raises:
        TypeError: another kind of source.
        ValueError: no picture, or more than a quarter of them unreadable. Fewer are left out, with a warning that counts them.
    """
    pictures, captions, failures, total = [], [], [], 0
    for load, caption in _entries(argument, source):
        total += 1
        try:
            picture = load()
            picture.load()
            picture = picture.convert("RGB")
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            failures.append(type(error).__name__)
            continue
        pictures.append(picture)
        captions.append(caption)
    if total == 0:
        raise ValueError(f"{argument} holds no picture; give PIL images, a folder of them, or a dataset with an image column")
    if failures:
        if not pictures or len(failures) > MOST_UNREADABLE * total:
            raise ValueError(
                f"{argument}: {len(failures)} of {total} pictures cannot be read ({', '.join(sorted(set(failures)))}); "
                "repair or remove them"
            )
        logger.warning("%s: left out %d of %d pictures, which cannot be read", argument, len(failures), total)
    return pictures, captions


def read_captions(argument: str, source: Any) -> list[str | None]:
    """The caption of each picture, as [`read_pictures`] has it (None where there is none); no picture is opened.

    Raises:
        TypeError, ValueError: another kind of source.
    """
    return [caption for _, caption in _entries(argument, source)]


def _entries(argument: str, source: Any) -> list[tuple[Any, str | None]]:
    """For each picture a function that loads it, and its caption."""
    if isinstance(source, str | Path):
        folder = Path(source)
        if not folder.is_dir():
            raise ValueError(f"{argument}={str(source)!r} is no folder; give a folder of pictures")
        files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        return [(lambda file=file: Image.open(file), _caption_beside(file)) for file in files]
    if hasattr(source, "column_names") and hasattr(source, "features"):
        return _dataset_entries(argument, source)
    if isinstance(source, Sequence):
        for item in source:
            if not isinstance(item, Image.Image | str | Path):
                raise TypeError(f"{argument} holds a {type(item).__name__}; give PIL images or paths of pictures")
        return [(lambda item=item: item if isinstance(item, Image.Image) else Image.open(item), None) for item in source]
    raise TypeError(
        f"{argument} is a {type(source).__name__}; give a list of PIL images, a folder of pictures, or a datasets.Dataset"
    )


def _caption_beside(file: Path) -> str | None:
    text = file.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.is_file() else None


def _dataset_entries(argument: str, dataset: Any) -> list[tuple[Any, str | None]]:
    import datasets

    columns = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if not columns:
        raise ValueError(f"{argument} has no image column, only {dataset.column_names}; cast one with datasets.Image()")
    caption = next((name for name in _CAPTION_COLUMNS if name in dataset.column_names), None)
    captions = dataset[caption] if caption is not None else [None] * len(dataset)
    # Decoded one by one, so that a damaged picture costs itself alone.
    raw = dataset.select_columns(columns[0]).cast_column(columns[0], datasets.Image(decode=False))
    decoder = datasets.Image()
    return [
        (lambda index=index: decoder.decode_example(raw[index][columns[0]]), captions[index]) for index in range(len(dataset))
    ]
