"""The diffusion door: remove a concept from a diffusers pipeline, by the same trainer as everything else."""

from .config import ConceptErasureConfig
from .erase import erase_concept
from .mixin import ConceptErasureMixin, enable_concept_erasure
from .progress import STAGES, ErasureProgress


__all__ = [
    "STAGES",
    "ConceptErasureConfig",
    "ConceptErasureMixin",
    "ErasureProgress",
    "enable_concept_erasure",
    "erase_concept",
]
