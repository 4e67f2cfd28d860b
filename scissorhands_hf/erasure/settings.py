"""From the arguments of `erase_concept` to settings: defaults by the size of the denoiser, and what cannot be combined."""

import dataclasses
import importlib.util
import inspect
import logging
from typing import Any

from ..trainer.checks import check_arguments, check_optimizer
from ..trainer.recipes import ERASURE_DOOR, get_recipe
from .erasure_config import ConceptErasureConfig
from .families import Family
from .objectives import OBJECTIVES, RETAIN_OBJECTIVES


logger = logging.getLogger(__name__)

WORDS_RECIPE, COMPOUND_RECIPE, REMOVAL_RECIPE = "concept", "compound", "removal"
SMALL_CLASS_RECIPE, SMALL_RECIPES = "small-diffusion-class", ("small-diffusion-class", "small-diffusion-nudity")
WITH_ANCHOR = ("redirect", "closed_form")
# Above this many weights a denoiser is a foundation model: ESD's learning rate and small batches, instead of the values
# measured on the pipeline in spaces_demo (1.2M weights); and of its weights those that read text and may be trimmed.
LARGE_DENOISER = 50_000_000
_LARGE = {
    "learning_rate": 1e-5,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 4,
    "optim": "adamw_torch_fused",
}
# Of adapters, whose first step is from nothing: as is usual for LoRA. No large denoiser was measured.
_ADAPTER_RATE = 1e-4
_LARGE_REMOVAL = {**_LARGE, "per_device_forget_batch_size": 1}
# What removal trains of a large denoiser, where nothing else is named: on the pipeline in spaces_demo that did what all weights
# do, and weights that read text did not.
_REMOVAL_ADAPTER, _ALL_LAYERS = 16, ["*"]
# A tokenizer of more tokens knows words that no list of ours names. Answers to captions of them are kept as well, at the cost
# of some of the overshoot: both measured with `benchmarks/vocabulary.py`.
LARGE_VOCABULARY = 2000
VOCABULARY_SETTINGS = {"closed_form_captions": 2000, "closed_form_keep_weight": 80.0, "closed_form_ridge": 1e-2}
# Of the objective "removal", where they are left open.
NEIGHBOURS_OF_REMOVAL, EMPTY_SHARE_OF_REMOVAL = 4, 0.25
# Settings by the objective that alone reads them: these, and those that begin so.
_OF_ONE_OBJECTIVE = {
    "ascent": ("ascent_limit",),
    "negative_guidance": ("negative_guidance_strength",),
    "redirect": ("redirect_teacher",),
    "closed_form": ("closed_form_",),
    "removal": ("removal_", "adversarial_"),
}
# Set by erase_concept itself.
_RESERVED = {
    "output_dir": "checkpoints of a run are temporary; save the result with pipe.save_pretrained(folder)",
    "fp16": "denoisers in float16 are trained in float32 and returned to float16",
    "push_to_hub": "push the pipeline afterwards with pipe.push_to_hub(repo_id)",
    "resume_from_checkpoint": "a run that ends early leaves the original weights; start it again",
    "load_best_model_at_end": "the best step is always kept; see evaluations and damage_limit",
    "remove_unused_columns": "the columns are those that erase_concept makes",
    "torch_compile": "compile the pipeline after erasing",
    "gradient_checkpointing_kwargs": "denoisers of diffusers take none; see gradient_checkpointing",
    "activation_checkpointing_kwargs": "denoisers of diffusers take none; see activation_checkpointing",
}
_MOST_STEPS = 25  # of the sampler, for pictures to learn from


