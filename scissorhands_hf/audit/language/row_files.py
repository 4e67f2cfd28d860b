"""Rows of text data sets from files and from the Hub, for commands: where they are is one word.

`SOURCE`, or `SOURCE?COLUMN=VALUE` for the rows of one value. A source is a file (.jsonl, .json, .csv, .parquet, or .txt with a
text in each line), or a data set of the Hub or a folder: `ID`, `ID:CONFIG`, `ID@SPLIT`, `ID:CONFIG@SPLIT`.
"""

import csv
import json
from pathlib import Path
from typing import Any


DEFAULT_SPLIT = "train"


def read_rows(place: str) -> list[dict[str, Any]]:
    """
    All rows of a source, as they are.

    Args:
        place (`str`):
            See above.

    Raises:
        ValueError: a file of another kind, or no row has the value.
        OSError: there is no such file or data set.
    """
    source, asked, where = place.partition("?")
    rows = _file_rows(Path(source)) if Path(source).is_file() else _hub_rows(source)
    if asked:
        column, equals, value = where.partition("=")
        if not equals or not rows or column not in rows[0]:
            columns = ", ".join(rows[0]) if rows else "none"
            raise ValueError(f"{place!r}: {where!r} is not COLUMN=VALUE with one of its columns ({columns})")
        rows = [row for row in rows if str(row[column]) == value]
    if not rows:
        raise ValueError(f"{place!r} has no rows" + (f" with {where}" if asked else ""))
    return rows


def _file_rows(path: Path) -> list[dict[str, Any]]:
    match path.suffix:
        case ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        case ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
        case ".csv":
            with path.open(newline="", encoding="utf-8") as opened:
                rows = list(csv.DictReader(opened))
        case ".txt":
            rows = [{"text": line} for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        case ".parquet":
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(path).to_pylist()
        case other:
            raise ValueError(f"{path.name!r}: {other!r} files cannot be read; use .jsonl, .json, .csv, .parquet or .txt")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path.name!r} holds something else than a list of rows")
    return rows


def _hub_rows(source: str) -> list[dict[str, Any]]:
    if Path(source).suffix in (".jsonl", ".json", ".csv", ".parquet", ".txt"):
        raise FileNotFoundError(f"there is no file {source!r}")
    from datasets import load_dataset

    place, _, split = source.partition("@")
    name, _, config = place.partition(":")
    return list(load_dataset(name, config or None, split=split or DEFAULT_SPLIT))
