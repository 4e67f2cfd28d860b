"""Make a trained model forget, and prove it: Scissorhands for transformers and diffusers."""

import lazy_loader

from .deprecation import register_moved_modules


__version__ = "0.1.0"

# The names are listed in __init__.pyi, for type checkers and here alike; each is imported when it is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# Of version 0.1: the modules that its examples and documents named.
register_moved_modules(
    {
        f"{__name__}.{old}": [f"{__name__}.{place}" for place in places]
        for old, places in {
            "classification": ["trainer.classification"],
            "config": ["trainer"],
            "monitoring": ["trainer"],
            "pipelines": ["erasure"],
            "recipes": ["trainer.recipes"],
            "scopes": ["trainer.scopes"],
            "audit.concept_audit": ["audit"],
            "audit.concept_report": ["report"],
            "audit.metrics": ["audit", "report"],
            "audit.plot": ["report.plots"],
            "audit.report": ["report"],
        }.items()
    }
)
