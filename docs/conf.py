"""Sphinx settings. `make docs` builds these pages into out/docs, without network; a warning is an error."""

import os
import sys
from pathlib import Path


HERE = Path(__file__).parent
os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries whose docstrings are read
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

import scissorhands_hf  # noqa: E402


project = "scissorhands_hf"
version = release = scissorhands_hf.__version__
copyright = "the scissorhands_hf developers"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser", "hf_docstrings", "generated_tables"]
exclude_patterns = ["extensions"]
nitpicky = True

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]

# Types stand in the docstrings, with their shapes and ranges.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {
    "members": True,
    "imported-members": True,
    "show-inheritance": True,
    # Of mixins, not of the libraries' classes.
    "inherited-members": "Trainer,TrainingArguments,BaseException,tuple,object",
}
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"scissorhands_hf {version}"
html_copy_source = False
