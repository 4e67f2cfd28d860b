"""`ScissorhandsConfig`: `transformers.TrainingArguments`, the method's settings and what a card is told, in one object."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from transformers import Seq2SeqTrainingArguments, TrainingArguments
from transformers.trainer_utils import HubStrategy

from ..report.card_options import CardOptions
from .field_checks import require, require_count
from .forget_choice import ASCENT, objective_named
from .recipes import TRAINER_DOOR, TRAINING_FIELDS, apply_recipe
from .unlearning_settings import UnlearningSettings


# What Seq2SeqTrainer alone understands.
_GENERATING = {item.name for item in dataclasses.fields(Seq2SeqTrainingArguments)} - {
    item.name for item in dataclasses.fields(TrainingArguments)
}


@dataclass
class ScissorhandsConfig(UnlearningSettings, CardOptions, TrainingArguments):
    r"""
    Settings of a [`ScissorhandsTrainer`]: all that [`~transformers.TrainingArguments`], [`UnlearningSettings`] and
    [`CardOptions`] accept, and the following. Positional arguments are those of `TrainingArguments`.

    A `recipe` fills in fields that were left open. A field is open if no argument was given for it. Where all fields are
    given at once, as `HfArgumentParser` and `dataclasses.replace` do, those at their default count as open; but `replace` of
    a built configuration keeps what the recipe had, or had not, filled in, unless it changes the recipe. What was filled in
    is in `applied_recipe`.

    Args:
        logging_steps (`float`, *optional*, defaults to 10):
            As in `TrainingArguments`, whose default is 500: runs of unlearning are short.
        hub_strategy (`str`, *optional*, defaults to `"end"`):
            As in `TrainingArguments`; with `push_to_hub=True` no other is accepted, for they push during training, when weights
            are half unlearned.
        max_length (`int`, *optional*):
            Longest text in tokens, of raw text that the trainer encodes; what is longer is cut at its end. Default: as long as
            the model's positions and its tokenizer go.
        answers_only (`bool`, *optional*, defaults to `True`):
            Of raw text that holds prompts, count the loss of answers alone; else that of all tokens.
        applied_recipe (`dict`, *optional*):
            Set by the configuration: the name of the recipe that was applied, as `"recipe"`, and the fields that it filled in.

    Raises:
        TypeError: `predict_with_generate` or another field of `Seq2SeqTrainingArguments` alone.
        ValueError: an unknown recipe or choice, or a value outside its range; raised at construction.

    Example:

    ```python
    args = ScissorhandsConfig.from_recipe("svhn-class", output_dir="out", num_train_epochs=5)
    args.applied_recipe  # {"recipe": "svhn-class", "learning_rate": 0.001, "trim_ratio": 0.1, ...}
    ```
    """

    # Whose recipes fit.
    door: ClassVar[str] = TRAINER_DOOR

    logging_steps: float = field(default=10, metadata={"help": "Log every X updates steps."})
    hub_strategy: HubStrategy | str = field(
        default="end", metadata={"help": "'end'; with the others half-unlearned weights would be pushed."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Longest text in tokens; the rest is cut off. Default: the model's context."}
    )
    answers_only: bool = field(default=True, metadata={"help": "Of text with prompts, count the loss of answers alone."})
    # A field, so that a copy by `dataclasses.replace` tells what it was made from. Typed as TrainingArguments' own dicts are.
    applied_recipe: dict | str | None = field(
        default=None, metadata={"help": "Set by the configuration: the recipe that was applied and what it filled in."}
    )

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        generating = sorted(_GENERATING & kwargs.keys())
        if generating:
            raise TypeError(
                f"{', '.join(generating)}: evaluations do not generate text, as Seq2SeqTrainer's do. compute_metrics is given "
                "the logits (or what preprocess_logits_for_metrics makes of them); to measure generated text, call "
                "trainer.model.generate after train(), and put the figures into the metrics of report = trainer.report(), "
                "which report.save(output_dir) keeps."
            )
        # Notes which arguments are given, before their defaults hide it: explicit arguments win over the recipe.
        config = super().__new__(cls)
        names = [item.name for item in dataclasses.fields(cls) if item.init]
        given = {*names[: len(args)], *kwargs}
        if given and not given.issuperset(names):  # nothing is given when a pickled configuration is loaded
            config._given = given
        return config

    @classmethod
    def from_recipe(cls, name: str, **overrides: Any) -> Self:
        """
        The settings of a recipe, with others where `overrides` says so.

        Args:
            name (`str`):
                A key of `scissorhands_hf.RECIPES`.
            overrides (*optional*):
                Any fields of this class, such as `output_dir`; they win over the recipe.

        Raises:
            ValueError: the recipe is unknown, or for the other door.
        """
        return cls(recipe=name, **overrides)

    def __post_init__(self):
        apply_recipe(self, self.__dict__.pop("_given", set()))
        for name in ("reinit_target_modules", "trainable_target_modules", "projection_target_modules", "refusal_answers"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        self.check_unlearning_settings()
        require_count(self, "per_device_train_batch_size")
        if self.max_length is not None:
            require_count(self, "max_length")
        CardOptions.__post_init__(self)
        TrainingArguments.__post_init__(self)
        self.check_hub_strategy()

    def check_hub_strategy(self) -> None:
        """Raise ValueError if checkpoints would be pushed."""
        require(
            self,
            "hub_strategy",
            not self.push_to_hub or self.hub_strategy == HubStrategy.END,
            "would push checkpoints, whose weights are half unlearned (and, with some, optimizer state and gradient memories, "
            "from which forget examples can be guessed). Use 'end' and call trainer.push_to_hub() after train()",
        )

    @property
    def forget_batch_size(self) -> int:
        """Forget examples per device and step: `per_device_forget_batch_size`, else as many as retain examples."""
        if self.per_device_forget_batch_size is None:
            return self.per_device_train_batch_size
        return self.per_device_forget_batch_size

    def method_settings(self, objective: str = ASCENT) -> dict[str, Any]:
        """
        The effective values of the method's fields and of those training fields that a recipe may set, JSON-ready.

        Args:
            objective (`str`, *optional*, defaults to `"ascent"`):
                What `forget_objective` is where it was left open; a trainer knows by its model.
        """
        values = self.unlearning_settings() | {name: getattr(self, name) for name in (*TRAINING_FIELDS, "seed")}
        values["per_device_forget_batch_size"] = self.forget_batch_size
        chosen = objective_named(self.forget_objective or objective)
        values["forget_objective"] = chosen.name
        values["forget_weight"] = chosen.weight if self.forget_weight is None else self.forget_weight
        values["objective_beta"] = chosen.beta if self.objective_beta is None else self.objective_beta
        return {name: getattr(value, "value", value) for name, value in values.items()}
