"""Recipes and arguments: what wins, what is refused, and that all of it can be written on a command line or in a file."""

import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys

import pytest
from transformers import HfArgumentParser, TrainingArguments

from scissorhands_hf import RECIPES, ConceptErasureConfig, ScissorhandsConfig, ScissorhandsTrainer
from scissorhands_hf.erasure import ErasureSettings
from scissorhands_hf.trainer import UnlearningSettings
from scissorhands_hf.trainer.recipes import recipes_of


DOORS = (ScissorhandsConfig, ConceptErasureConfig)


def of_its_door(name: str) -> type[ScissorhandsConfig]:
    (door,) = [config for config in DOORS if name in recipes_of(config.door)]
    return door


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
    args = of_its_door(name)(output_dir=str(tmp_path), recipe=name)
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
        args = of_its_door(name)(output_dir=str(tmp_path), recipe=name)
        settings = json.loads(json.dumps(args.method_settings()))
        assert settings["recipe"] == name
        assert RECIPES[name].items() <= settings.items()
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
    assert ours.forget_batch_size == ours.per_device_train_batch_size == 8
    assert ours.method_settings()["per_device_forget_batch_size"] == 8


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


def test_the_defaults_stand_in_the_fields(tmp_path) -> None:
    """Nothing is filled in later: what the class of settings says is what a run without a recipe has."""
    for config, settings in zip(DOORS, (UnlearningSettings, ErasureSettings), strict=True):
        built = config(output_dir=str(tmp_path))
        for item in dataclasses.fields(settings):
            assert getattr(built, item.name) == item.default, item.name


def test_every_field_of_ours_has_help_and_a_docstring_line() -> None:
    for config in (UnlearningSettings, ErasureSettings, *DOORS):
        for name in config.__annotations__.keys() - {"door", "remove_unused_columns"}:
            assert config.__dataclass_fields__[name].metadata["help"], name
            assert f"{name} (`" in config.__doc__, name


def test_settings_are_read_without_any_heavy_library() -> None:
    modules = ("trainer.unlearning_settings", "erasure.erasure_settings", "report.card_options", "trainer.recipes")
    code = "import sys\n" + "".join(f"import scissorhands_hf.{name}\n" for name in modules)
    code += "print(*sorted({'torch', 'transformers', 'diffusers', 'datasets', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""


def test_positional_arguments_are_those_of_training_arguments(tmp_path) -> None:
    stock = [item.name for item in dataclasses.fields(TrainingArguments) if item.init]
    for config in DOORS:
        assert [item.name for item in dataclasses.fields(config) if item.init][: len(stock)] == stock
    assert stock[:2] == ["output_dir", "per_device_train_batch_size"]
    args = ScissorhandsConfig(str(tmp_path), 8, recipe="svhn-class")
    assert args.per_device_train_batch_size == 8  # given, though it is the default
    assert args.learning_rate == 1e-3


def test_from_recipe(tmp_path) -> None:
    args = ScissorhandsConfig.from_recipe("svhn-class", output_dir=str(tmp_path), forget_weight=0.05, trim_ratio=0.2)
    assert (args.recipe, args.forget_weight, args.trim_ratio, args.learning_rate) == ("svhn-class", 0.05, 0.2, 1e-3)
    assert (
        args.method_settings()
        == ScissorhandsConfig(str(tmp_path), recipe="svhn-class", forget_weight=0.05, trim_ratio=0.2).method_settings()
    )
    erasure = ConceptErasureConfig.from_recipe("concept", output_dir=str(tmp_path), max_steps=40)
    assert isinstance(erasure, ConceptErasureConfig)
    assert (erasure.forget_objective, erasure.max_steps) == ("closed_form", 40)


def test_what_the_recipe_filled_in_is_visible(tmp_path) -> None:
    args = ScissorhandsConfig(str(tmp_path), recipe="svhn-class", trim_ratio=0.03, learning_rate=1e-3)
    filled = {name: value for name, value in RECIPES["svhn-class"].items() if name not in ("trim_ratio", "learning_rate")}
    # The recipe's projection is the default's own.
    assert args.applied_recipe == {"recipe": "svhn-class", **filled}
    assert args.to_dict()["applied_recipe"] == args.applied_recipe
    assert ScissorhandsConfig(str(tmp_path)).applied_recipe is None


def test_a_recipe_is_not_changed_by_the_configuration_made_from_it(tmp_path) -> None:
    args = ScissorhandsConfig(str(tmp_path), recipe="fashion-mnist-class")
    args.reinit_target_modules.append("embedder")
    again = ScissorhandsConfig(str(tmp_path), recipe="fashion-mnist-class")
    assert again.reinit_target_modules == ["resnet.encoder.stages.3", "classifier"]


