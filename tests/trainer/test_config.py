"""Recipes and arguments: what wins, what is refused, and that all of it can be written on a command line or in a file."""

import json
import math

import pytest
from transformers import HfArgumentParser, TrainingArguments

from scissorhands_hf import RECIPES, ScissorhandsConfig


# DESIGN.md: the reference's settings. lr, trim_ratio, λ, epochs, projection every n-th step (0: never).
PUBLISHED = {
    "cifar10-random-10": (5e-3, 0.03, 0.05, 10, 1),
    "cifar10-random-50": (1e-3, 0.03, 0.01, 10, 10),
    "cifar100-random-10": (5e-3, 0.01, 1.0, 10, 1),
    "svhn-class": (1e-3, 0.1, 0.1, 10, 1),
    "celeba-identity": (2e-4, 0.005, 0.3, 5, 10),
    "stable-diffusion-nudity": (1e-5, 0.005, 0.1, 5, 0),
    "stable-diffusion-class": (2e-5, 0.001, 0.1, 3, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_reference_recipes_are_the_published_settings(name: str, tmp_path) -> None:
    args = ScissorhandsConfig(output_dir=str(tmp_path), recipe=name)
    lr, ratio, weight, epochs, every = PUBLISHED[name]
    assert (args.learning_rate, args.trim_ratio, args.forget_weight, args.num_train_epochs) == (lr, ratio, weight, epochs)
    assert args.projection == (every > 0)
    if every:
        assert (args.projection_every, args.projection_margin, args.projection_margin_unit) == (every, 0.5, "absolute")
        assert (args.memory_batches, args.projection_epsilon) == (1, 1e-3)
        assert (args.optim, args.optim_args, args.weight_decay) == ("sgd", "momentum=0.9", 5e-4)
        assert args.forget_loss_ceiling is None  # the automatic ceiling is on


def test_every_recipe_makes_a_valid_configuration_and_is_json(tmp_path) -> None:
    for name in RECIPES:
        args = ScissorhandsConfig(output_dir=str(tmp_path), recipe=name)
        assert json.loads(json.dumps(args.method_settings()))["recipe"] == name
        json.dumps(args.to_dict())


def test_explicit_arguments_win_even_when_they_equal_a_default(tmp_path) -> None:
    args = ScissorhandsConfig(
        output_dir=str(tmp_path), recipe="cifar10-random-10", learning_rate=5e-5, num_train_epochs=3.0, projection_margin=0.0
    )
    assert (args.learning_rate, args.num_train_epochs, args.projection_margin) == (5e-5, 3.0, 0.0)
    assert args.trim_ratio == 0.03


def test_without_a_recipe_training_arguments_keep_their_defaults(tmp_path) -> None:
    stock, ours = TrainingArguments(output_dir=str(tmp_path)), ScissorhandsConfig(output_dir=str(tmp_path))
    for name in (
        "learning_rate",
        "num_train_epochs",
        "optim",
        "weight_decay",
        "lr_scheduler_type",
        "max_grad_norm",
        "adam_beta1",
    ):
        assert getattr(ours, name) == getattr(stock, name), name
    assert ours.per_device_forget_batch_size == ours.per_device_train_batch_size == 8


def test_unknown_recipe_lists_the_names() -> None:
    with pytest.raises(ValueError, match=r"recipe='cifar10-random'.*Did you mean 'cifar10-random-\d0'.*svhn-class"):
        ScissorhandsConfig(output_dir="x", recipe="cifar10-random")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("trim_ratio", 1.0),
        ("trim_ratio", -0.1),
        ("trim_ratio", math.nan),
        ("forget_weight", -0.01),
        ("forget_weight", math.inf),
        ("saliency_batches", 0),
        ("memory_batches", 0),
        ("projection_every", 0),
        ("projection_margin", -1.0),
        ("projection_epsilon", 0.0),
        ("per_device_forget_batch_size", 0),
        ("forget_loss_ceiling", 0.0),
        ("divergence_factor", 1.0),
        ("threshold_scope", "everything"),
        ("forget_objective", "descent"),
        ("forget_schedule", "twice"),
        ("projection_margin_unit", "percent"),
    ],
)
def test_values_out_of_range_are_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name}={value!r} "):
        ScissorhandsConfig(output_dir="x", **{name: value})


def test_command_line_and_file() -> None:
    parser = HfArgumentParser(ScissorhandsConfig)
    line = "--output_dir x --recipe svhn-class --trim_ratio 0.2 --reinit_target_modules classifier layer4 --projection false"
    (args,) = parser.parse_args_into_dataclasses(line.split())
    assert (args.trim_ratio, args.forget_weight, args.projection) == (0.2, 0.1, False)
    assert args.reinit_target_modules == ["classifier", "layer4"]
    (args,) = parser.parse_dict({"output_dir": "x", "reinit_target_modules": "classifier", "num_train_epochs": 4})
    assert (args.reinit_target_modules, args.num_train_epochs) == (["classifier"], 4)


def test_every_field_of_ours_has_help_and_a_docstring_line() -> None:
    own = {
        name: field
        for name, field in ScissorhandsConfig.__dataclass_fields__.items()
        if name in ScissorhandsConfig.__annotations__
    }
    assert len(own) > 15
    stock = TrainingArguments.__dataclass_fields__
    for name, field in own.items():
        assert field.metadata["help"], name
        assert name in stock or f"{name} (`" in ScissorhandsConfig.__doc__, name
