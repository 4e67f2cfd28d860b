"""Which objectives there are for the forget set, what each needs, and its defaults. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Any


ASCENT = "ascent"
# Where `forget_objective` is left open for a causal language model, without and with other answers beside the forget examples:
# what measured best, see docs/measurements.md.
OF_LANGUAGE_MODELS, WITH_OTHER_ANSWERS = "undial", "dpo"
# Of diffusion pipelines alone, beside "ascent".
PIPELINE_OBJECTIVES = ("redirect", "negative_guidance", "closed_form", "removal")


@dataclass(frozen=True)
class ForgetObjective:
    """
    A forget objective: what it needs, and its defaults.

    Args:
        name (`str`):
            The value of `forget_objective`.
        weight (`float`, *optional*, defaults to 1):
            λ where `forget_weight` is left open.
        beta (`float`, *optional*):
            β where `objective_beta` is left open; None of an objective without one.
        needs_tokens (`bool`, *optional*, defaults to `False`):
            It is computed from the log-probabilities of tokens.
        needs_reference (`bool`, *optional*, defaults to `False`):
            It compares with the original, which is asked once, before training.
        needs_answer (`bool`, *optional*, defaults to `False`):
            Each forget example needs another answer.
        over (`str`, *optional*, defaults to `"tokens"`):
            What a step averages over: `"tokens"` that are labelled, or `"examples"`.
    """

    name: str
    weight: float = 1.0
    beta: float | None = None
    needs_tokens: bool = False
    needs_reference: bool = False
    needs_answer: bool = False
    over: str = "tokens"


# β of NPO as published; SimNPO's as published for TOFU's "forget10"; UNDIAL's is OpenUnlearning's (arXiv:2506.12618). At DPO's
# usual 0.1 it stops while the own answers are likelier than unseen ones (docs/measurements.md).
_TRAINER_OBJECTIVES = (
    ForgetObjective("ascent", weight=0.05),
    ForgetObjective("gradient_difference"),
    ForgetObjective("npo", beta=0.1, needs_tokens=True, needs_reference=True, over="examples"),
    ForgetObjective("simnpo", beta=4.5, needs_tokens=True, over="examples"),
    ForgetObjective("dpo", beta=0.03, needs_tokens=True, needs_reference=True, needs_answer=True, over="examples"),
    ForgetObjective("idk", needs_answer=True),
    ForgetObjective("counterfactual", needs_answer=True),
    ForgetObjective("undial", beta=10.0, needs_tokens=True, needs_reference=True),
    ForgetObjective("rmu", needs_tokens=True, needs_reference=True),
)
TRAINER_OBJECTIVES = {objective.name: objective for objective in _TRAINER_OBJECTIVES}
OBJECTIVE_NAMES = (*TRAINER_OBJECTIVES, *PIPELINE_OBJECTIVES)


def objective_named(name: str) -> ForgetObjective:
    """The objective of that name; those of pipelines are computed by their trainer."""
    return TRAINER_OBJECTIVES.get(name) or ForgetObjective(name, weight=0.05)


def names_with(**features: Any) -> list[str]:
    """Names of the trainer's objectives that have these features, as `needs_answer=True`."""
    return [
        name
        for name, objective in TRAINER_OBJECTIVES.items()
        if all(getattr(objective, feature) == value for feature, value in features.items())
    ]
