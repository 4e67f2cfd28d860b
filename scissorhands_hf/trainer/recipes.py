"""Named settings: the reference's own, as published, and the ones tuned in this repository.

A recipe fills the fields of a [`ScissorhandsConfig`] that the user left open; explicit arguments win. Each belongs to one of
the two doors: training on data of one's own, or erasing a concept from a pipeline. Imports nothing heavy.
"""

import copy
import dataclasses
import difflib
import math
from typing import Any


TRAINER_DOOR, ERASURE_DOOR = "ScissorhandsTrainer", "erase_concept"
# Fields of TrainingArguments that a recipe may set, beside those of UnlearningSettings and ErasureSettings.
TRAINING_FIELDS = (
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "optim",
    "optim_args",
    "weight_decay",
    "lr_scheduler_type",
    "max_grad_norm",
)


_SELF_ATTENTION_OF_TWO_BLOCKS = ["up_blocks.1.attentions.1.*attn1.*", "up_blocks.2.attentions.1.*attn1.*"]


def _reference_classification(
    learning_rate: float, trim_ratio: float, forget_weight: float, epochs: int, every: int
) -> dict[str, Any]:
    # Re-initialised are layer3, layer4 and fc of a ResNet-18, which is the default scope of a ResNet.
    return {
        "learning_rate": learning_rate,
        "trim_ratio": trim_ratio,
        "trim_damage_limit": math.inf,
        "forget_weight": forget_weight,
        "forget_objective": "ascent",
        "num_train_epochs": epochs,
        "projection": True,
        "projection_every": every,
        "projection_margin": 0.5,
        "projection_margin_unit": "absolute",
        "per_device_train_batch_size": 256,
        "forget_schedule": "once",
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "weight_decay": 5e-4,
        "lr_scheduler_type": "constant",
    }


def _reference_diffusion(learning_rate: float, trim_ratio: float, epochs: int, objective: str) -> dict[str, Any]:
    return {
        "learning_rate": learning_rate,
        "trim_ratio": trim_ratio,
        "forget_weight": 0.1,
        "forget_objective": objective,
        "redirect_teacher": "live",
        "retain_objective": "data",
        "num_train_epochs": epochs,
        "projection": False,
        "reinit_target_modules": _SELF_ATTENTION_OF_TWO_BLOCKS,
        "optim": "adamw_torch",
        "weight_decay": 0.0,
        "lr_scheduler_type": "constant",
    }


def _small_diffusion(objective: str, **settings: Any) -> dict[str, Any]:
    # The paper's system for a denoiser of about a million weights: chosen on "dress" and "sneaker", seed 0, of the pipeline in
    # spaces_demo; figures in docs/measurements.md. The learning rate and share of Stable Diffusion change nothing there.
    return {
        **_reference_diffusion(3e-4, 0.005, 2, objective),
        "saliency": "relative",
        "saliency_batches": 64,
        "threshold_scope": "reinit",
        "reinit_target_modules": ["*"],
        "retain_objective": "distillation",
        "retain_pictures": 192,
        "projection": True,
        "max_steps": 300,
        "per_device_train_batch_size": 32,
        "per_device_forget_batch_size": 12,
        "lr_scheduler_type": "linear",
        **settings,
    }


def _tuned_fashion_mnist(**settings: Any) -> dict[str, Any]:
    # Tuned here, on seeds 0 and 1 of examples/demo.py, for a 0.7M-weight ResNet; figures in the README.
    return {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 128,
        "trim_damage_limit": math.inf,  # what the trim ruins, repair wins back
        "forget_weight": 0.2,
        "projection": True,
        "projection_margin": 0.0,
        "forget_schedule": "cycle",
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "weight_decay": 5e-4,
        "lr_scheduler_type": "linear",
        **settings,
    }


def _language_model(objective: str, epochs: float, batch_size: int, **settings: Any) -> dict[str, Any]:
    # Published for models of 7B weights, and not measured here. The papers neither trim nor project.
    return {
        "learning_rate": 1e-5,
        "forget_objective": objective,
        "retain_objective": "data",
        "trim_ratio": 0.0,
        "projection": False,
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "optim": "adamw_torch",
        "weight_decay": 0.01,
        "lr_scheduler_type": "linear",
        **settings,
    }


# Ten passes over TOFU's "forget10", in epochs of the nine times larger retain set.
_TOFU_EPOCHS = 10 / 9

_TRAINER_RECIPES: dict[str, dict[str, Any]] = {
    "cifar10-random-10": _reference_classification(5e-3, 0.03, 0.05, 10, every=1),
    "cifar10-random-50": _reference_classification(1e-3, 0.03, 0.01, 10, every=10),
    "cifar100-random-10": _reference_classification(5e-3, 0.01, 1.0, 10, every=1),
    "svhn-class": _reference_classification(1e-3, 0.1, 0.1, 10, every=1),
    "celeba-identity": _reference_classification(2e-4, 0.005, 0.3, 5, every=10),
    "fashion-mnist-class": _tuned_fashion_mnist(
        learning_rate=0.01,
        trim_ratio=0.003,
        threshold_scope="reinit",
        reinit_target_modules=["resnet.encoder.stages.3", "classifier"],
        per_device_forget_batch_size=16,
    ),
    "tofu-npo": _language_model("npo", _TOFU_EPOCHS, 32, forget_weight=1.0, objective_beta=0.1),
    "tofu-simnpo": _language_model("simnpo", _TOFU_EPOCHS, 32, forget_weight=0.125, objective_beta=4.5),
    "muse-npo": _language_model(
        "npo", 10, 32, forget_weight=1.0, objective_beta=0.1, weight_decay=0.0, lr_scheduler_type="constant"
    ),
    # For MUSE's news. Its λ = 0.1 weighs the retain loss, so it is 10 here, where that has weight 1; its γ = 3 is times β.
    "muse-simnpo": _language_model(
        "simnpo",
        10,
        4,
        forget_weight=10.0,
        objective_beta=0.75,
        simnpo_gamma=2.25,
        weight_decay=0.0,
        lr_scheduler_type="constant",
    ),
    "fashion-mnist-random": _tuned_fashion_mnist(learning_rate=0.02, trim_ratio=0.03, per_device_forget_batch_size=32),
}