@pytest.mark.parametrize(
    ("config", "recipe", "message"),
    [
        (ScissorhandsConfig, "stable-diffusion-class", r"is for erase_concept\. Those for ScissorhandsTrainer: .*svhn-class"),
        (
            ConceptErasureConfig,
            "svhn-class",
            r"is for ScissorhandsTrainer\. Those for erase_concept: compound, concept, removal, s",
        ),
        (ConceptErasureConfig, "stable-difusion-class", r"is not known\. Did you mean 'stable-diffusion-class'\?"),
    ],
)
def test_the_other_doors_recipe_is_refused_by_name(config: type, recipe: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^recipe='{recipe}' {message}"):
        config(output_dir="x", recipe=recipe)
    with pytest.raises(ValueError, match=rf"^recipe='{recipe}' {message}"):
        config.from_recipe(recipe, output_dir="x")


def test_hf_argument_parser_with_a_recipe() -> None:
    """It passes every field; those at their default count as open."""
    line = "--output_dir x --recipe cifar10-random-50 --learning_rate 0.02 --projection_margin 0.1"
    (args,) = HfArgumentParser(ScissorhandsConfig).parse_args_into_dataclasses(line.split())
    assert (args.learning_rate, args.projection_margin, args.projection_every) == (0.02, 0.1, 10)
    assert "learning_rate" not in args.applied_recipe and args.applied_recipe["projection_every"] == 10
    line = "--output_dir x --recipe concept --max_steps 20 --evaluations 2"
    (args,) = HfArgumentParser(ConceptErasureConfig).parse_args_into_dataclasses(line.split())
    assert (args.eval_steps, args.logging_steps, args.forget_objective) == (10, 1, "closed_form")
    with pytest.raises(ValueError, match="applied_recipe='svhn-class' is set by the configuration"):
        ScissorhandsConfig("x", applied_recipe="svhn-class")


def test_replace_keeps_what_a_configuration_has(tmp_path) -> None:
    explicit = ScissorhandsConfig(str(tmp_path), recipe="svhn-class", learning_rate=5e-5)  # TrainingArguments' default
    copied = dataclasses.replace(explicit, seed=3)
    assert (copied.learning_rate, copied.trim_ratio, copied.seed) == (5e-5, 0.1, 3)
    assert copied.applied_recipe == explicit.applied_recipe

    back = dataclasses.replace(explicit, trim_ratio=0.03)  # to the default, which the recipe must not undo
    assert back.trim_ratio == 0.03 and "trim_ratio" not in back.applied_recipe
    assert dataclasses.replace(explicit, recipe=None).trim_ratio == 0.1

    other = dataclasses.replace(ScissorhandsConfig(str(tmp_path), recipe="svhn-class"), recipe="celeba-identity")
    assert other.method_settings() == ScissorhandsConfig(str(tmp_path), recipe="celeba-identity").method_settings()

    erasure = dataclasses.replace(ConceptErasureConfig(str(tmp_path), recipe="concept"), max_steps=300)
    assert (erasure.eval_steps, erasure.save_steps, erasure.learning_rate) == (75, 75, 1e-4)


def test_copies_and_pickles_are_the_same(tmp_path) -> None:
    args = ScissorhandsConfig(str(tmp_path), recipe="svhn-class", learning_rate=5e-5)
    for copied in (copy.copy(args), copy.deepcopy(args), pickle.loads(pickle.dumps(args))):
        assert copied.method_settings() == args.method_settings() and copied.applied_recipe == args.applied_recipe
        assert vars(copied).keys() == vars(args).keys()


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_half_unlearned_weights_are_not_to_be_pushed(strategy: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=rf"^hub_strategy='{strategy}' would push checkpoints.*Use 'end'"):
        ScissorhandsConfig(str(tmp_path), push_to_hub=True, hub_strategy=strategy)
    assert ScissorhandsConfig(str(tmp_path), push_to_hub=True).hub_strategy == "end"
    args = ScissorhandsConfig(str(tmp_path), hub_strategy=strategy)  # has no effect without push_to_hub
    args.set_push_to_hub("me/model", strategy=strategy)
    with pytest.raises(ValueError, match=rf"^hub_strategy='{strategy}' would push"):
        ScissorhandsTrainer(args=args)


def test_an_erasures_schedule_follows_from_its_length(tmp_path) -> None:
    args = ConceptErasureConfig(str(tmp_path), max_steps=80, evaluations=4)
    assert (args.eval_strategy, args.eval_steps, args.save_strategy, args.save_steps) == ("steps", 20, "steps", 20)
    assert args.load_best_model_at_end and args.metric_for_best_model == "eval_tradeoff" and args.greater_is_better is False
    # How many noisy pictures are evaluated at once is known with their size; a number of the user's own stays.
    assert (args.logging_steps, args.per_device_eval_batch_size, args.remove_unused_columns) == (2, None, False)
    assert ConceptErasureConfig(str(tmp_path), per_device_eval_batch_size=5).per_device_eval_batch_size == 5
    assert ConceptErasureConfig(str(tmp_path), logging_steps=7).logging_steps == 7
    with pytest.raises(ValueError, match=r"^eval_steps=5 cannot be set: max_steps and evaluations say when"):
        ConceptErasureConfig(str(tmp_path), eval_steps=5)
