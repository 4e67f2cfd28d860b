"""One version number, everywhere."""

import re
import tomllib
from pathlib import Path

import yaml

import scissorhands_hf


REPOSITORY = Path(__file__).parents[2]
VERSION = scissorhands_hf.__version__


def test_the_package_is_the_only_place_of_its_version():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"] and "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "scissorhands_hf.__version__"}
    # setuptools reads a literal without importing the package, and so without torch.
    source = (REPOSITORY / "scissorhands_hf" / "__init__.py").read_text(encoding="utf-8")
    assert f'\n__version__ = "{VERSION}"\n' in source


def test_files_that_others_read_name_that_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == VERSION
    requirements = (REPOSITORY / "spaces_demo" / "requirements.txt").read_text(encoding="utf-8")
    assert re.search(r"^scissorhands_hf\[[\w,]+\]==(.+)$", requirements, re.MULTILINE)[1] == VERSION


def test_the_changelog_has_a_part_for_what_comes_and_for_the_version():
    headings = re.findall(r"^## \[(.+?)\]", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased" and VERSION in headings
