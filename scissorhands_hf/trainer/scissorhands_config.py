"""The settings of a Scissorhands run: `transformers.TrainingArguments` and the method's own."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from ..report.card_options import CardOptions
from .recipes import get_recipe


# What the method's fields are when neither the user nor a recipe sets them.
_DEFAULTS: dict[str, Any] = {
    "trim_ratio": 0.03,
    "saliency_batches": -1,
    "threshold_scope": "all",
    "forget_weight": 0.05,
    "forget_objective": "ascent",
    "projection": True,
    "projection_margin": 0.0,
    "projection_margin_unit": "gradient",
    "projection_every": 1,
    "memory_batches": 1,
    "memory_every": None,
    "sharpness_radius": 0.0,
    "forget_schedule": "cycle",
}
_CHOICES = {
    "threshold_scope": ("all", "reinit"),
    "forget_objective": ("ascent", "redirect", "negative_guidance", "closed_form"),
    "projection_margin_unit": ("gradient", "absolute"),
    "forget_schedule": ("once", "cycle"),
}
_METHOD_FIELDS = (
    "recipe",
    *_DEFAULTS,
    "reinit_target_modules",
    "trainable_target_modules",
    "projection_target_modules",
    "forget_loss_ceiling",
    "projection_epsilon",
    "divergence_factor",
    "per_device_forget_batch_size",
)
# Fields of TrainingArguments that a recipe may set. They are declared again below with None as default, so that a value
# which the user wrote out can be told from one that was left open.
_RECIPE_TRAINING_FIELDS = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "optim",
    "optim_args",
    "weight_decay",
    "lr_scheduler_type",
    "max_grad_norm",
)


@dataclass
class ScissorhandsConfig(CardOptions, TrainingArguments):
    r"""
    Settings of a [`ScissorhandsTrainer`]. Everything that [`~transformers.TrainingArguments`] and [`CardOptions`] accept is
    accepted here; values
    below that are left at `None` come from the `recipe`, else from the default given. Symbols are those of the paper,
    arXiv:2401.06187.

    Args:
        recipe (`str`, *optional*):
            Name of a set of tested settings, see `scissorhands_hf.RECIPES`. Explicit arguments win over it.
        trim_ratio (`float`, *optional*, defaults to 0.03):
            Share of the weights in `threshold_scope`, in [0, 1), whose connection sensitivity counts as high. Those of them
            that lie in `reinit_target_modules` are re-initialised; with 0 nothing is.
        saliency_batches (`int`, *optional*, defaults to -1):
            Number B of forget batches over which the sensitivity is summed; -1 takes the whole forget set once.
        threshold_scope (`str`, *optional*, defaults to `"all"`):
            Which weights the threshold is taken over: `"all"` trainable weights (as the reference does), or the
            `"reinit"` scope alone.
        reinit_target_modules (`str` or `list[str]`, *optional*):
            Which weights may be re-initialised, as patterns on parameter names: a dotted part of a name
            (`"encoder.stages.3"`), a glob over the whole name (`"*.attention.*"`), or a regular expression after `"re:"`.
            Default: by architecture (last two stages of a ResNet; else the last third of the repeated blocks and the head).
        trainable_target_modules (`str` or `list[str]`, *optional*):
            Which weights are trained during repair; the others are frozen. Default: all that require gradients.
        projection_target_modules (`str` or `list[str]`, *optional*):
            Which gradients are remembered and projected. Default: those of all trained weights.
        forget_weight (`float`, *optional*, defaults to 0.05):
            λ ≥ 0 in L(D_r) − λ·L(D_f).
        forget_objective (`str`, *optional*, defaults to `"ascent"`):
            `"ascent"` on the forget loss; the other objectives are for diffusion pipelines.
        forget_loss_ceiling (`float`, *optional*):
            Ascent stops where the forget loss of a batch exceeds this value: the batch then adds no gradient and the step
            is not projected, so nothing pushes further up. Default: 2·ln K for K classes (or tokens), twice the loss of a
            uniform guess, where a model has long forgotten; `float("inf")` switches it off.
        forget_schedule (`str`, *optional*, defaults to `"cycle"`):
            `"cycle"`: every step has a forget batch, the forget set starts over when it is used up. `"once"`: each forget
            example once per epoch (as the reference does), its batches spread evenly over the epoch's steps, and an epoch
            long enough for all of them.
        per_device_forget_batch_size (`int`, *optional*):
            Forget examples per device and step. Default: `per_device_train_batch_size`, at most the size of the forget set.
        projection (`bool`, *optional*, defaults to `True`):
            Whether gradients are projected off the gradient memories.
        projection_margin (`float`, *optional*, defaults to 0):
            Lower bound, ≥ 0, of each coefficient v_i of a projected step; 0 is the plain cone projection. The reference's 0.5
            (in absolute units) forces an ascent that nothing bounds.
        projection_margin_unit (`str`, *optional*, defaults to `"gradient"`):
            `"gradient"`: the margin is a multiple of ‖g‖/‖m_i‖; `"absolute"`: as published.
        projection_epsilon (`float`, *optional*, defaults to 1e-3):
            Ridge ε > 0 of the projection's quadratic problem.
        projection_every (`int`, *optional*, defaults to 1):
            Project at every n-th optimizer step.
        memory_batches (`int`, *optional*, defaults to 1):
            Number M of gradient memories, one forget batch each, renewed at the start of every epoch. Each takes as much
            memory as the gradients.
        memory_every (`int`, *optional*):
            Renew the memories at every n-th optimizer step, too. Default: at the start of each epoch alone.
        sharpness_radius (`float`, *optional*, defaults to 0):
            ρ ≥ 0: the forget part of the loss is minimised at weights moved by ρ towards relearning, along the memories, so
            that forgetting withstands fine-tuning (arXiv:2010.01412, arXiv:2502.05374; not in the paper). 0: as published.
        divergence_factor (`float`, *optional*, defaults to 2):
            The run stops with an error when the mean retain loss of an epoch exceeds that of the first epoch by this factor,
            > 1.

    Raises:
        ValueError: an unknown recipe or choice, or a value outside its range; raised at construction.
    """

    recipe: str | None = field(default=None, metadata={"help": "Name of a set of tested settings; explicit arguments win."})
    trim_ratio: float | None = field(
        default=None,
        metadata={"help": "Share of weights in threshold_scope whose sensitivity counts as high, in [0, 1)."},
    )
    saliency_batches: int | None = field(
        default=None,
        metadata={"help": "Forget batches over which sensitivity is summed; -1: the whole forget set once."},
    )
    threshold_scope: str | None = field(
        default=None, metadata={"help": "Threshold over 'all' trainable weights or the 'reinit' scope alone."}
    )
    reinit_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Patterns (dotted part, glob, or 're:' regex) of parameters that may be re-initialised."},
    )
    trainable_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Patterns of parameters that are trained; the others are frozen. Default: all."}
    )
    projection_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Patterns of parameters whose gradients are projected. Default: all trained."}
    )
    forget_weight: float | None = field(default=None, metadata={"help": "λ >= 0 in L(D_r) - λ L(D_f)."})
    forget_objective: str | None = field(
        default=None,
        metadata={"help": "'ascent'; 'redirect', 'negative_guidance', 'closed_form': for diffusion pipelines."},
    )
    forget_loss_ceiling: float | None = field(
        default=None,
        metadata={"help": "Ascent stops where a forget batch's loss exceeds this. Default: 2 ln K; inf: never."},
    )
    forget_schedule: str | None = field(
        default=None,
        metadata={"help": "'cycle': a forget batch in every step; 'once': each forget example once per epoch."},
    )
    per_device_forget_batch_size: int | None = field(
        default=None, metadata={"help": "Forget examples per device and step. Default: per_device_train_batch_size."}
    )
    projection: bool | None = field(default=None, metadata={"help": "Project gradients off the gradient memories."})
    projection_margin: float | None = field(
        default=None, metadata={"help": "Lower bound >= 0 of the coefficients of a projected step; 0: plain cone."}
    )
    projection_margin_unit: str | None = field(
        default=None, metadata={"help": "'gradient': margin in units of |g|/|m|; 'absolute': as published."}
    )
    projection_epsilon: float = field(default=1e-3, metadata={"help": "Ridge > 0 of the projection's quadratic problem."})
    projection_every: int | None = field(default=None, metadata={"help": "Project at every n-th optimizer step."})
    memory_batches: int | None = field(default=None, metadata={"help": "Number M of gradient memories."})
    memory_every: int | None = field(default=None, metadata={"help": "Renew memories at every n-th step; default: each epoch."})
    sharpness_radius: float | None = field(
        default=None, metadata={"help": "ρ >= 0: forget at weights moved by ρ towards relearning; 0: as published."}
    )
    divergence_factor: float = field(
        default=2.0,
        metadata={"help": "Stop when an epoch's retain loss exceeds the first epoch's by this factor, > 1."},
    )

    learning_rate: float | None = field(default=None, metadata={"help": "The initial learning rate for the optimizer."})
    num_train_epochs: float | None = field(default=None, metadata={"help": "Passes over the retain set."})
    per_device_train_batch_size: int | None = field(default=None, metadata={"help": "Retain examples per device and step."})
    optim: str | None = field(default=None, metadata={"help": "The optimizer to use."})
    optim_args: str | None = field(default=None, metadata={"help": "Arguments of the optimizer, as 'momentum=0.9'."})
    weight_decay: float | None = field(default=None, metadata={"help": "Weight decay to apply."})
    lr_scheduler_type: str | None = field(default=None, metadata={"help": "The scheduler type to use."})
    max_grad_norm: float | None = field(
        default=None, metadata={"help": "Maximum gradient norm, after the projection; 0: none."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every X updates steps."})

    def __post_init__(self):
        for name in (
            "reinit_target_modules",
            "trainable_target_modules",
            "projection_target_modules",
        ):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        stock = {f.name: f.default for f in dataclasses.fields(TrainingArguments)}
        recipe = get_recipe(self.recipe) if self.recipe is not None else {}
        for name in (*_DEFAULTS, *_RECIPE_TRAINING_FIELDS, "reinit_target_modules"):
            if getattr(self, name) is None:
                fallback = _DEFAULTS[name] if name in _DEFAULTS else stock.get(name)
                setattr(self, name, recipe.get(name, fallback))
        if self.per_device_forget_batch_size is None:
            self.per_device_forget_batch_size = recipe.get("per_device_forget_batch_size", self.per_device_train_batch_size)
        if self.forget_loss_ceiling is None:
            self.forget_loss_ceiling = recipe.get("forget_loss_ceiling")
        self._check_method_fields()
        CardOptions.__post_init__(self)
        TrainingArguments.__post_init__(self)

    def _check_method_fields(self) -> None:
        def require(condition: bool, name: str, demand: str) -> None:
            if not condition:
                raise ValueError(f"{name}={getattr(self, name)!r} {demand}")

        for name, choices in _CHOICES.items():
            require(getattr(self, name) in choices, name, f"is not one of {', '.join(map(repr, choices))}")
        require(0 <= self.trim_ratio < 1, "trim_ratio", "must lie in [0, 1), for example 0.03; 0 trims nothing")
        require(
            self.saliency_batches == -1 or self.saliency_batches >= 1,
            "saliency_batches",
            "must be at least 1, or -1 for the whole forget set",
        )
        require(
            math.isfinite(self.forget_weight) and self.forget_weight >= 0,
            "forget_weight",
            "must be a number >= 0: λ is subtracted, so a negative value would teach the forget set",
        )
        require(
            self.forget_loss_ceiling is None or self.forget_loss_ceiling > 0,
            "forget_loss_ceiling",
            "must be > 0, None for 2 ln K, or float('inf') for no ceiling",
        )
        require(
            math.isfinite(self.projection_margin) and self.projection_margin >= 0,
            "projection_margin",
            "must be a number >= 0",
        )
        require(
            math.isfinite(self.sharpness_radius) and self.sharpness_radius >= 0, "sharpness_radius", "must be a number >= 0"
        )
        require(self.memory_every is None or self.memory_every >= 1, "memory_every", "must be a whole number >= 1, or None")
        require(self.projection_epsilon > 0, "projection_epsilon", "must be > 0, as 1e-3")
        require(self.divergence_factor > 1, "divergence_factor", "must be > 1, float('inf') to switch the check off")
        for name in (
            "projection_every",
            "memory_batches",
            "per_device_forget_batch_size",
            "per_device_train_batch_size",
        ):
            require(int(getattr(self, name)) == getattr(self, name) >= 1, name, "must be a whole number >= 1")

    @property
    def uses_memories(self) -> bool:
        """Whether gradient memories are kept: for the projection, or to look ahead at relearning."""
        return self.projection or self.sharpness_radius > 0

    def method_settings(self) -> dict[str, Any]:
        """The effective values of the method's fields and of those training fields that a recipe may set, JSON-ready."""
        values = {name: getattr(self, name) for name in (*_METHOD_FIELDS, *_RECIPE_TRAINING_FIELDS, "seed")}
        return {name: getattr(value, "value", value) for name, value in values.items()}
