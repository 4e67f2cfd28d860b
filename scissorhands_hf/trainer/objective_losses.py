"""The two parts of a step's loss by the objectives that were chosen: what is computed on the forget and on the retain batch."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from ..core.modes import evaluation_mode
from . import forget_objectives as formulas
from .batch_losses import BatchLossMixin, plain_batch
from .ceilings import logits_of
from .forget_choice import ASCENT, OF_LANGUAGE_MODELS, WITH_OTHER_ANSWERS, ForgetObjective, names_with, objective_named
from .other_answers import OTHER_ANSWER, have_other_texts, name_other_columns
from .paired_batches import FORGET, RETAIN
from .reference_scores import INDEX, ReferenceScores, load_references, numbered, remark_size, save_references
from .token_scores import LabelledTokens, labelled_tokens, top_entries, without_labels
from .training_sets import TrainingSet


# Share by which the mean of our token losses may differ from the model's own loss, by how exact its weights are.
_EXACT, _ROUNDED = 1e-3, 3e-2


@dataclass(frozen=True)
class LossPart:
    """
    What one half of a paired batch adds to the loss: a mean over its examples or tokens, see [`ObjectiveMixin.part_weight`].

    Args:
        term (`Tensor`):
            To be minimised, λ included.
        loss (`Tensor`, *optional*):
            L of the half's own labels, where it was computed, for the log.
        logged (`dict[str, Tensor]`, *optional*):
            Further values for the log, by name.
        tokens (`int`, *optional*):
            What `loss` is a mean over, where the half's weight is another number.
    """

    term: Tensor
    loss: Tensor | None = None
    logged: Mapping[str, Tensor] = field(default_factory=dict)
    tokens: int | None = None


class ObjectiveMixin(BatchLossMixin):
    """The losses of a paired batch; to be named before Trainer. Beside what [`BatchLossMixin`] needs, what is declared here."""

    forget_dataset: Any
    forget_loss_ceiling: float
    sets: dict[str, TrainingSet]
    forget_batch_size: int

    # Whether ascent looks at the loss of each example, rather than of each batch; found out by `check_objective`.
    _bounds_examples = False

    # The objective where it was left open; chosen by `check_objective`.
    _open_objective = ASCENT

    @property
    def objective(self) -> ForgetObjective:
        return objective_named(self.args.forget_objective or self._open_objective)

    @property
    def forget_weight(self) -> float:
        """λ in effect."""
        return self.objective.weight if self.args.forget_weight is None else self.args.forget_weight

    def method_settings(self) -> dict[str, Any]:
        """The settings of the method as they are in effect for this model, JSON-ready."""
        return self.args.method_settings(self._open_objective)

    def _init_objective(self) -> None:
        """Before `Trainer.__init__`, and again at the start of each run."""
        self._references: dict[str, ReferenceScores] | None = None
        self._direction: Tensor | None = None

    # ---- What is possible with this model ----

    def why_no_tokens(self, batch: dict[str, Any], outputs: Any) -> str | None:
        """Why the log-probabilities of labelled tokens cannot be read from the model's logits; None where they can.

        Args:
            batch, outputs (`dict[str, Any]`):
                A labelled batch, and what the model made of it, with its own loss where it computed one.
        """
        labels, logits = batch.get("labels"), logits_of(outputs)
        if not isinstance(labels, Tensor) or labels.ndim != 2 or labels.is_floating_point():
            return "its batches have no labels for each token"
        if logits is None or logits.ndim != 3 or logits.shape[:-1] != labels.shape:
            return "it returns no logits for each token that is labelled"
        wanted = inspect.signature(self.model.forward).parameters.get("labels")
        if wanted is not None and wanted.default is inspect.Parameter.empty:
            return "it gives no logits unless it is given labels"
        own = outputs.get("loss") if isinstance(outputs, dict) else None
        if own is not None:
            ours = self._tokens(self.model, batch).losses().mean()
            exact = all(p.dtype == torch.float32 for p in self.model.parameters()) and not self.args.bf16
            if not (ours - own.float()).abs() <= (_EXACT if exact else _ROUNDED) * own.float().abs() + 1e-6:
                return f"the mean loss of its labelled tokens is {ours:.4g}, and its own loss, {own:.4g}, is another"
        return None

    def check_objective(self, batch: dict[str, Any], outputs: Any) -> None:
        """Choose the objective where it was left open, refuse one that does not fit the model, see [`why_no_tokens`], and find
        out whether ascent can be bounded for each example.

        Raises:
            ValueError: naming the argument.
        """
        reason = self.why_no_tokens(batch, outputs)
        simple = self.compute_loss_func is None and not self.args.label_smoothing_factor
        if self.args.forget_objective is None and self.args.forget_loss_ceiling is None:
            speaks = reason is None and simple and self.shifts_labels
            told = WITH_OTHER_ANSWERS if speaks and have_other_texts(self.forget_dataset) else OF_LANGUAGE_MODELS
            self._open_objective = told if speaks else ASCENT
            if self._open_objective == OF_LANGUAGE_MODELS and (meant := name_other_columns(self.forget_dataset)):
                raise ValueError(
                    f"forget_dataset has {', '.join(meant)}, which look like other answers, but not all examples have one "
                    "(a text in counterfactual, or counterfactual_input_ids and counterfactual_labels). Give one to each, "
                    f"leave out examples without, or say forget_objective={OF_LANGUAGE_MODELS!r}, which uses none."
                )
        self._bounds_examples = self.objective.name == "ascent" and reason is None and simple
        others = " or ".join(map(repr, names_with(needs_tokens=False, needs_answer=False)))
        name = type(self.model).__name__
        if self.objective.needs_tokens and reason is not None:
            raise ValueError(
                f"forget_objective={self.objective.name!r} is computed from the log-probabilities of tokens, which "
                f"{name} does not give: {reason}. Use {others}, or 'counterfactual'."
            )
        if self.args.retain_objective == "kl" and reason is not None:
            raise ValueError(
                f"retain_objective='kl' compares the log-probabilities of tokens with the original's, and {name} does not give "
                f"them: {reason}. Use 'data'."
            )
        if self.objective.name == "rmu":
            if self._prompt_apart:
                raise ValueError(
                    f"forget_objective='rmu' misleads the layers of a decoder that reads the prompt, and {name} has an encoder "
                    f"for it. Use {others}, 'npo' or 'simnpo'."
                )
            self._rmu_layer()

    @property
    def _prompt_apart(self) -> bool:
        return bool(getattr(getattr(self.model, "config", None), "is_encoder_decoder", False))

    def _rmu_layer(self) -> int:
        """The layer whose activations are misled: as given, else in the proportion of the published 7 of 32."""
        layers = getattr(self.model.config.get_text_config(), "num_hidden_layers", 0)
        layer = self.args.rmu_layer
        if layer is None:
            return max(1, round(layers * 7 / 32))
        if layer > layers:
            raise ValueError(f"rmu_layer={layer} is beyond the model's {layers} layers; 1 is the first")
        return layer

    # ---- What a half of a batch counts for ----

    def part_weight(self, part: str, batch: dict[str, Any]) -> int:
        """What the mean of a "retain" or "forget" half counts for beside those of other micro-batches: its labelled examples or
        tokens, by what the objective is a mean over."""
        if part == RETAIN:
            return self.labelled(batch) if self.args.retain_objective == "kl" else self.batch_weight(batch)
        if self.objective.over == "examples":
            labels = batch["labels"][:, 1:] if self.shifts_labels else batch["labels"]
            return int(labels.ne(-100).any(1).sum())
        if self.objective.needs_answer:
            return self.batch_weight(batch[OTHER_ANSWER])
        return self.labelled(batch) if self.objective.needs_tokens else self.batch_weight(batch)

    # ---- The losses: what a kind of model replaces ----

    def compute_forget_loss(self, model: nn.Module, batch: dict[str, Any], num_items_in_batch: int | None = None) -> Tensor:
        """What repair measures on a forget batch: L(D_f), a mean; `num_items_in_batch` as in [`compute_batch_loss`]."""
        return self.compute_batch_loss(model, batch, num_items_in_batch=num_items_in_batch)

    def forget_term(self, forget_loss: Tensor) -> Tensor:
        """What repair adds to L(D_r): −λ·min(L(D_f), ceiling)."""
        return -self.forget_weight * forget_loss.clamp(max=self.forget_loss_ceiling)

    def forget_part(self, model: nn.Module, batch: dict[str, Any], items: int) -> LossPart:
        """
        Of a forget batch.

        Args:
            model, batch (`nn.Module`):
                On one device.
            items (`int`):
                What the forget halves of the whole step weigh, for a `compute_loss_func`.
        """
        objective = self.objective
        if objective.needs_answer and not objective.needs_tokens:
            value = self.compute_batch_loss(model, batch[OTHER_ANSWER], num_items_in_batch=items)
            return LossPart(self.forget_weight * value, logged={"forget_objective": value})
        if not (objective.needs_tokens or self._bounds_examples):
            loss = self.compute_forget_loss(model, batch, items)
            return LossPart(self.forget_term(loss), loss)
        tokens, hidden = self._tokens_and_hidden(model, batch, hidden=objective.name == "rmu")
        losses, lengths = tokens.losses(), tokens.lengths
        loss = losses.sum() / max(len(losses), 1)
        if objective.name == "ascent":
            own = tokens.per_example(losses) / lengths.clamp(min=1)
            # Where nothing is labelled there is nothing to divide by; the weight of the half is 0.
            value = formulas.bounded_ascent(own, lengths, self.forget_loss_ceiling) if len(losses) else loss
            above = (own.detach() > self.forget_loss_ceiling).float().mean()
            return LossPart(self.forget_weight * value, loss, {"above_ceiling_share": above})
        if objective.name == "rmu":
            values = formulas.rmu(hidden[tokens.rows, tokens.columns], *self._misdirection(hidden))
            value = values.sum() / max(len(values), 1) + 0.0 * loss  # every weight takes part, or processes wait for it
        elif objective.name == "undial":
            ids, teacher = self._original_entries(FORGET, batch, tokens)
            place = (ids == tokens.labels.unsqueeze(1)).long().argmax(1)
            target = formulas.suppressed(teacher, place, self._beta)
            values = formulas.distillation(target, formulas.lumped(tokens.logits, ids))
            value = values.sum() / max(len(values), 1)
        else:
            values = self._of_examples(model, batch, -tokens.per_example(losses), lengths)
            counted = (lengths > 0).float()
            value = (values * counted).sum() / counted.sum().clamp(min=1)
        return LossPart(self.forget_weight * value, loss, {"forget_objective": value}, len(losses))

    def _of_examples(self, model: nn.Module, batch: dict[str, Any], log_probs: Tensor, lengths: Tensor) -> Tensor:
        """The values of NPO, SimNPO or DPO, from log π(y|x) and |y|, shape (n,)."""
        name = self.objective.name
        if name == "simnpo":
            return formulas.simnpo(log_probs, lengths.clamp(min=1), self._beta, self.args.simnpo_gamma)
        reference = self._original(FORGET, batch, "log_probs")
        if name == "npo":
            return formulas.npo(log_probs, reference, self._beta)
        other = self._tokens(model, batch[OTHER_ANSWER])
        wanted = -other.per_example(other.losses())
        return formulas.dpo(wanted, self._original(FORGET, batch, "wanted_log_probs"), log_probs, reference, self._beta)

    def retain_part(self, model: nn.Module, batch: dict[str, Any], items: int) -> tuple[LossPart, Any]:
        """Of a retain batch, and the model's outputs; arguments as of [`forget_part`]."""
        if self.args.retain_objective != "kl":
            loss, outputs = self.compute_batch_loss(model, batch, True, items)
            return LossPart(loss, loss), outputs
        tokens = self._tokens(model, batch)
        ids, teacher = self._original_entries(RETAIN, batch, tokens)
        values = formulas.divergence(teacher, formulas.lumped(tokens.logits, ids))
        count = max(len(values), 1)
        with torch.no_grad():
            loss = tokens.losses().sum() / count
        value = values.sum() / count
        return LossPart(value, loss, {"retain_objective": value}), {}

    # ---- Tokens ----

    @property
    def _beta(self) -> float:
        return self.objective.beta if self.args.objective_beta is None else self.args.objective_beta

    def _tokens(self, model: nn.Module, batch: dict[str, Any]) -> LabelledTokens:
        return self._tokens_and_hidden(model, batch)[0]

    def _tokens_and_hidden(
        self, model: nn.Module, batch: dict[str, Any], hidden: bool = False
    ) -> tuple[LabelledTokens, Tensor | None]:
        """The labelled tokens of a batch, and with `hidden` the activations that RMU looks at, shape (n, t, d)."""
        asked = {"output_hidden_states": True} if hidden else {}
        outputs = model(**without_labels(plain_batch(batch), keep=self._prompt_apart), **asked)
        tokens = labelled_tokens(logits_of(outputs, int(self._prompt_apart)), batch["labels"], self.shifts_labels)
        return tokens, outputs["hidden_states"][self._rmu_layer()] if hidden else None

    def _misdirection(self, hidden: Tensor) -> tuple[Tensor, float]:
        """u and c of RMU: drawn by the run's seed, as its published code draws it, and in units of the original's norms."""
        if self._direction is None:
            drawn = torch.rand(hidden.shape[-1], generator=torch.Generator().manual_seed(self.args.seed))
            self._direction = (drawn / drawn.norm()).to(hidden.device)
        size = len(self.sets[FORGET])
        norms = torch.cat(self._references[FORGET].of("norms", range(size), hidden.device))
        return self._direction, self.args.rmu_coefficient * norms.mean().item()

    # ---- The original ----

    def reference_parts(self) -> list[str]:
        """Of which sets the original is asked."""
        wanted = {FORGET: self.objective.needs_reference, RETAIN: self.args.retain_objective == "kl"}
        return [part for part, asked in wanted.items() if asked]

    def sets_in_training(self) -> list[TrainingSet]:
        """The retain and the forget set; batches of those that the original is asked of say which examples they hold."""
        asked = self.reference_parts()
        return [numbered(self.sets[part]) if part in asked else self.sets[part] for part in (RETAIN, FORGET)]

    def ask_original(self) -> None:
        """Keep what the model, as it stands, says of each example that it will be compared with. Each process asks for all."""
        self._references = {}
        with evaluation_mode(self.model), torch.no_grad():
            for part in self.reference_parts():
                examples, size = self.sets[part], self.forget_batch_size
                scores = ReferenceScores(len(examples))
                for start in range(0, len(examples), size):
                    indices = range(start, min(start + size, len(examples)))
                    batch = send_to_device(examples.batch(indices), self.args.device)
                    with self.compute_loss_context_manager():
                        self._ask(part, batch, indices, scores)
                remark_size(part, scores)
                self._references[part] = scores

    def _ask(self, part: str, batch: dict[str, Any], indices: Sequence[int], scores: ReferenceScores) -> None:
        name = self.objective.name
        tokens, hidden = self._tokens_and_hidden(self.model, batch, hidden=part == FORGET and name == "rmu")
        if part == RETAIN or name == "undial":
            ids = top_entries(tokens, self.args.reference_top_k)
            entries = formulas.lumped(tokens.logits, ids)
            for row, index in enumerate(indices):
                scores.put("ids", index, ids[tokens.rows == row].int())
                scores.put("entries", index, entries[tokens.rows == row])
        elif name == "rmu":
            norms = hidden[tokens.rows, tokens.columns].float().norm(dim=-1)
            for row, index in enumerate(indices):
                scores.put("norms", index, norms[tokens.rows == row])
        else:
            asked = {"log_probs": tokens}
            if name == "dpo":
                asked["wanted_log_probs"] = self._tokens(self.model, batch[OTHER_ANSWER])
            for key, own in asked.items():
                for value, index in zip(-own.per_example(own.losses()), indices, strict=True):
                    scores.put(key, index, value)

    def _original(self, part: str, batch: dict[str, Any], name: str) -> Tensor:
        """A value of each example of a batch, shape (n,)."""
        return torch.stack(self._references[part].of(name, batch[INDEX].tolist(), self.args.device))

    def _original_entries(self, part: str, batch: dict[str, Any], tokens: LabelledTokens) -> tuple[Tensor, Tensor]:
        """Of each labelled token of a batch the entries that were kept, and their log-probabilities, with the others' last."""
        indices = batch[INDEX].tolist()
        ids, entries = (torch.cat(self._references[part].of(name, indices, self.args.device)) for name in ("ids", "entries"))
        if len(ids) != len(tokens.labels):
            raise ValueError(
                f"examples {indices} of the {part} set have {len(tokens.labels)} labelled tokens, and had {len(ids)} when the "
                "original was asked. Give examples that are the same each time they are read (no random cropping or masking)."
            )
        return ids.long(), entries

    def save_references(self, folder: Path) -> None:
        """Into a checkpoint, where there are any."""
        if self._references:
            save_references(self._references, folder)

    def load_references(self, folder: Path) -> None:
        """From a checkpoint, those that are needed; see [`reference_scores.load_references`]."""
        self._references = load_references(folder, {part: len(self.sets[part]) for part in self.reference_parts()})