def build_config(
    family: Family, recipe: str | None, anchor: str | None, values: dict[str, Any], compound: bool = False, look: bool = False
) -> ConceptErasureConfig:
    """
    The settings of a run, by default those of [`default_recipe`].

    Raises:
        TypeError: an argument that no field has.
        ValueError: an argument that erase_concept sets itself, a combination that contradicts itself, or what cannot work here.
        ImportError: the optimizer's package is missing.
    """
    known = {f.name for f in dataclasses.fields(ConceptErasureConfig)}
    for name, value in values.items():
        if name in _RESERVED:
            raise ValueError(f"{name}={value!r} cannot be set here: {_RESERVED[name]}")
        if name not in known:
            raise TypeError(f"erase_concept got an unknown argument {name!r}; see ConceptErasureConfig for those there are")
    said, values = values, dict(values)
    weights = weights_of(family)
    values["recipe"] = recipe or default_recipe(weights, anchor, values, compound, look)
    objective = values.get("forget_objective")
    if anchor is not None:
        chosen = objective or get_recipe(values["recipe"], ERASURE_DOOR).get("forget_objective")
        if objective not in (None, *WITH_ANCHOR) or chosen == "removal":
            raise ValueError(f"forget_objective={chosen!r} does not use anchor={anchor!r}; leave one of them out")
        values["forget_objective"] = chosen if chosen in WITH_ANCHOR else "redirect"
    large = recipe in (None, REMOVAL_RECIPE) and weights > LARGE_DENOISER
    if large:
        removal = (objective or get_recipe(values["recipe"], ERASURE_DOOR)["forget_objective"]) == "removal"
        if removal:
            values = _with_removal_adapter(values)
        rate = {"learning_rate": _ADAPTER_RATE} if values.get("repair_adapter") is not None else {}
        values = {**(_LARGE_REMOVAL if removal else _LARGE), **rate, **values}
    if len(family.tokenizer) > LARGE_VOCABULARY:
        values = {**VOCABULARY_SETTINGS, **values}
    values.setdefault("report_to", "none")
    values.setdefault("use_cpu", family.device.type == "cpu")
    args = ConceptErasureConfig(output_dir="unused", **values)
    _check_all_is_read(said, args, refused=("removal",) if compound or anchor is not None else ())
    removes = args.forget_objective == "removal"
    if args.neighbours is None:
        args.neighbours = NEIGHBOURS_OF_REMOVAL if removes else 0
    if args.empty_prompt_share is None:
        args.empty_prompt_share = EMPTY_SHARE_OF_REMOVAL if removes else 0.0
    if args.reinit_target_modules is None and args.trim_ratio:
        args.reinit_target_modules = list(family.reinit_patterns)
    given = "trainable_target_modules" in values or args.repair_adapter is not None
    if large and args.forget_objective != "removal" and not given:
        args.trainable_target_modules = [*family.text_patterns, *(args.reinit_target_modules or ())]
    if compound and args.forget_objective == "removal":
        # "red dress" took dresses and all that is red with it on the pipeline in spaces_demo.
        chosen = f"recipe={recipe!r}" if recipe == REMOVAL_RECIPE else f"forget_objective={args.forget_objective!r}"
        raise ValueError(
            f"{chosen} is for concepts of one word, styles and persons: with a compound goes what its words stand for. Leave "
            "it out (compounds have a recipe of their own), or say concept_type='style' or 'person' if it is one."
        )
    if compound and recipe == SMALL_CLASS_RECIPE:
        # "red dress" was still drawn in 17 of 20 pictures on the pipeline in spaces_demo, seed 1, and nothing in the run told.
        raise ValueError(
            f"recipe={recipe!r} is for concepts of one word, styles and persons: a compound it hardly forgets. Leave it out "
            "(compounds have a recipe of their own), or say concept_type='style' or 'person' if it is one."
        )
    if args.max_steps == 0 and (args.forget_objective != "closed_form" or args.trim_ratio):
        raise ValueError(
            f"max_steps=0 leaves the closed-form edit alone, and forget_objective={args.forget_objective!r} with "
            f"trim_ratio={args.trim_ratio:g} needs repair. Give max_steps, or forget_objective='closed_form' and trim_ratio=0."
        )
    check_arguments(args, OBJECTIVES, RETAIN_OBJECTIVES)
    check_optimizer(args, family.denoiser)
    return args


def default_recipe(weights: int, anchor: str | None, values: dict[str, Any], compound: bool, look: bool) -> str:
    """
    The recipe of a call that names none: removal, where it was measured and nothing in the call asks for something else.

    Args:
        weights (`int`):
            Of the denoiser. Of a large one removal was not measured.
        anchor (`str`, *optional*):
            Removal has none.
        values (`dict[str, Any]`):
            The settings of the call.
        compound (`bool`):
            Whether one of the concepts has several words.
        look (`bool`):
            Whether one is a style or an attribute. On the pipeline in `spaces_demo` removal of "red" took orange and green.
    """
    if compound:
        return COMPOUND_RECIPE
    if values.get("forget_objective", "removal") != "removal":
        return WORDS_RECIPE
    of_the_edit = any(name.startswith("closed_form_") for name in values)
    asks_for_edit = anchor is not None or of_the_edit or values.get("max_steps") == 0
    suits = (weights <= LARGE_DENOISER and not look) or "forget_objective" in values
    return REMOVAL_RECIPE if suits and not asks_for_edit else WORDS_RECIPE


