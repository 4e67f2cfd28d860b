"""Markdown of reports and cards: the one escaper, and the one table.

Concept names, notes and data set names of users cannot break the front matter, the Markdown or a name. Whatever a template or a
table prints that nobody marked as [`Safe`] is escaped, not trusted.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any


class Safe(str):
    """Markdown that this package wrote or escaped."""


def one_line(text: str, limit: int = 300) -> str:
    """`text` without control, format and bidirectional characters, its white space single, cut to `limit` characters.

    What makes text run backwards or vanish is dropped; letters, marks and symbols of every script stay.
    """
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp", "Zs"):
            kept.append(" ")
        elif category not in ("Cf", "Cs", "Co", "Cn") or character in "\u200c\u200d":  # joiners that some scripts need
            kept.append(character)
    line = " ".join("".join(kept).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def code(text: str, in_table: bool = False) -> Safe:
    """A name as a code span: nothing in it is Markdown, HTML or a link. `in_table`: for the cell of a table, where GFM
    splits at every pipe that has no backslash, even inside code spans."""
    line = one_line(text)
    if not line:
        return Safe("(empty)")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    if in_table:
        # A backslash of the user's before a pipe would undo ours.
        line = line.replace("\\|", "|").replace("|", "\\|")
    return Safe(f"{fence}{padding}{line}{padding}{fence}")


_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "|": "&#124;"}
_MARKED = set("\\`*_[]~$")


def prose(text: str) -> Safe:
    """A sentence, with every character that Markdown or HTML reads escaped, and nothing in it turned into a link."""
    line = one_line(text, limit=1000)
    if not line:
        return Safe("(empty)")
    escaped = "".join(_ENTITIES.get(c, f"\\{c}" if c in _MARKED else c) for c in line)
    # A colon before a space begins neither an address nor an emoji's name, and stays legible in a terminal.
    escaped = re.sub(r":(?=\S)", "&#58;", escaped)
    # A word joiner, which nobody sees, where readers of Markdown would otherwise find an address and link it.
    escaped = re.sub(r"&#58;(?=//)|(?i:(?<=\bwww)(?=\.))", lambda match: f"{match.group()}&#8288;", escaped)
    # At the start of a line these would begin a list, a heading or a rule.
    return Safe(re.sub(r"^(\d*)([-+=#.)])", r"\1\\\2", escaped))


_ESCAPED = re.compile(
    r"(?P<code>(?P<fence>`+)(?!`).*?(?<!`)(?P=fence)(?!`))"
    r"|\\(?P<mark>[\\`*_\[\]~$\-+=#.)|])|&#8288;|(?P<entity>&(?:amp|lt|gt|#64|#124|#58);)"
)


def without_escapes(markdown: str) -> str:
    """Markdown of this package as it is read in a terminal: what [`prose`] and [`code`] escaped stands as it was written."""

    def written(match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"].replace("\\|", "|")
        return match["mark"] or (html.unescape(match["entity"]) if match["entity"] else "")

    return _ESCAPED.sub(written, markdown)


def finalize(value: Any) -> Any:
    """For Jinja: strings that are not [`Safe`] are escaped as prose."""
    return prose(value) if isinstance(value, str) and not isinstance(value, Safe) else value


def number(value: float) -> Safe:
    """A figure with four significant digits, at most one of them behind the point from 10 upwards."""
    return Safe(f"{value:.1f}" if 10 <= abs(value) < 1e5 else f"{value:.4g}")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> Safe:
    """A table in Markdown; cells that are not [`Safe`] are escaped as prose.

    Args:
        heads (`Sequence[str]`):
            Of the columns.
        rows (`Iterable[Sequence[str]]`):
            Cells, as many a row as there are heads; empty ones stay empty.
        text_columns (`int`, *optional*, defaults to `1`):
            The first columns hold text; those after them hold numbers, which stand to the right.
    """
    lines = [list(heads), *map(list, rows)]
    shown = [[cell if isinstance(cell, Safe) or not cell else prose(cell) for cell in line] for line in lines]
    rule = f"|{'---|' * text_columns}{'---:|' * (len(heads) - text_columns)}"
    head, *body = (f"| {' | '.join(cells)} |" for cells in shown)
    return Safe("\n".join([head, rule, *body]))
