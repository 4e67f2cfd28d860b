"""`ConceptErasureConfig`: the settings of a concept's erasure, those of every Scissorhands run among them."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..trainer.forget_choice import ASCENT, PIPELINE_OBJECTIVES
from ..trainer.recipes import ERASURE_DOOR, apply_recipe
from ..trainer.scissorhands_config import ScissorhandsConfig
from .erasure_settings import ErasureSettings


# Follow from max_steps and evaluations. The last step is always measured: it is the one with the smallest learning rate.
_SCHEDULE = {
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "save_only_model": True,
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "eval_tradeoff",
    "greater_is_better": False,
}


@dataclass
class ConceptErasureConfig(ErasureSettings, ScissorhandsConfig):
    r"""
    Settings of `erase_concept`: all of [`ErasureSettings`] and [`ScissorhandsConfig`], and the following. When the trade-off is
    measured and the best step's weights are kept (`eval_*`, `save_*`, `load_best_model_at_end` of
    [`~transformers.TrainingArguments`]) follows from `max_steps` and `evaluations`.

    Args:
        forget_objective (`str`, *optional*, defaults to `"ascent"`):
            `"ascent"`, `"redirect"`, `"negative_guidance"`, `"closed_form"` or `"removal"`, of which the last two are
            `erase_concept`'s defaults, see its `recipe`.
        logging_steps (`float`, *optional*):
            As in `TrainingArguments`. Default: a fortieth of `max_steps`.
        per_device_eval_batch_size (`int`, *optional*):
            As in `TrainingArguments`. Default: 32, and fewer of pictures whose latents are large.

    Raises:
        ValueError: an unknown recipe or choice, or a value outside its range; raised at construction.
    """

    door: ClassVar[str] = ERASURE_DOOR

    logging_steps: float | None = field(
        default=None, metadata={"help": "Log every X updates steps. Default: a fortieth of max_steps."}
    )
    per_device_eval_batch_size: int | None = field(
        default=None, metadata={"help": "Noisy examples per device in a measurement. Default: 32, fewer large ones."}
    )
    forget_objective: str = field(
        default=ASCENT,
        metadata={
            "help": "What is minimised on pictures of the concept: 'ascent', 'redirect', 'removal', …",
            "choices": (ASCENT, *PIPELINE_OBJECTIVES),
        },
    )
    # A batch holds noise, timesteps and prompts, which are no arguments of the denoiser.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Not for pipelines."})

    def __post_init__(self):
        given = self.__dict__.pop("_given", set())
        for name in (*_SCHEDULE, "eval_steps", "save_steps"):
            if name in given:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} cannot be set: max_steps and evaluations say when the trade-off is "
                    "measured and the best step kept"
                )
        apply_recipe(self, given)  # the schedule depends on it; once done, it is not done again
        self.check_erasure_settings()
        for name, value in _SCHEDULE.items():
            setattr(self, name, value)
        self.eval_steps = self.save_steps = max(1, self.max_steps // self.evaluations)
        if self.logging_steps is None:
            self.logging_steps = max(1, self.max_steps // 40)
        super().__post_init__()

    def method_settings(self, objective: str = ASCENT) -> dict[str, Any]:
        """The effective values of the method's fields, JSON-ready."""
        return {**super().method_settings(objective), **self.erasure_settings()}
