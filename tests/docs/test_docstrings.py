"""Docstrings are in the style of Hugging Face: Markdown, and `name (`type`, *optional*, defaults to `x`):` under `Args:`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest


PACKAGE = Path(__file__).parents[2] / "scissorhands_hf"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Two backticks, or a role, are reStructuredText; three are a block of Markdown.
FOREIGN = re.compile(
    r"(?<!`)``(?!`)|:(?:class|func|meth|mod|data|attr|exc|math|py:\w+):`|^\s*:(?:param|returns?|raises)\b", re.MULTILINE
)
ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*) \((?P<type>.+)\):")
Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented(path: Path) -> Iterator[tuple[Documented, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield node, text


def arguments_of(text: str) -> list[str]:
    """The heads of the entries under `Args:`: the lines that are indented by four."""
    part = re.search(r"^Args:\n((?:(?: {4}.*)?\n?)*)", text, re.MULTILINE)
    return re.findall(r"^ {4}(\S.*)$", part[1], re.MULTILINE) if part else []


def known_names(node: Documented) -> set[str]:
    """Arguments of a function; of a class its fields and those of its `__init__`, and none where it inherits them."""
    if isinstance(node, ast.ClassDef):
        fields = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)}
        inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return fields.union(*(known_names(item) for item in inits))
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return {argument.arg for argument in named if argument}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_are_markdown_in_the_style_of_hugging_face(path: Path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert text, "the file does not say what it is for"
    assert not FOREIGN.search(text)
    for node, text in documented(path):
        assert not FOREIGN.search(text), f"{node.name}: {FOREIGN.search(text)[0]}"
        for head in arguments_of(text):
            entry = ENTRY.fullmatch(head)
            assert entry, f"{node.name}: {head}"
            assert re.search(r"`|\*optional\*", entry["type"]), f"{node.name}: {head}: the type stands in backticks"
            names = {name.lstrip("*") for name in entry["names"].split(", ")}
            takes_more = isinstance(node, ast.FunctionDef) and node.args.kwarg is not None  # and hands them on
            assert takes_more or names <= known_names(node), f"{node.name}: no argument {names - known_names(node)}"


def test_comments_are_markdown_too():
    lines = [(path.name, line) for path in SOURCES for line in path.read_text(encoding="utf-8").splitlines()]
    assert not [(name, line) for name, line in lines if line.lstrip().startswith("#") and FOREIGN.search(line)]


def test_the_check_sees_other_styles():
    bad = ["See :class:`Judge`.", "The ``x`` of it.", ":param x: of it"]
    assert all(FOREIGN.search(text) for text in bad)
    assert not FOREIGN.search("```python\nx\n```\n[`Judge`] and `x`")
    assert arguments_of("One.\n\nArgs:\n    x: of it\n    y (`int`):\n        Of it.\n\nReturns:\n    That.") == [
        "x: of it",
        "y (`int`):",
    ]
    assert not ENTRY.fullmatch("x: of it") and ENTRY.fullmatch("x, y (`int`, *optional*, defaults to 3):")
