"""The settings of a concept's erasure with their defaults, apart from `TrainingArguments`, readable without torch."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from ..trainer.field_checks import require, require_choices, require_count, require_not_negative


# What a name can mean, in the words of `erase_concept(…, concept_type=…)`.
CONCEPT_TYPES = ("object", "style", "attribute", "person")


@dataclass
class ErasureSettings:
    r"""
    What pictures and targets Scissorhands is applied to when a concept is erased. `max_steps` is the length of repair; the
    noisy examples are divided over `num_train_epochs`, at the start of each of which the gradient memories are renewed.

    Args:
        pictures_per_concept (`int`, *optional*):
            Pictures that the pipeline draws of each concept; with `forget_images` given, none are drawn. Default: 64, and of
            more than 16 concepts as many as make 1,024 in all, ≥ 4.
        retain_pictures (`int`, *optional*, defaults to 128):
            Pictures that it draws of what is to be kept; with `retain_images` given, none are drawn.
        picture_guidance (`float`, *optional*, defaults to 2):
            Guidance scale, ≥ 0, of the pictures drawn to learn from; a lower one of the pipeline's or the user's wins. Little
            guidance draws varied pictures, which are nearer to real ones.
        retain_objective (`str`, *optional*, defaults to `"distillation"`):
            `"distillation"`: predict on retain pictures what the frozen original predicts. `"data"`: the denoising loss, as in
            the reference.
        ascent_limit (`float`, *optional*):
            Of the objective `"ascent"`: how many times the original's denoising loss on the concept's pictures the model's may
            become, > 1, in the mean of a batch; leave `forget_loss_ceiling` out then. Default: up to `forget_loss_ceiling`.
        negative_guidance_strength (`float`, *optional*, defaults to 1):
            η ≥ 0 of the objective `"negative_guidance"` (ESD, arXiv:2303.07345).
        closed_form_overshoot (`float`, *optional*, defaults to 1):
            α ≥ 0 of the objective `"closed_form"`: how far beyond the anchor's answers the text layers' new answers lie, in
            units of the distance between the concept's and the anchor's. 0: the anchor's answers (UCE, arXiv:2308.14761), which
            are relearned soon; much more than 1: pictures of the concept's prompts become noise.
        closed_form_keep_weight (`float`, *optional*, defaults to 20):
            κ ≥ 0: weight of the prompts to keep against those to edit. Of a tokenizer of more than 2,000 tokens: 80.
        closed_form_captions (`int`, *optional*, defaults to 0):
            How many captions, ≥ 0, are kept beside everyday things and looks: words by chance from the tokenizer's vocabulary,
            of whatever language it is, and of up to half of them the captions of `retain_images`. Of a tokenizer of more than
            2,000 tokens, which no list of words covers: 2000.
        closed_form_ridge (`float`, *optional*, defaults to 1e-4):
            λ > 0, in units of the inputs' mean square: holds what no prompt asks for. Of a tokenizer of more than 2,000 tokens:
            0.01.
        removal_target (`str`, *optional*, defaults to `"neighbours"`):
            Of the objective `"removal"`: what noisy pictures of the concept are to be taken for, as surely as they show it.
            `"neighbours"`: what is nearest to it, see `neighbours`. `"bayes"`: what Bayes' rule leaves of the original without
            words when its words are taken away, which is also done where no neighbours are known.
        removal_cap (`float`, *optional*, defaults to 3):
            Of `"bayes"`: the most that the strength η = γ/(1 − γ) of the negative guidance may be, ≥ 0.
        removal_strength (`float`, *optional*):
            Of `"neighbours"`: how far pictures are led from the concept to these and beyond, ≥ 0, where the model is sure that
            they show it; 1 for what is nearest itself. Default: 3. Of `"bayes"`: a constant η ≥ 0, as in ESD. Default: by
            how sure the model is of the concept, picture by picture.
        removal_least_noise (`float`, *optional*, defaults to 0.25):
            Of the objective `"removal"`: share of the noising time, in [0, 1), below which there are no forget examples. Words
            say nothing of pictures with so little noise: a target that is made of them would only repeat there what the
            denoiser knows of the concept's details.
        empty_prompt_share (`float`, *optional*):
            Share of the noisy forget examples, in [0, 1], that are asked for without words. Default: 0.25 of the objective
            `"removal"`, which asks for as many of the retain examples so, else 0.
        neighbours (`int`, *optional*):
            How many of the everyday things or looks that are nearest the concept to the model the objective `"removal"` takes
            its pictures for, ≥ 0. Half of the kept pictures are of twice as many, the nearer the more, and of those in `keep`.
            Default: 4 of that objective, else 0.
        adversarial_states (`int`, *optional*, defaults to 4):
            Of the objective `"removal"`: text states, ≥ 0, that are made to bring the concept back, and under which some of the
            forget examples are then asked for.
        adversarial_share (`float`, *optional*, defaults to 0.25):
            Share of them, in [0, 1]. More withstands free text states better and costs more of what is kept.
        adversarial_every (`int`, *optional*, defaults to 20):
            They are renewed at every n-th step of repair.
        adversarial_steps (`int`, *optional*, defaults to 8):
            Of Adam, at each renewal.
        redirect_teacher (`str`, *optional*, defaults to `"frozen"`):
            Whose prediction for the anchor's prompt the objective `"redirect"` follows: the frozen original's, or that of the
            model in training (`"live"`, as in the reference).
        sensitivity_guidance (`float`, *optional*, defaults to 0):
            Guidance scale of the prediction whose denoising loss the connection sensitivity is measured on; 0: the plain
            conditional prediction.
        damage_limit (`float`, *optional*, defaults to 0.05):
            Share, > 0, by which the denoising loss of kept prompts may rise; beyond it the run warns, and steps that exceed it
            are not chosen when others do not.
        evaluations (`int`, *optional*, defaults to 4):
            How often in a run the trade-off between forgetting and damage is measured; the best step's weights are kept.
        evaluation_examples (`int`, *optional*, defaults to 128):
            Held-out noisy pictures of the concept, and as many of what is kept, that each measurement is made on.
        patience (`int`, *optional*):
            Stop when that many measurements in a row bring nothing better. Default: never.
        max_steps (`int`, *optional*, defaults to 150):
            Optimizer steps of repair. 0: the closed-form edit alone, in the pipeline's own dtype, without pictures to learn
            from.
        repair_adapter (`int` or `peft.LoraConfig`, *optional*):
            Repair trains a low-rank adapter (LoRA) of this rank over the frozen denoiser, instead of its weights, and merges it
            at the end: the result is plain weights again. Of a rank, it lies over the linear and convolutional layers that
            `trainable_target_modules` names, by default those of attention. Needs PEFT. Default: none; where the objective
            "removal" changes a denoiser of more than 50M weights, 16 over all such layers, unless `trainable_target_modules`
            says which weights are trained themselves.
    """

    pictures_per_concept: int | None = field(
        default=None, metadata={"help": "Pictures drawn of each concept. Default: 64, fewer of more than 16 concepts."}
    )
    retain_pictures: int = field(default=128, metadata={"help": "Pictures that it draws of what is to be kept."})
    picture_guidance: float = field(default=2.0, metadata={"help": "Guidance scale of the pictures to learn from."})
    retain_objective: str = field(
        default="distillation",
        metadata={"help": "'distillation' from the original, or 'data'.", "choices": ("distillation", "data")},
    )
    ascent_limit: float | None = field(
        default=None, metadata={"help": "Of 'ascent': how many times the original's loss the forget loss may become, > 1."}
    )
    negative_guidance_strength: float = field(default=1.0, metadata={"help": "η >= 0 of 'negative_guidance'."})
    closed_form_overshoot: float = field(default=1.0, metadata={"help": "α >= 0 of 'closed_form'."})
    closed_form_keep_weight: float = field(default=20.0, metadata={"help": "κ >= 0, weight of what is kept."})
    closed_form_captions: int = field(default=0, metadata={"help": "Captions >= 0 from the vocabulary that are kept."})
    closed_form_ridge: float = field(default=1e-4, metadata={"help": "λ > 0, holds what no prompt asks for."})
    removal_target: str = field(
        default="neighbours",
        metadata={"help": "What 'removal' takes the concept's pictures for.", "choices": ("neighbours", "bayes")},
    )
    removal_cap: float = field(default=3.0, metadata={"help": "The most that η of 'removal' may be, >= 0."})
    removal_strength: float | None = field(
        default=None, metadata={"help": "How far 'removal' leads from the concept, >= 0. Default: 3; of 'bayes' by its γ."}
    )
    removal_least_noise: float = field(
        default=0.25, metadata={"help": "Of 'removal': share of the noising time below which it has no forget examples."}
    )
    empty_prompt_share: float | None = field(
        default=None, metadata={"help": "Share of examples without words. Default: 0.25 of 'removal', else 0."}
    )
    neighbours: int | None = field(
        default=None,
        metadata={"help": "Nearest things, half of what is kept, and targets of 'removal'. Default: 4 of 'removal', else 0."},
    )
    adversarial_states: int = field(default=4, metadata={"help": "Of 'removal': text states that bring the concept back."})
    adversarial_share: float = field(
        default=0.25, metadata={"help": "Of 'removal': share of forget examples asked for under these states."}
    )
    adversarial_every: int = field(default=20, metadata={"help": "Renew them at every n-th step."})
    adversarial_steps: int = field(default=8, metadata={"help": "Steps of Adam at each renewal."})
    redirect_teacher: str = field(
        default="frozen",
        metadata={"help": "Whom 'redirect' follows: 'frozen' or 'live'.", "choices": ("frozen", "live")},
    )
    sensitivity_guidance: float = field(default=0.0, metadata={"help": "Guidance scale of the sensitivity; 0: none."})
    damage_limit: float = field(default=0.05, metadata={"help": "Share by which the kept loss may rise, > 0."})
    evaluations: int = field(default=4, metadata={"help": "Measurements of the trade-off in a run."})
    evaluation_examples: int = field(default=128, metadata={"help": "Noisy pictures of each set in a measurement."})
    patience: int | None = field(default=None, metadata={"help": "Stop after that many measurements without gain."})
    max_steps: int = field(default=150, metadata={"help": "Optimizer steps of repair; 0: the closed-form edit alone."})
    repair_adapter: int | None = field(
        default=None, metadata={"help": "Rank of a low-rank adapter that repair trains instead of the weights."}
    )

    def erasure_settings(self) -> dict[str, Any]:
        """The values of the fields of this class alone, by name."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(ErasureSettings)}
        if hasattr(self.repair_adapter, "to_dict"):  # a configuration of PEFT's: what in it is not the default
            default, given = type(self.repair_adapter)().to_dict(), self.repair_adapter.to_dict()
            chosen = {key: value for key, value in given.items() if value != default.get(key)}
            values["repair_adapter"] = {k: sorted(v) if isinstance(v, set) else v for k, v in chosen.items()}
        return values

    def check_erasure_settings(self) -> None:
        """Raise ValueError, naming the field and its value, for the first choice or number that is out of range."""
        require_choices(self, ErasureSettings)
        require_count(self, "retain_pictures", "evaluations", "evaluation_examples", "adversarial_every", "adversarial_steps")
        if self.max_steps:
            require_count(self, "max_steps")
        if self.pictures_per_concept is not None:
            require_count(self, "pictures_per_concept")
        require_not_negative(
            self,
            "negative_guidance_strength",
            "sensitivity_guidance",
            "picture_guidance",
            "closed_form_overshoot",
            "closed_form_keep_weight",
            "closed_form_captions",
            "removal_cap",
            "adversarial_states",
        )
        limit, ceiling = self.ascent_limit, self.forget_loss_ceiling
        require(self, "ascent_limit", limit is None or 1 < limit < math.inf, "must be a number > 1, as 2.0, or None")
        once = f"and forget_loss_ceiling={ceiling} say the same; leave one of them out (one that a recipe gives: None)"
        require(self, "ascent_limit", limit is None or ceiling is None, once)
        if self.neighbours is not None:
            require_not_negative(self, "neighbours")
        if self.removal_strength is not None:
            require_not_negative(self, "removal_strength")
        require(self, "removal_least_noise", 0 <= self.removal_least_noise < 1, "must lie in [0, 1), as 0.25")
        share = self.empty_prompt_share
        require(self, "empty_prompt_share", share is None or 0 <= share <= 1, "must lie in [0, 1], as 0.25, or be None")
        require(self, "adversarial_share", 0 <= self.adversarial_share <= 1, "must lie in [0, 1], as 0.25")
        ridge, patience = self.closed_form_ridge, self.patience
        require(self, "closed_form_ridge", math.isfinite(ridge) and ridge > 0, "must be a number > 0")
        require(self, "damage_limit", self.damage_limit > 0, "must be > 0, as 0.05")
        adapter = self.repair_adapter
        if isinstance(adapter, int):
            require(self, "repair_adapter", adapter >= 1, "must be a rank >= 1, a peft.LoraConfig, or None")
        require(self, "repair_adapter", adapter is None or self.max_steps > 0, "needs max_steps > 0: repair trains it")
        require(self, "patience", patience is None or patience >= 1, "must be a whole number >= 1, or None")
        allowed = self.max_steps == 0 or self.evaluations <= self.max_steps
        require(self, "evaluations", allowed, f"exceeds max_steps={self.max_steps}")