def what_is_avoided(objective: str, compound: bool, look: bool, weights: int) -> list[str]:
    """
    A note, for the log and the report, where a concept's words are led elsewhere and the denoiser keeps what it knows.

    Args:
        objective (`str`):
            The `forget_objective` of the run.
        compound (`bool`):
            Whether one of the concepts has several words.
        look (`bool`):
            Whether one is a style or an attribute.
        weights (`int`):
            Of the denoiser.
    """
    if objective != "closed_form":
        return []
    further = "recipe='removal' takes it out of the denoiser"
    if compound:
        further = "recipe='removal', which takes it out of the denoiser, is for concepts of one word"
    elif look:
        further += ", but other looks with it"
    elif weights > LARGE_DENOISER:
        further += f", and was not measured on one of {weights:,} weights"
    return [
        "Words are led elsewhere: layers that read prompts answer the concept's as something else. What the denoiser knows of "
        f"pictures stays, and a learned word brings it back; {further}."
    ]


def _check_all_is_read(said: dict[str, Any], args: ConceptErasureConfig, refused: tuple[str, ...]) -> None:
    """What belongs to one objective and is said with another would have no effect. (What a recipe gives may be of another.)
    Objectives that are `refused` to the call are no way out."""
    objective = args.forget_objective
    for owner, beginnings in _OF_ONE_OBJECTIVE.items():
        for name, value in said.items():
            if owner != objective and value is not None and name.startswith(beginnings):
                way_out = "Leave it out" + ("." if owner in refused else f", or give forget_objective={owner!r}.")
                raise ValueError(
                    f"{name}={value!r} is of forget_objective={owner!r}, and that of this run is {objective!r} "
                    f"(recipe={args.recipe!r}). {way_out}"
                )


def _with_removal_adapter(values: dict[str, Any]) -> dict[str, Any]:
    """The adapter by which removal changes a large denoiser, unless an adapter, none or weights are named; of one that is named
    by its rank, the layers.

    Raises:
        ImportError: PEFT is missing.
    """
    named = "repair_adapter" in values or "trainable_target_modules" in values
    if not named and values.get("max_steps") != 0:  # which is refused
        if importlib.util.find_spec("peft") is None:
            raise ImportError(
                f"removal from a denoiser of this size trains an adapter, repair_adapter={_REMOVAL_ADAPTER}, and that needs "
                "PEFT: pip install 'scissorhands_hf[peft]'. trainable_target_modules=['*'] trains all weights instead, in "
                "several times as much memory."
            )
        values = {**values, "repair_adapter": _REMOVAL_ADAPTER}
    if isinstance(values.get("repair_adapter"), int):
        values = {"trainable_target_modules": list(_ALL_LAYERS), **values}
    return values


def warn_of_size(family: Family, recipe: str | None, learning_rate: float) -> list[str]:
    """A warning, for the log and the report, where a small denoiser's recipe is given for a large one."""
    weights = weights_of(family)
    if recipe not in SMALL_RECIPES or weights <= LARGE_DENOISER:
        return []
    warning = (
        f"recipe={recipe!r} was sized for a denoiser of about a million weights, and this one has {weights:,}: a "
        f"learning rate of {learning_rate:g} may ruin it. See recipe='removal', or 'stable-diffusion-…' for the paper's own."
    )
    logger.warning("%s", warning)
    return [warning]


def wants_checkpointing(family: Family, values: dict[str, Any]) -> bool | None:
    """
    Whether activations of the denoiser are to be computed again in the backward pass instead of kept. Denoisers have a switch
    of their own for that, which Trainer does not know, so the argument is taken out of `values`.

    Returns:
        As the user says; else True for a large denoiser, and None, to leave its switch as it is, for a small one.
    """
    said = [values.pop(name) for name in ("gradient_checkpointing", "activation_checkpointing") if name in values]
    said = [bool(value) for value in said if value is not None]
    if said:
        return any(said)
    return True if weights_of(family) > LARGE_DENOISER else None


def weights_of(family: Family) -> int:
    """How many weights the denoiser has."""
    return sum(parameter.numel() for parameter in family.denoiser.parameters())


def default_sampling(pipe: Any, sampling: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of the pipeline's call for pictures: the user's, its own defaults, and no more than 25 steps.

    Raises:
        TypeError: an argument that the pipeline's call does not have.
    """
    parameters = inspect.signature(type(pipe).__call__).parameters
    chosen = dict(sampling or {})
    # Some calls take any keyword, for arguments of the past; a misspelt one would vanish there.
    unknown = [name for name in chosen if name not in parameters]
    if unknown:
        raise TypeError(f"sampling holds {unknown}, which the call of {type(pipe).__name__} does not take")
    for name in ("num_inference_steps", "guidance_scale"):
        default = parameters[name].default if name in parameters else None
        if name not in chosen and isinstance(default, int | float):
            chosen[name] = min(default, _MOST_STEPS) if name == "num_inference_steps" else default
    return chosen
