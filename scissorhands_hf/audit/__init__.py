"""Measure what a model has forgotten and what it kept, and report it."""

from .metrics import average_gap, membership_attack, unlearning_metrics
from .report import UnlearningReport


__all__ = ["UnlearningReport", "average_gap", "membership_attack", "unlearning_metrics"]
