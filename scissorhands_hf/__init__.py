"""Make a trained model forget, and prove it: Scissorhands for transformers and diffusers."""

from .audit import UnlearningReport
from .config import ScissorhandsConfig
from .monitoring import UnlearningDivergedError
from .recipes import RECIPES
from .trainer import ScissorhandsTrainer


__version__ = "0.1.0"

__all__ = ["RECIPES", "ScissorhandsConfig", "ScissorhandsTrainer", "UnlearningDivergedError", "UnlearningReport"]