_CONCEPT: dict[str, Any] = {
    "learning_rate": 1e-4,
    "trim_ratio": 0.0,
    "saliency_batches": 16,
    "forget_weight": 1.0,
    "forget_objective": "closed_form",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 16,
    "projection": False,
    "threshold_scope": "reinit",
    "optim": "adamw_torch",
    "weight_decay": 0.0,
    "lr_scheduler_type": "linear",
}

# What is known of the concept without its words goes, too. The default for a small denoiser; chosen on "dress" and "sneaker",
# seeds 0 and 1, of the pipeline in spaces_demo, figures in docs/measurements.md. Projected at every second step: at each, what
# is kept paid more for it. A trim did not earn its place there and is left to those who ask for it.
_REMOVAL: dict[str, Any] = {
    **_CONCEPT,
    "learning_rate": 5e-4,
    "saliency": "relative",
    "forget_weight": 0.5,
    "forget_objective": "removal",
    "retain_pictures": 192,
    "max_steps": 330,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 32,
    "per_device_forget_batch_size": 12,
    "projection": True,
    "projection_every": 2,
    "memory_every": 25,
}

_ERASURE_RECIPES: dict[str, dict[str, Any]] = {
    "stable-diffusion-nudity": _reference_diffusion(1e-5, 0.005, 5, "redirect"),
    "stable-diffusion-class": _reference_diffusion(2e-5, 0.001, 3, "ascent"),
    "small-diffusion-class": _small_diffusion("ascent", ascent_limit=2.0),
    "small-diffusion-nudity": _small_diffusion("redirect", forget_weight=1.0),
    "concept": _CONCEPT,
    "removal": _REMOVAL,
    # The text layers alone cannot tell a compound from its words; that is left to more, and longer, repair.
    "compound": {**_CONCEPT, "learning_rate": 3e-4, "closed_form_overshoot": 0.6, "max_steps": 250},
}

# All, by name.
RECIPES: dict[str, dict[str, Any]] = {**_TRAINER_RECIPES, **_ERASURE_RECIPES}


def recipes_of(door: str) -> dict[str, dict[str, Any]]:
    """The recipes, by name, of `"ScissorhandsTrainer"` or of `"erase_concept"`."""
    return {TRAINER_DOOR: _TRAINER_RECIPES, ERASURE_DOOR: _ERASURE_RECIPES}[door]


def get_recipe(name: str, door: str) -> dict[str, Any]:
    """The settings of the recipe called `name`, as a copy.

    Args:
        name (`str`):
            A key of `RECIPES`.
        door (`str`):
            That it is to fit.

    Raises:
        ValueError: there is no such recipe, or it is the other door's; the message lists those that fit.
    """
    fitting = recipes_of(door)
    if name in fitting:
        return copy.deepcopy(fitting[name])
    names = ", ".join(sorted(fitting))
    if name in RECIPES:
        other = ERASURE_DOOR if door == TRAINER_DOOR else TRAINER_DOOR
        raise ValueError(f"recipe={name!r} is for {other}. Those for {door}: {names}.")
    close = difflib.get_close_matches(name, fitting, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"recipe={name!r} is not known.{hint} Recipes for {door}: {names}.")


def apply_recipe(config: Any, given: set[str]) -> None:
    """Fill in the fields of `config` that were left open by those of its recipe, once, and note them in `applied_recipe`.

    Args:
        config (`Any`):
            A [`ScissorhandsConfig`], as its constructor received it.
        given (`set[str]`):
            Names of the fields that have explicit values; others are open where they have their default.

    Raises:
        ValueError: see [`get_recipe`]; or `applied_recipe` is not what a configuration noted.
    """
    if not isinstance(config.applied_recipe, dict | None):
        raise ValueError(f"applied_recipe={config.applied_recipe!r} is set by the configuration; leave it out")
    earlier = dict(config.applied_recipe or {})
    earlier_name = earlier.pop("recipe", None)
    # Of a copy: what the recipe had filled in and was not changed since.
    filled = {name: value for name, value in earlier.items() if getattr(config, name) == value}
    if config.recipe is None:
        config.applied_recipe = None
        return
    settings = get_recipe(config.recipe, config.door)
    if earlier_name != config.recipe:
        defaults = {item.name: item.default for item in dataclasses.fields(config)}
        for name in filled:  # by another recipe, which no longer holds
            setattr(config, name, defaults[name])
        filled = {
            name: value for name, value in settings.items() if name not in given and getattr(config, name) == defaults[name]
        }
        for name, value in filled.items():
            setattr(config, name, value)
    config.applied_recipe = {"recipe": config.recipe, **filled}
