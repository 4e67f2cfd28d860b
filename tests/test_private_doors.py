"""Every private name of another library that the package uses is in the table of docs/private_doors.md, and exists."""

import re
from pathlib import Path

import pytest
from private_names import PACKAGE, REPOSITORY, exists, uses


ROW = re.compile(
    r"^\| `(?P<owner>[\w.]+)\.(?P<name>_\w+)` \| (?P<where>[^|]+) \| (?P<why>[^|]+) \| (?P<version>[\w.]+ [\d.]+) \|$"
)


def rows() -> list[re.Match]:
    lines = (REPOSITORY / "docs" / "private_doors.md").read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("| `")]
    found = [ROW.match(line) for line in table]
    assert found and all(found), [line for line, row in zip(table, found, strict=True) if not row]
    return found


def test_the_table_names_what_the_source_uses_and_where():
    listed: dict[str, set[str]] = {}
    for row in rows():
        listed.setdefault(row["name"], set()).update(re.findall(r"`([^`]+)`", row["where"]))
    assert listed == uses(PACKAGE)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['owner']}.{row['name']}")
def test_each_door_is_still_there(row: re.Match):
    assert exists(row["owner"], row["name"])
    library, version = row["version"].split()
    if library == "python":  # of any version from 3.11 on
        return
    assert row["owner"].startswith(f"{library}.")
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    # With another version in use, look at the door anew, and then write the new one into the table.
    assert re.search(rf"^{library}=={re.escape(version)}$", constraints, re.MULTILINE)


@pytest.mark.parametrize(
    "line",
    [
        "from transformers.trainer import _is_peft_model",
        "from torch._utils import _flatten_dense_tensors as flatten",
        "import diffusers._version",
        "import torch\nx = torch._C",
        "from transformers import Trainer\nx = Trainer._save",
        "def f(pipe):\n    return pipe._progress_bar_config",
        "def f(pipe):\n    return getattr(pipe, '_progress_bar_config', None)",
        "def f(pipe):\n    vars(pipe).pop('_progress_bar_config', None)",
        "from transformers import Trainer\nclass Mine(Trainer):\n    def _save(self): ...",
        "class Mine:\n    def f(self):\n        return self._save()",
    ],
)
def test_the_search_finds(line: str, tmp_path: Path):
    (tmp_path / "module.py").write_text(line)
    assert uses(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "from .rooms import _own",
        "class Mine:\n    def _own(self): ...\n    def f(self):\n        return self._own()",
        "class Mine:\n    def f(self):\n        self._own = 1\n        return other._own",
        "class Tuple(tuple):\n    def f(self):\n        return self.__class__.__name__",
    ],
)
def test_the_search_leaves_the_package_its_own(line: str, tmp_path: Path):
    (tmp_path / "module.py").write_text(line)
    assert uses(tmp_path) == {}
