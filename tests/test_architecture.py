"""The rooms of the package and which may know which: read from its source, not from what happens to be imported."""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "scissorhands_hf"
SOURCES = sorted(PACKAGE.rglob("*.py"))
ALL_SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
# A room may import from those in lower rows, and from itself; rooms of one row do not know each other.
LAYERS = [("deprecation",), ("core",), ("report",), ("audit", "hub"), ("trainer",), ("erasure",), ("cli",)]
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name of the function around the import or "") of every import, also those in functions and for type checkers."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                package = list(path.relative_to(REPOSITORY).parts[:-1])
                base = package[: len(package) - child.level + 1] if child.level else []
                module = ".".join([*base, *([child.module] if child.module else [])])
                if module == "scissorhands_hf":  # `from .. import x`: x may be a room
                    yield from ((f"{module}.{alias.name}", function) for alias in child.names)
                else:
                    yield module, function
            else:
                yield from visit(child, child.name if isinstance(child, ast.FunctionDef) else function)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), "")


def test_every_room_has_its_layer():
    assert {room_of(path) for path in SOURCES} - {"__init__"} == set(RANK)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_flows_back_up(path: Path):
    if path == PACKAGE / "__init__.py":
        assert {module for module, _ in imports(path)} == {"lazy_loader", "scissorhands_hf.deprecation"}
        return
    own = room_of(path)
    for module, function in imports(path):
        top, _, rest = module.partition(".")
        if top != "scissorhands_hf" or rest == "__version__":
            continue
        other = rest.partition(".")[0]
        assert other == own or RANK.get(other, len(LAYERS)) < RANK[own], f"{own} imports {module} in {function or path.name}"


def test_the_algorithm_knows_torch_alone():
    """And scipy, in the one function that solves the quadratic problem of several memories."""
    for path in (PACKAGE / "core").glob("*.py"):
        for module, function in imports(path):
            top = module.partition(".")[0]
            allowed = top in ("torch", *sys.stdlib_module_names) or module.startswith("scissorhands_hf.core")
            assert allowed or (top == "scipy" and function == "nonnegative_coefficients"), f"{path.name}: {module}"


def test_no_two_files_share_a_name():
    names = Counter(path.name for path in SOURCES if path.name not in ("__init__.py", "__main__.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_files_stay_small_enough_to_read():
    """About 400 lines: what is much longer holds more than one subject."""
    lengths = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 450} == {}


def test_importing_the_package_imports_no_heavy_library():
    heavy = {"torch", "transformers", "diffusers", "numpy", "gradio"}
    code = f"import sys, scissorhands_hf; print({heavy} & set(sys.modules) or None)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert finished.stdout.strip() == "None"


def test_the_page_on_the_architecture_names_every_file():
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w/]+\.py)` \| (.+) \|$", page, re.MULTILINE))
    assert rows.keys() == {str(path.relative_to(PACKAGE)) for path in SOURCES}
    assert all(len(line) > 10 for line in rows.values())
    # What the page's prose points to is there as well.
    assert {name for name in re.findall(r"`([\w/]+\.py)`", page)} == rows.keys()


@pytest.mark.parametrize("way", ["The way of one training step", "The way of one push"])
def test_a_way_through_the_package_has_fewer_than_ten_stops(way: str):
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    part = page.split(f"## {way}\n")[1].split("\n## ")[0]
    stops = [int(number) for number in re.findall(r"^(\d+)\. ", part, re.MULTILINE)]
    assert stops == list(range(1, len(stops) + 1)) and len(stops) < 10
    # Every name of ours that a stop gives exists.
    for name in re.findall(r"`((?:[A-Z]\w+\.)?\w+)`", part):
        owner, _, member = name.rpartition(".")
        assert re.search(rf"\b(def|class) {member}\b|^    {member}\b", ALL_SOURCES, re.MULTILINE), name
        assert not owner or re.search(rf"^class {owner}\b", ALL_SOURCES, re.MULTILINE), name


def test_no_two_test_files_have_one_name() -> None:
    """Pytest imports them by their names alone, and a clash is seen only where both are collected."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
