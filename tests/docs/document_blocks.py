"""A pytest plug-in: the ```python blocks of a Markdown file are tests, run in its order and in one namespace."""

from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser


REPOSITORY = Path(__file__).parents[2]

pytest_collect_file = Sybil([PythonCodeBlockParser()], path=str(REPOSITORY), patterns=["*.md"]).pytest()
