"""The documentation builds without a warning, needs no other machine, and has a page for every public name."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from sphinx.util.inventory import InventoryFile


REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
ROOMS = ("trainer", "erasure", "report", "audit", "hub", "core")
# What a browser fetches of itself; links for people may lead anywhere.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*"
    r"|<link\b[^>]*\brel=[\"'](?:stylesheet|preload|icon|preconnect)[^>]*href=[\"']?(?:https?:)?//[^>]*"
    r"|@import[^;]*//[^;]*|url\([\"']?(?:https?:)?//[^)]*"
)


@pytest.mark.slow
def test_pages_build_strictly_and_need_no_other_machine(tmp_path: Path):
    built = tmp_path / "docs"
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # so that what the build would fetch fails
    result = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", str(built)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, **nowhere, "PYTHONPATH": str(REPOSITORY)},
    )
    assert result.returncode == 0, result.stderr
    fetched = {
        f"{path.relative_to(built)}: {found}"
        for path in built.rglob("*")
        if path.suffix in (".html", ".css")
        for found in FETCHED.findall(path.read_text(encoding="utf-8"))
    }
    assert not fetched
    inventory = InventoryFile.loads((built / "objects.inv").read_bytes(), uri="")
    documented = {name for kind in inventory.data.values() for name in kind}
    for room in ROOMS:
        module = importlib.import_module(f"scissorhands_hf.{room}")
        for name in module.__all__:
            places = {f"scissorhands_hf.{room}.{name}", f"scissorhands_hf.report.{name}"}
            value = getattr(module, name)
            assert places & documented or not (callable(value) or isinstance(value, type)), f"{name} of {room} is on no page"
    text = "\n".join(path.read_text(encoding="utf-8") for path in (built / "api").glob("*.html"))
    for mark in ("[`", "`]", ":class:", ":func:", ":meth:"):
        assert mark not in text, f"{mark} of a docstring was not rendered"


PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *DOCS.glob("*.md")]


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and MyST make them."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    titles = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src") or ""
            if not target or re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            aim = (page.parent / path) if path else page
            assert aim.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(aim), f"{page.name}: {target}; there are {sorted(anchors(aim))}"
