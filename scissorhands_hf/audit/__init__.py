"""Measure what a model has forgotten and what it kept, and report it."""

from .concept_audit import AuditPrompt, audit_metrics, compare_pictures, draw_pictures
from .concept_report import ConceptErasureReport, PromptScore
from .judges import Judge, load_judge
from .metrics import average_gap, membership_attack, unlearning_metrics
from .report import UnlearningReport


__all__ = [
    "AuditPrompt",
    "ConceptErasureReport",
    "Judge",
    "PromptScore",
    "UnlearningReport",
    "audit_metrics",
    "average_gap",
    "compare_pictures",
    "draw_pictures",
    "load_judge",
    "membership_attack",
    "unlearning_metrics",
]
