"""Measure what a model has forgotten and what it kept."""

import lazy_loader

from ..deprecation import with_moved_names
from ..report.unlearning_report import UnlearningReport


_getattr, _dir, _all = lazy_loader.attach_stub(__name__, __file__)
__getattr__ = with_moved_names(
    __name__, ("ConceptErasureReport", "PromptScore", "average_gap"), "scissorhands_hf.report", _getattr
)
__all__ = [*_all, "UnlearningReport"]


def __dir__() -> list[str]:
    return __all__
