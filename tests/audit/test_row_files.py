"""Rows from every kind of file, and those of one value."""

import json
from pathlib import Path

import pytest
from datasets import Dataset

from scissorhands_hf.audit.language.row_files import read_rows


ROWS = [{"question": "a?", "answer": "ä", "part": "forget"}, {"question": "b?", "answer": "b", "part": "retain"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    match suffix:
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
        case ".json":
            path.write_text(json.dumps(ROWS))
        case ".csv":
            Dataset.from_list(ROWS).to_csv(path)
        case ".parquet":
            Dataset.from_list(ROWS).to_parquet(path)
    assert read_rows(str(path)) == ROWS
    assert read_rows(f"{path}?part=retain") == ROWS[1:]


def test_a_text_in_each_line(tmp_path: Path) -> None:
    (tmp_path / "general.txt").write_text("One.\n\nTwo.\n")
    assert read_rows(str(tmp_path / "general.txt")) == [{"text": "One."}, {"text": "Two."}]


def test_a_folder_and_its_split(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    assert read_rows(f"{tmp_path}@test?part=forget") == ROWS[:1]


@pytest.mark.parametrize(
    ("name", "text", "place", "message"),
    [
        ("rows.xml", "<a/>", "", r"'\.xml' files cannot be read"),
        ("rows.json", '{"a": 1}', "", "something else than a list of rows"),
        ("rows.jsonl", '{"a": "1"}', "?b=1", r"'b=1' is not COLUMN=VALUE with one of its columns \(a\)"),
        ("rows.jsonl", '{"a": "1"}', "?a", "is not COLUMN=VALUE"),
        ("rows.jsonl", '{"a": "1"}', "?a=2", "has no rows with a=2"),
        ("rows.jsonl", "", "", "has no rows"),
    ],
)
def test_what_cannot_be_read(name: str, text: str, place: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rows(f"{tmp_path / name}{place}")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.jsonl"):
        read_rows(str(tmp_path / "gone.jsonl"))
