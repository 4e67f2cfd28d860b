"""Named settings: the reference's own, as published (DESIGN table), and the ones tuned in this repository.

A recipe fills the fields of :class:`~scissorhands_hf.ScissorhandsConfig` that the user left open; explicit arguments win.
"""

import difflib
from typing import Any


_SELF_ATTENTION_OF_TWO_BLOCKS = ["up_blocks.1.attentions.1.*attn1.*", "up_blocks.2.attentions.1.*attn1.*"]


def _reference_classification(
    learning_rate: float, trim_ratio: float, forget_weight: float, epochs: int, every: int
) -> dict[str, Any]:
    # Re-initialised are layer3, layer4 and fc of a ResNet-18, which is the default scope of a ResNet.
    return {
        "learning_rate": learning_rate,
        "trim_ratio": trim_ratio,
        "forget_weight": forget_weight,
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


def _tuned_fashion_mnist(**settings: Any) -> dict[str, Any]:
    # Tuned here, on seeds 0 and 1 of examples/demo.py, for a 0.7M-weight ResNet; figures in the README.
    return {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 128,
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


RECIPES: dict[str, dict[str, Any]] = {
    "cifar10-random-10": _reference_classification(5e-3, 0.03, 0.05, 10, every=1),
    "cifar10-random-50": _reference_classification(1e-3, 0.03, 0.01, 10, every=10),
    "cifar100-random-10": _reference_classification(5e-3, 0.01, 1.0, 10, every=1),
    "svhn-class": _reference_classification(1e-3, 0.1, 0.1, 10, every=1),
    "celeba-identity": _reference_classification(2e-4, 0.005, 0.3, 5, every=10),
    "stable-diffusion-nudity": _reference_diffusion(1e-5, 0.005, 5, "redirect"),
    "stable-diffusion-class": _reference_diffusion(2e-5, 0.001, 3, "ascent"),
    "concept": {
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
    },
    "fashion-mnist-class": _tuned_fashion_mnist(
        learning_rate=0.01,
        trim_ratio=0.003,
        threshold_scope="reinit",
        reinit_target_modules=["resnet.encoder.stages.3", "classifier"],
        per_device_forget_batch_size=16,
    ),
    "fashion-mnist-random": _tuned_fashion_mnist(learning_rate=0.02, trim_ratio=0.03, per_device_forget_batch_size=32),
}


def get_recipe(name: str) -> dict[str, Any]:
    """The settings of the recipe called ``name``, as a fresh dict.

    Raises:
        ValueError: there is no such recipe; the message lists those there are.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"recipe={name!r} is not known.{hint} Recipes: {', '.join(sorted(RECIPES))}.")
    return dict(RECIPES[name])
