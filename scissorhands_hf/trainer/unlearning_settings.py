"""The method's own settings with their defaults, apart from `TrainingArguments`, so that they can be read without torch."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from .field_checks import require, require_choices, require_count, require_not_negative
from .forget_choice import OBJECTIVE_NAMES, names_with, objective_named


@dataclass
class UnlearningSettings:
    r"""
    What Scissorhands is told beside how to train. Symbols are those of the paper, arXiv:2401.06187.

    Args:
        recipe (`str`, *optional*):
            Name of a set of tested settings, see `scissorhands_hf.RECIPES`. Explicit arguments win over it.
        trim_ratio (`float`, *optional*):
            Share of the weights in `threshold_scope`, in [0, 1), whose connection sensitivity counts as high. Those of them
            that lie in `reinit_target_modules` are re-initialised; with 0 nothing is. Default: 0.03, and 0 for causal language
            models, in which a few hundred such weights hold the language together.
        saliency (`str`, *optional*, defaults to `"forget"`):
            `"forget"`: |θ·∇L(D_f)|, as published. `"relative"`: that divided by |θ·∇L(D_r)| on as many retain batches (plus 1 %
            of its mean in the weight's tensor), so that weights which everything needs are not cut; not in the paper.
        saliency_batches (`int`, *optional*, defaults to -1):
            Number B of forget batches over which the sensitivity is summed; -1 takes the whole forget set once.
        threshold_scope (`str`, *optional*, defaults to `"all"`):
            Which weights the threshold is taken over: `"all"` trainable weights (as the reference does), the `"reinit"` scope
            alone, or each `"tensor"` of that scope by itself.
        reinit_target_modules (`str` or `list[str]`, *optional*):
            Which weights may be re-initialised, as patterns on parameter names: a dotted part of a name
            (`"encoder.stages.3"`), a glob over the whole name (`"*.attention.*"`), or a regular expression after `"re:"`.
            Default: by architecture (last two stages of a ResNet; else the last third of the repeated blocks and the head).
        reinit_scale (`str`, *optional*, defaults to `"initial"`):
            Standard deviation of the fresh weights: `"initial"`: that of the module's initial distribution; `"own"`: that which
            the weight's tensor has now.
        trim_damage_limit (`float`, *optional*):
            Factor > 1 by which the trim may raise the retain loss, measured on 64 examples; as much of it as costs more is
            undone, the weights that harm most first, and the log and the report say how many. A hundredth of the loss of a
            model that knows nothing (ln K for K labels or tokens) is added to both losses, for twice 0.01 nats is no damage.
            Default: 1.1, but no limit (`float("inf")`) for pipelines, and with recipes whose repair wins more back.
        trainable_target_modules (`str` or `list[str]`, *optional*):
            Which weights are trained during repair; the others are frozen. Default: all that require gradients.
        projection_target_modules (`str` or `list[str]`, *optional*):
            Which gradients are remembered and projected. Default: those of all trained weights.
        forget_weight (`float`, *optional*):
            λ ≥ 0 in L(D_r) − λ·L(D_f), and of what another objective adds to L(D_r). Default: 0.05 of ascent and of the
            objectives of pipelines, 1 of the others.
        forget_objective (`str`, *optional*):
            What repair minimises beside L(D_r). Default of causal language models, unless `forget_loss_ceiling` is given or the
            loss is not their own: `"dpo"` where each forget example has another answer, else `"undial"`; of all others
            `"ascent"`, as in the paper.

            - `"ascent"`: −λ·L(D_f) up to `forget_loss_ceiling`; `"gradient_difference"`: without a ceiling (arXiv:2203.12817).
            - `"counterfactual"`: λ·L of other answers, from columns `counterfactual_X` that stand for the columns `X` of a
              forget example (`counterfactual_labels`; of a language model `counterfactual_input_ids`, too). `"idk"`: of
              `refusal_answers`.
            - Of models with logits for each labelled token: `"npo"` (arXiv:2404.05868), `"simnpo"` (arXiv:2410.07163), `"dpo"`
              (arXiv:2305.18290) of the other answer, or refusal, over the one to forget; `"undial"` (arXiv:2402.10052); `"rmu"`
              (arXiv:2403.03218), which misleads the activations that predict answers.
            - `"redirect"`, `"negative_guidance"`, `"closed_form"` and `"removal"`: of diffusion pipelines.

            A step averages `"npo"`, `"simnpo"` and `"dpo"` over its forget examples, the others over their labelled tokens.
            `"npo"`, `"dpo"`, `"undial"` and `"rmu"` compare with the original, which is asked once, before training.
        objective_beta (`float`, *optional*):
            β > 0 of `"npo"`, `"simnpo"`, `"dpo"` and `"undial"`. Default: 0.1, 4.5, 0.03 and 10.
        simnpo_gamma (`float`, *optional*, defaults to 0):
            The margin γ ≥ 0 of `"simnpo"`.
        refusal_answers (`list[str]`, *optional*):
            Answers of `"idk"`, or of `"dpo"`, in place of those to forget, as "I do not know."; examples get them in turn. Of
            language models whose prompts have the label -100, with their tokenizer as `processing_class`.
        rmu_layer (`int`, *optional*):
            The layer, from 1, whose activations `"rmu"` misleads. Default: a fraction 7/32 of the layers.
        rmu_coefficient (`float`, *optional*, defaults to 5):
            c > 0 of `"rmu"`, in units of the mean norm of the original's activations there (arXiv:2408.06223).
        retain_objective (`str`, *optional*, defaults to `"data"`):
            `"data"`: L(D_r). `"kl"`: KL divergence of the original's predictions of the retain tokens from the model's; of
            models with logits for each labelled token. `"distillation"` is of diffusion pipelines.
        reference_top_k (`int`, *optional*, defaults to 64):
            Of how many entries of the vocabulary `retain_objective="kl"` and `"undial"` keep the original's log-probabilities,
            for each labelled token (8 bytes each); the rest of the vocabulary counts as one entry, so that the divergence is a
            lower bound of that of whole vocabularies.
        forget_loss_ceiling (`float`, *optional*):
            Ascent stops where the forget loss exceeds this value: of each example, where the model has logits for each
            labelled token and the loss is its own, else of each batch. What is above adds no gradient, and a step whose mean is
            above is not projected, so nothing pushes further up. Default, of a classifier of K classes: 2·ln K, twice the loss
            of a uniform guess, where a model has long forgotten. Of any other loss: its mean on the part "unseen" or "test" of
            a dict `eval_dataset`, else a quarter above that on examples with the labels of others (or above ln K per token).
            The log and the report say which. Refused when the forget loss is above it to begin with; `float("inf")` switches
            it off.
        forget_schedule (`str`, *optional*, defaults to `"cycle"`):
            `"cycle"`: every step has a forget batch, the forget set starts over when it is used up. `"once"`: each forget
            example once per epoch (as the reference does), its batches spread evenly over the epoch's steps, and an epoch
            long enough for all of them.
        per_device_forget_batch_size (`int`, *optional*):
            Forget examples per device and step. Default: as many as retain examples (`per_device_train_batch_size`), at most
            the size of the forget set.
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
            Factor > 1. The retain loss, compared as for `trim_damage_limit`, is measured again at the end of each epoch and at
            each evaluation: the run stops with an error when it exceeds by this factor that of the model as it was given and
            the lowest since the trim, and ends with a warning, which the report repeats, when it exceeds that of the model as
            it was given.
    """

    recipe: str | None = field(default=None, metadata={"help": "Name of a set of tested settings; explicit arguments win."})
    trim_ratio: float | None = field(
        default=None,
        metadata={
            "help": "Share of weights in threshold_scope whose sensitivity counts as high, in [0, 1). Default: 0.03; of causal "
            "language models 0."
        },
    )
    saliency: str = field(
        default="forget",
        metadata={
            "help": "'forget': sensitivity to the forget set, as published; 'relative': to it rather than to the retain set.",
            "choices": ("forget", "relative"),
        },
    )
    saliency_batches: int = field(
        default=-1, metadata={"help": "Forget batches over which sensitivity is summed; -1: the whole forget set once."}
    )
    threshold_scope: str = field(
        default="all",
        metadata={
            "help": "Threshold over 'all' trainable weights, the 'reinit' scope, or each 'tensor' of it.",
            "choices": ("all", "reinit", "tensor"),
        },
    )
    reinit_target_modules: list[str] | None = field(
        default=None,
        metadata={
            "help": "Patterns (dotted part, glob, or 're:' regex) of parameters that may be re-initialised. Default: by "
            "architecture."
        },
    )
    reinit_scale: str = field(
        default="initial",
        metadata={
            "help": "Spread of fresh weights: 'initial', as when the model was made, or 'own', as the tensor has now.",
            "choices": ("initial", "own"),
        },
    )
    trim_damage_limit: float | None = field(
        default=None, metadata={"help": "Factor > 1 by which the trim may raise the retain loss; what costs more is undone."}
    )
    trainable_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Patterns of parameters that are trained; the others are frozen. Default: all."}
    )
    projection_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Patterns of parameters whose gradients are projected. Default: all trained."}
    )
    forget_weight: float | None = field(
        default=None, metadata={"help": "λ >= 0 in L(D_r) - λ L(D_f). Default: 0.05 of ascent, 1 of most other objectives."}
    )
    forget_objective: str | None = field(
        default=None,
        metadata={
            "help": "What is minimised on the forget set. Default: of causal language models 'dpo' where there are other "
            "answers, else 'undial'; of others 'ascent'. 'removal', 'closed_form', 'redirect', …: of pipelines.",
            "choices": OBJECTIVE_NAMES,
        },
    )
    objective_beta: float | None = field(
        default=None, metadata={"help": "β > 0 of npo (default 0.1), simnpo (4.5), dpo (0.03) and undial (10)."}
    )
    simnpo_gamma: float = field(default=0.0, metadata={"help": "Margin γ >= 0 of simnpo."})
    refusal_answers: list[str] | None = field(
        default=None, metadata={"help": "Answers of idk or dpo in place of those to forget, as 'I do not know.'"}
    )
    rmu_layer: int | None = field(default=None, metadata={"help": "Layer, from 1, that rmu misleads. Default: 7/32 of them."})
    rmu_coefficient: float = field(default=5.0, metadata={"help": "c > 0 of rmu, in units of the activations' mean norm."})
    retain_objective: str = field(
        default="data",
        metadata={
            "help": "'data', or 'kl' to the original's predictions; 'distillation': of pipelines.",
            "choices": ("data", "kl", "distillation"),
        },
    )
    reference_top_k: int = field(
        default=64, metadata={"help": "Entries of the vocabulary that kl and undial keep of the original, for each token."}
    )
    forget_loss_ceiling: float | None = field(
        default=None,
        metadata={"help": "Ascent stops where a forget batch's loss exceeds this. Default: 2 ln K, or measured; inf: never."},
    )
    forget_schedule: str = field(
        default="cycle",
        metadata={
            "help": "'cycle': a forget batch in every step; 'once': each forget example once per epoch.",
            "choices": ("once", "cycle"),
        },
    )
    per_device_forget_batch_size: int | None = field(
        default=None, metadata={"help": "Forget examples per device and step. Default: per_device_train_batch_size."}
    )
    projection: bool = field(default=True, metadata={"help": "Project gradients off the gradient memories."})
    projection_margin: float = field(
        default=0.0, metadata={"help": "Lower bound >= 0 of the coefficients of a projected step; 0: plain cone."}
    )
    projection_margin_unit: str = field(
        default="gradient",
        metadata={
            "help": "'gradient': margin in units of |g|/|m|; 'absolute': as published.",
            "choices": ("gradient", "absolute"),
        },
    )
    projection_epsilon: float = field(default=1e-3, metadata={"help": "Ridge > 0 of the projection's quadratic problem."})
    projection_every: int = field(default=1, metadata={"help": "Project at every n-th optimizer step."})
    memory_batches: int = field(default=1, metadata={"help": "Number M of gradient memories."})
    memory_every: int | None = field(default=None, metadata={"help": "Renew memories at every n-th step; default: each epoch."})
    sharpness_radius: float = field(
        default=0.0, metadata={"help": "ρ >= 0: forget at weights moved by ρ towards relearning; 0: as published."}
    )
    divergence_factor: float = field(
        default=2.0,
        metadata={"help": "Stop when the retain loss exceeds that before the run, and after the trim, by this factor."},
    )

    @property
    def uses_memories(self) -> bool:
        """Whether gradient memories are kept: for the projection, or to look ahead at relearning."""
        return self.projection or self.sharpness_radius > 0

    def unlearning_settings(self) -> dict[str, Any]:
        """The values of the fields of this class alone, by name."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(UnlearningSettings)}

    def check_unlearning_settings(self) -> None:
        """Raise ValueError, naming the field and its value, for the first choice or number that is out of range."""
        require_choices(self, UnlearningSettings)
        ratio = self.trim_ratio
        require(self, "trim_ratio", ratio is None or 0 <= ratio < 1, "must lie in [0, 1), for example 0.03; 0 trims nothing")
        batches = self.saliency_batches
        require(self, "saliency_batches", batches == -1 or batches >= 1, "must be at least 1, or -1 for the whole forget set")
        weight = self.forget_weight
        require(
            self,
            "forget_weight",
            weight is None or (math.isfinite(weight) and weight >= 0),
            "must be a number >= 0: λ is subtracted, so a negative value would teach the forget set",
        )
        self._check_objective_settings()
        ceiling, every = self.forget_loss_ceiling, self.memory_every
        require(
            self,
            "forget_loss_ceiling",
            ceiling is None or ceiling > 0,
            "must be > 0, None for the default, or float('inf') for no ceiling",
        )
        require_not_negative(self, "projection_margin", "sharpness_radius")
        require(self, "memory_every", every is None or every >= 1, "must be a whole number >= 1, or None")
        require(self, "projection_epsilon", self.projection_epsilon > 0, "must be > 0, as 1e-3")
        limit = self.trim_damage_limit
        require(
            self, "trim_damage_limit", limit is None or limit > 1, "must be > 1, None for the default, or float('inf') for none"
        )
        require(self, "divergence_factor", self.divergence_factor > 1, "must be > 1, float('inf') to switch the check off")
        require_count(self, "projection_every", "memory_batches")
        if self.per_device_forget_batch_size is not None:
            require_count(self, "per_device_forget_batch_size")

    def _check_objective_settings(self) -> None:
        """What belongs to one objective and is given with another would have no effect."""
        name, beta, layer = self.forget_objective, self.objective_beta, self.rmu_layer
        coefficient = self.rmu_coefficient
        require(self, "objective_beta", beta is None or (math.isfinite(beta) and beta > 0), "must be a number > 0, or None")
        require(self, "rmu_coefficient", math.isfinite(coefficient) and coefficient > 0, "must be a number > 0")
        require_not_negative(self, "simnpo_gamma")
        require_count(self, "reference_top_k")
        require(self, "rmu_layer", layer is None or layer >= 1, "must be a whole number >= 1, or None")
        answers, ceiling = self.refusal_answers, self.forget_loss_ceiling
        require(
            self,
            "refusal_answers",
            answers is None or (len(answers) > 0 and all(isinstance(text, str) and text.strip() for text in answers)),
            "must be texts, as ['I do not know.']",
        )
        with_beta = [objective for objective in names_with() if objective_named(objective).beta is not None]
        for field_name, given, objectives in (
            ("objective_beta", beta is not None, with_beta),
            ("simnpo_gamma", self.simnpo_gamma != 0, ["simnpo"]),
            ("refusal_answers", answers is not None, ["idk", "dpo"]),
            ("rmu_layer", layer is not None, ["rmu"]),
        ):
            fitting = " or ".join(map(repr, objectives))
            what = "left open; name it" if name is None else repr(name)
            require(self, field_name, not given or name in objectives, f"is of forget_objective={fitting}, which is {what}")
        unbounded = name in names_with() and name != "ascent" and ceiling is not None and math.isfinite(ceiling)
        require(self, "forget_loss_ceiling", not unbounded, f"bounds ascent, and forget_objective is {name!r}; leave one out")
        require(
            self,
            "forget_objective",
            name != "idk" or answers is not None,
            "needs refusal_answers, as ['I do not know.']; of an answer for each example, 'counterfactual'",
        )
