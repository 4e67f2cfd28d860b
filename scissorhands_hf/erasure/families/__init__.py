"""The kinds of text-to-image pipeline that a concept can be erased from."""

from .dispatch import SUPPORTED, family_of
from .family import Family
from .noise import NoiseProcess
from .pipeline_checks import check_pipeline
from .text_inputs import TextInputs


__all__ = ["SUPPORTED", "Family", "NoiseProcess", "TextInputs", "check_pipeline", "family_of"]
