"""Docstrings in the Hugging Face style are Markdown; Sphinx reads reStructuredText. This translates the few forms in use.

`code`, [`Name`] and [`~library.Name`] (a link where the name is documented on these pages), [text](address), and fenced blocks.
Sections and types are read by sphinx.ext.napoleon afterwards.
"""

import ast
import importlib
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


FENCE = re.compile(r"^(\s*)```(\w*)\s*$")
MARKS = re.compile(
    r"\[`(?P<link>[^`\]]+)`\](?!\()|\[(?P<text>[^\]\n]+)\]\((?P<address>https?://[^)\s]+)\)|`(?P<code>[^`]+)`|(?P<bar>\|)"
)
OWN = "scissorhands_hf"
PACKAGE = Path(__file__).parents[2] / OWN


def translate(lines: list[str]) -> list[str]:
    """The lines of a docstring, from Hugging Face's Markdown to reStructuredText."""
    done: list[str] = []
    prose: list[str] = []  # marks may go over the ends of lines
    fenced = False

    def flush() -> None:
        done.extend(MARKS.sub(_mark, "\n".join(prose)).split("\n") if prose else ())
        prose.clear()

    for line in lines:
        if mark := FENCE.match(line):
            flush()
            fenced = not fenced
            done += [f"{mark[1]}.. code-block:: {mark[2] or 'text'}", ""] if fenced else [""]
        elif fenced:
            done.append(f"   {line}" if line.strip() else "")
        else:
            prose.append(line)
    flush()
    if fenced:
        raise ValueError(f"a fenced block is not closed: {' '.join(lines)[:200]}")
    return done


def _mark(found: re.Match) -> str:
    if found["link"]:
        target = found["link"]
        name = target.lstrip("~")
        library = name.split(".")[0]
        shown = name.rsplit(".", 1)[-1] if target.startswith("~") else name
        if "." in name and library != OWN and library[0].islower():
            return f"``{shown}``"  # of another library: there is no network to find its address
        if "." not in name and name in names_of(PACKAGE) and name not in public_names():
            return f"``{shown}``"  # one without an entry of its own, such as another method of the class
        return f":py:obj:`{shown} <{name if library == OWN else '.' + name}>`"
    if found["text"]:
        return f"`{found['text']} <{found['address']}>`__"
    if found["bar"]:
        return r"\|"
    return f"``{found['code']}``"


# Napoleon takes what stands before a colon in the text of one of these for its type; it is not shown them.
PROPERTIES = ("property", "attribute", "data")
PROPERTIES_TEXTS: list[list[str]] = []


@cache
def names_of(package: Path) -> set[str]:
    """What a docstring of the package may name: its modules, and what stands at the top of modules and classes."""
    names = {OWN}
    for path in package.rglob("*.py"):
        names |= {path.stem, path.parent.name}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for node in [*tree.body, *(member for kind in classes for member in kind.body)]:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            names |= {name for item in targets if (name := getattr(item, "name", getattr(item, "id", None)))}
    return names


@cache
def public_names() -> frozenset[str]:
    """What the rooms of the package show, and so these pages."""
    rooms = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    return frozenset(name for room in rooms for name in getattr(importlib.import_module(f"{OWN}.{room}"), "__all__", ()))


def resolve_undocumented(app: Sphinx, env: Any, node: Any, shown: Any) -> Any:
    """Names without a page stay code: those of other libraries, and of our own those that exist. Others are a warning."""
    library = node["reftarget"].split(".")[0]
    known = library != OWN and library in sys.modules
    if known or set(node["reftarget"].strip(".").split(".")) <= names_of(PACKAGE):
        return shown
    return None


def translate_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = translate(lines)
    if what in PROPERTIES:
        PROPERTIES_TEXTS.append(lines.copy())
        lines.clear()


def put_back(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what in PROPERTIES:
        lines[:] = PROPERTIES_TEXTS.pop()


def shorten_signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, result: Any) -> Any:
    """Configurations have the fields of TrainingArguments as well, more than a hundred: those are documented over there."""
    if what == "class" and signature and signature.count(",") > 40:
        first = next(iter(inspect.signature(obj).parameters))
        return f"({first}, ...)", result
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", translate_docstring, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", put_back, priority=600)  # after it
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("missing-reference", resolve_undocumented)
    return {"parallel_read_safe": False}
