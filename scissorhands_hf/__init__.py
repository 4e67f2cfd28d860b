"""Make a trained model forget, and prove it: Scissorhands for transformers and diffusers."""

from .audit import ConceptErasureReport, UnlearningReport
from .config import ScissorhandsConfig
from .monitoring import UnlearningDivergedError
from .pipelines import ConceptErasureConfig, ConceptErasureMixin, ErasureProgress, enable_concept_erasure, erase_concept
from .recipes import RECIPES
from .trainer import ScissorhandsTrainer


__version__ = "0.1.0"

__all__ = [
    "RECIPES",
    "ConceptErasureConfig",
    "ConceptErasureMixin",
    "ConceptErasureReport",
    "ErasureProgress",
    "ScissorhandsConfig",
    "ScissorhandsTrainer",
    "UnlearningDivergedError",
    "UnlearningReport",
    "enable_concept_erasure",
    "erase_concept",
]
