"""What version 0.1 let people import still can be, and says where it is now."""

import importlib
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from packaging.version import Version

import scissorhands_hf
from scissorhands_hf.deprecation import REMOVED_IN, MovedModule


REPOSITORY = Path(__file__).parents[1]
# (old module, name) of the imports in the examples, benchmarks and documents of 0.1; and where the name is now.
MOVED = [
    ("config", "ScissorhandsConfig", "trainer"),
    ("recipes", "RECIPES", "trainer.recipes"),
    ("monitoring", "UnlearningDivergedError", "trainer"),
    ("classification", "split_forget_retain", "trainer.classification"),
    ("scopes", "default_reinit_scope", "trainer.scopes"),
    ("pipelines", "erase_concept", "erasure"),
    ("pipelines", "ConceptErasureMixin", "erasure"),
    ("audit.metrics", "METRICS", "report"),
    ("audit.metrics", "unlearning_metrics", "audit"),
    ("audit.plot", "draw_metrics", "report.plots"),
    ("audit.report", "UnlearningReport", "report"),
    ("audit.concept_report", "PromptScore", "report"),
    ("audit.concept_audit", "draw_pictures", "audit"),
    ("audit", "average_gap", "report"),
    ("audit", "ConceptErasureReport", "report"),
]


@pytest.mark.parametrize(("old", "name", "new"), MOVED)
def test_an_old_import_works_and_names_the_new_one(old: str, name: str, new: str):
    with pytest.warns(
        FutureWarning, match=rf"scissorhands_hf\.{old}\.{name} .* {REMOVED_IN}: use scissorhands_hf\.{new}\.{name}"
    ):
        value = getattr(importlib.import_module(f"scissorhands_hf.{old}"), name)
    assert value is getattr(importlib.import_module(f"scissorhands_hf.{new}"), name)


def test_the_line_that_imports_is_blamed():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(compile("from scissorhands_hf.pipelines import erase_concept", "their_script.py", "exec"), {})
        exec(compile("import scissorhands_hf.audit\nscissorhands_hf.audit.average_gap", "their_script.py", "exec"), {})
    assert [(Path(warning.filename).name, warning.lineno) for warning in caught] == [
        ("their_script.py", 1),
        ("their_script.py", 2),
    ]


def test_what_never_was_there_is_no_attribute():
    import scissorhands_hf.pipelines

    assert isinstance(scissorhands_hf.pipelines, MovedModule)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AttributeError, match="scissorhands_hf.pipelines.*nonsense"):
            scissorhands_hf.pipelines.nonsense  # noqa: B018
        with pytest.raises(AttributeError, match="nonsense"):
            scissorhands_hf.audit.nonsense  # noqa: B018
        # What debuggers and test runners ask of every module neither warns nor fails.
        assert not hasattr(scissorhands_hf.pipelines, "__file__") and importlib.util.find_spec("scissorhands_hf.pipelines")


def test_a_configuration_that_was_pickled_before_the_move_is_found():
    old = b"cscissorhands_hf.config\nScissorhandsConfig\n."
    with pytest.warns(FutureWarning):
        assert pickle.loads(old) is scissorhands_hf.ScissorhandsConfig


def test_the_new_places_do_not_warn_and_the_old_ones_cost_nothing():
    code = "import sys, scissorhands_hf.config, scissorhands_hf.audit.metrics; assert not {'torch', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=REPOSITORY, check=True)


def test_the_old_places_are_taken_out_in_time():
    assert Version(scissorhands_hf.__version__) < Version(REMOVED_IN), "take out what scissorhands_hf.deprecation keeps alive"
