"""The settings of a concept's erasure: those of every Scissorhands run, and what pictures and targets they are applied to."""

import math
from dataclasses import dataclass, field
from typing import Any

from ..trainer.recipes import get_recipe
from ..trainer.scissorhands_config import ScissorhandsConfig


_CHOICES = {"retain_objective": ("distillation", "data"), "redirect_teacher": ("frozen", "live")}
# What the fields are when neither the user nor a recipe sets them. A concept needs few steps; Trainer's own default would
# count epochs of a set that is made to measure.
_DEFAULTS: dict[str, Any] = {
    "pictures_per_concept": 64,
    "retain_pictures": 128,
    "picture_guidance": 2.0,
    "retain_objective": "distillation",
    "negative_guidance_strength": 1.0,
    "closed_form_overshoot": 1.0,
    "closed_form_keep_weight": 20.0,
    "closed_form_ridge": 1e-4,
    "redirect_teacher": "frozen",
    "sensitivity_guidance": 0.0,
    "damage_limit": 0.05,
    "evaluations": 4,
    "max_steps": 150,
}


@dataclass
class ConceptErasureConfig(ScissorhandsConfig):
    r"""
    Settings of `erase_concept`: all of [`ScissorhandsConfig`] and the following. `max_steps` is the length of repair; the noisy
    examples are divided over `num_train_epochs`, at the start of each of which the gradient memories are renewed.

    Args:
        pictures_per_concept (`int`, defaults to 64):
            Pictures that the pipeline draws of each concept; with `forget_images` given, none are drawn.
        retain_pictures (`int`, defaults to 128):
            Pictures that it draws of what is to be kept; with `retain_images` given, none are drawn.
        picture_guidance (`float`, defaults to 2):
            Guidance scale, ≥ 0, of the pictures drawn to learn from; a lower one of the pipeline's or the user's wins. Little
            guidance draws varied pictures, which are nearer to real ones.
        retain_objective (`str`, defaults to `"distillation"`):
            `"distillation"`: predict on retain pictures what the frozen original predicts. `"data"`: the denoising loss, as in
            the reference.
        negative_guidance_strength (`float`, defaults to 1):
            η ≥ 0 of the objective `"negative_guidance"` (ESD, arXiv:2303.07345).
        closed_form_overshoot (`float`, defaults to 1):
            α ≥ 0 of the objective `"closed_form"`: how far beyond the anchor's answers the text layers' new answers lie, in
            units of the distance between the concept's and the anchor's. 0: the anchor's answers (UCE, arXiv:2308.14761), which
            are relearned soon; much more than 1: pictures of the concept's prompts become noise.
        closed_form_keep_weight (`float`, defaults to 20):
            κ ≥ 0: weight of the prompts to keep against those to edit.
        closed_form_ridge (`float`, defaults to 1e-4):
            λ > 0, in units of the inputs' mean square: holds what no prompt asks for.
        redirect_teacher (`str`, defaults to `"frozen"`):
            Whose prediction for the anchor's prompt the objective `"redirect"` follows: the frozen original's, or that of the
            model in training (`"live"`, as in the reference).
        sensitivity_guidance (`float`, defaults to 0):
            Guidance scale of the prediction whose denoising loss the connection sensitivity is measured on; 0: the plain
            conditional prediction.
        damage_limit (`float`, defaults to 0.05):
            Share, > 0, by which the denoising loss of kept prompts may rise; beyond it the run warns, and steps that exceed it
            are not chosen when others do not.
        evaluations (`int`, defaults to 4):
            How often in a run the trade-off between forgetting and damage is measured; the best step's weights are kept.
        patience (`int`, *optional*):
            Stop when that many measurements in a row bring nothing better. Default: never.

    Raises:
        ValueError: a value outside its range; raised at construction.
    """

    pictures_per_concept: int | None = field(default=None, metadata={"help": "Pictures drawn of each concept."})
    retain_pictures: int | None = field(default=None, metadata={"help": "Pictures that it draws of what is to be kept."})
    picture_guidance: float | None = field(default=None, metadata={"help": "Guidance scale of the pictures to learn from."})
    retain_objective: str | None = field(default=None, metadata={"help": "'distillation' from the original, or 'data'."})
    negative_guidance_strength: float | None = field(default=None, metadata={"help": "η >= 0 of 'negative_guidance'."})
    closed_form_overshoot: float | None = field(default=None, metadata={"help": "α >= 0 of 'closed_form'."})
    closed_form_keep_weight: float | None = field(default=None, metadata={"help": "κ >= 0, weight of what is kept."})
    closed_form_ridge: float | None = field(default=None, metadata={"help": "λ > 0, holds what no prompt asks for."})
    redirect_teacher: str | None = field(default=None, metadata={"help": "Whom 'redirect' follows: 'frozen' or 'live'."})
    sensitivity_guidance: float | None = field(default=None, metadata={"help": "Guidance scale of the sensitivity; 0: none."})
    damage_limit: float | None = field(default=None, metadata={"help": "Share by which the kept loss may rise, > 0."})
    evaluations: int | None = field(default=None, metadata={"help": "Measurements of the trade-off in a run."})
    patience: int | None = field(default=None, metadata={"help": "Stop after that many measurements without gain."})
    max_steps: int | None = field(default=None, metadata={"help": "Optimizer steps of repair."})

    def __post_init__(self):
        recipe = get_recipe(self.recipe) if self.recipe is not None else {}
        for name, default in _DEFAULTS.items():
            if getattr(self, name) is None:
                setattr(self, name, recipe.get(name, default))
        super().__post_init__()

    def _check_method_fields(self) -> None:
        super()._check_method_fields()

        def require(condition: bool, name: str, demand: str) -> None:
            if not condition:
                raise ValueError(f"{name}={getattr(self, name)!r} {demand}")

        for name, choices in _CHOICES.items():
            require(getattr(self, name) in choices, name, f"is not one of {', '.join(map(repr, choices))}")
        for name in ("pictures_per_concept", "retain_pictures", "evaluations", "max_steps"):
            require(int(getattr(self, name)) == getattr(self, name) >= 1, name, "must be a whole number >= 1")
        for name in (
            "negative_guidance_strength",
            "sensitivity_guidance",
            "picture_guidance",
            "closed_form_overshoot",
            "closed_form_keep_weight",
        ):
            require(math.isfinite(getattr(self, name)) and getattr(self, name) >= 0, name, "must be a number >= 0")
        ridge = self.closed_form_ridge
        require(math.isfinite(ridge) and ridge > 0, "closed_form_ridge", "must be a number > 0")
        require(self.damage_limit > 0, "damage_limit", "must be > 0, as 0.05")
        require(self.patience is None or self.patience >= 1, "patience", "must be a whole number >= 1, or None")
        require(self.evaluations <= self.max_steps, "evaluations", f"exceeds max_steps={self.max_steps}")

    def method_settings(self) -> dict[str, Any]:
        """The effective values of the method's fields, JSON-ready."""
        return {**super().method_settings(), **{name: getattr(self, name) for name in (*_DEFAULTS, "patience")}}
