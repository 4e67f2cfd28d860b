"""The kinds of text-to-image pipeline that a concept can be erased from."""

from .base import Family, undisturbed
from .checks import check_pipeline
from .dispatch import SUPPORTED, family_of
from .noise import NoiseProcess
from .text import TextInputs


__all__ = ["SUPPORTED", "Family", "NoiseProcess", "TextInputs", "check_pipeline", "family_of", "undisturbed"]
