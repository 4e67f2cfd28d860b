"""The diffusion door's trainer: the same loop as ever, on a denoiser whose loss is computed from noisy pictures."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate.utils import send_to_device
from safetensors import safe_open
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback

from ..core import evaluation_mode
from ..report.unlearning_report import UnlearningReport
from ..trainer.ceilings import Ceiling
from ..trainer.paired_batches import FORGET, RETAIN, is_pair
from ..trainer.scissorhands_trainer import ScissorhandsTrainer
from ..trainer.scopes import Scopes
from .adapter import adapter_weights
from .adversarial_states import AdversarialStates
from .erasure_config import ConceptErasureConfig
from .families import Family
from .noisy_examples import NoisyExamples, PromptTable, collate, mean_squared_error
from .objectives import OBJECTIVES, RETAIN_OBJECTIVES, guided
from .text_edit import TextEdit


@dataclass(frozen=True)
class TrimmedBelow:
    """Of a run that trains an adapter: names of the weights below it that may be re-initialised, which are compared with each
    other alone; and what a weight is called without the adapter."""

    reinit: list[str]
    plain_name: Callable[[str], str]


TRADEOFF = "tradeoff"
MEMORY_EXAMPLES = 64
TRAINED = "trained.safetensors"


class ConceptErasureTrainer(ScissorhandsTrainer):
    """
    Erase concepts from a denoiser. `train()` is [`ScissorhandsTrainer`]'s: sensitivity, threshold, trim, repair, projection.

    The sensitivity and the gradient memories take the denoising loss of the forget pictures; repair minimises
    `L(retain) + λ·‖f(x_f, c_f) − target‖²` or, for `forget_objective="ascent"`, `L(retain) − λ·L(forget)`.
    For `"closed_form"` the text layers are edited first, and the target is what they alone make the original predict.

    Args:
        family (`Family`):
            Of the pipeline; its denoiser is the model that is trained, in place.
        args (`ConceptErasureConfig`):
            Settings.
        retain, forget (`NoisyExamples`):
            Training examples, with their targets.
        retain_eval, forget_eval (`NoisyExamples`):
            Held-out examples of both, with their targets, for the trade-off.
        table (`PromptTable`):
            Encoded prompts, of which examples name rows; holds the empty prompt.
        edit (`TextEdit`, *optional*):
            Of text layers, with which repair begins.
        adversary (`AdversarialStates`, *optional*):
            Text states that bring the concept back: `adversarial_share` of the forget examples of repair are asked for under
            them.
        below ([`TrimmedBelow`], *optional*):
            Given where an adapter lies over the denoiser: it alone is trained, and what is trimmed lies below it.
    """

    supported_objectives = OBJECTIVES
    supported_retain_objectives = RETAIN_OBJECTIVES
    compares_examples = False
    # The trade-off is measured on held-out examples, and more often.
    checked_examples = 16

    def __init__(
        self,
        family: Family,
        args: ConceptErasureConfig,
        retain: NoisyExamples,
        forget: NoisyExamples,
        retain_eval: NoisyExamples,
        forget_eval: NoisyExamples,
        table: PromptTable,
        callbacks: list[TrainerCallback],
        edit: TextEdit | None = None,
        adversary: AdversarialStates | None = None,
        below: TrimmedBelow | None = None,
    ):
        self.below, self.trains_adapter = below, below is not None
        self.family, self.table, self.edit, self.adversary = family, table, edit, adversary
        self.retain_reference = self.forget_reference = 1.0
        super().__init__(
            model=family.denoiser,
            args=args,
            data_collator=collate,
            train_dataset=retain,
            forget_dataset=forget,
            eval_dataset={"retain": retain_eval, "forget": forget_eval},
            callbacks=[*callbacks, *([EarlyStoppingCallback(args.patience)] if args.patience else [])],
        )
        # Without a progress bar Trainer prints each log; the caller has the callback and the report.
        self.remove_callback(PrinterCallback)

    def trim(self) -> dict[str, Any]:
        """As ever; then, as the first step of repair, the closed-form edit. The sensitivity is the original's."""
        report = super().trim() if self.below is None else self._trim_below()
        if self.edit is not None:
            self.edit.apply()
        return report

    def _trim_below(self) -> dict[str, Any]:
        """The adapter does nothing yet, so the sensitivity is that of the weights below; they are frozen again afterwards."""
        scopes, model = self.scopes, self._plain_model()
        self.scopes = replace(scopes, reinit=self.below.reinit, trained=self.below.reinit)
        self.scopes.freeze_others(model)
        try:
            report = super().trim()
        finally:
            self.scopes = scopes
            scopes.freeze_others(model)
        report["per_module"] = {
            self.below.plain_name(f"{name}.").rstrip("."): row for name, row in report["per_module"].items()
        }
        return report

    def make_scopes(self) -> Scopes:
        """Where an adapter lies over the denoiser, its weights."""
        if self.below is None:
            return super().make_scopes()
        names = adapter_weights(self.model)
        return Scopes([], names, names, "below the adapter")

    @property
    def memory_batch_size(self) -> int:
        """Of noisy pictures a step's batch is mostly noise: the gradients of two batches of 16 differ more than they agree."""
        if self.args.forget_objective != "removal":
            return super().memory_batch_size
        return min(max(self.forget_batch_size, MEMORY_EXAMPLES), len(self.forget_dataset))

    @property
    def memory_examples_at_once(self) -> int:
        """As many as in a step, whose room is there."""
        return self.args.per_device_train_batch_size + self.forget_batch_size

    # ---- The adversary ----

    def begin_step(self) -> None:
        """As ever, and the adversary's turn where it is."""
        super().begin_step()
        self._attacks = self._generator(2)
        if self.adversary is not None and self.state.global_step % self.args.adversarial_every == 0:
            self.renew_adversary()

    def renew_adversary(self) -> None:
        """Let the adversary's states bring the concept back from the model as it stands."""
        started = time.perf_counter()
        count = len(self.adversary.rows)
        each = max(1, self.forget_batch_size // count)
        generator = self._generator(1)

        def denoising_loss(states: dict[str, Tensor], step: int) -> Tensor:
            chosen = torch.randint(len(self.forget_dataset), (count * each,), generator=generator).tolist()
            batch = send_to_device(collate([self.forget_dataset[index] for index in chosen]), self.args.device)
            conditioning = {name: value.repeat_interleave(each, 0) for name, value in states.items()}
            with self.compute_loss_context_manager():
                prediction = self.family.predict(self.model, batch["noisy"], batch["timesteps"], conditioning)
            # The mean over each state's pictures, so that a state's steps do not depend on how many there are.
            return count * mean_squared_error(prediction, batch["denoising_target"])

        with evaluation_mode(self.model):
            loss = self.adversary.renew(denoising_loss, self.args.adversarial_steps)
        self._log_window.add("adversarial_loss", loss / count)
        self.record.add_seconds("adversary", time.perf_counter() - started)

    def _under_attack(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The forget batch with some examples, `adversarial_share` of them on average, asked for under one of the adversary's
        states; of a batch of one, that one in some steps."""
        rows, prompt = self.adversary.rows.to(batch["prompt"].device), batch["prompt"].clone()
        wanted = self.args.adversarial_share * len(prompt)
        count = int(wanted + torch.rand((), generator=self._attacks).item())
        attacked = torch.randperm(len(prompt), generator=self._attacks)[:count]
        chosen = torch.randint(len(rows), (count,), generator=self._attacks)
        prompt[attacked.to(prompt.device)] = rows[chosen.to(rows.device)]
        return {**batch, "prompt": prompt}

    def _generator(self, purpose: int) -> torch.Generator:
        """A function of the seed, the process and the step."""
        seed = (self.data_seed * 1_000_003 + self.state.global_step) * 64 + self.args.process_index % 16 * 4 + purpose
        return torch.Generator().manual_seed(seed)

    # ---- Losses ----

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Of a pair both halves at once, which a small denoiser does in two thirds of the time."""
        if is_pair(inputs) and FORGET in inputs and self.adversary is not None:
            inputs = {**inputs, FORGET: self._under_attack(inputs[FORGET])}
        if is_pair(inputs) and {RETAIN, FORGET} <= set(inputs) and self.args.forget_objective == "removal":
            halves = [inputs[RETAIN], inputs[FORGET]]
            whole = {name: torch.cat([half[name] for half in halves]) for name in ("noisy", "timesteps", "prompt")}
            parts = self._predict(model, whole, whole["prompt"]).split([len(half["noisy"]) for half in halves])
            inputs = {
                part: {**half, "prediction": own} for part, half, own in zip((RETAIN, FORGET), halves, parts, strict=True)
            }
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _predict(self, model: nn.Module, batch: dict[str, Tensor], rows: Tensor) -> Tensor:
        return self.family.predict(model, batch["noisy"], batch["timesteps"], self.table[rows])

    def compute_batch_loss(
        self,
        model: nn.Module,
        batch: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,  # pictures have no labels to count
    ) -> Any:
        """Mean squared error to the batch's `target` (retain) in the model's prediction type."""
        prediction = batch["prediction"] if "prediction" in batch else self._predict(model, batch, batch["prompt"])
        loss = mean_squared_error(prediction, batch["target"])
        return (loss, {"prediction": prediction}) if return_outputs else loss

    def compute_forget_loss(self, model: nn.Module, batch: dict[str, Tensor], num_items_in_batch: int | None = None) -> Tensor:
        """The same on forget examples; with a live teacher, to the anchor's prediction by the model as it stands."""
        if self.args.forget_objective == "redirect" and self.args.redirect_teacher == "live" and torch.is_grad_enabled():
            with torch.no_grad():
                batch = {**batch, "target": self._predict(model, batch, batch["anchor"])}
        return self.compute_batch_loss(model, batch)

    def forget_term(self, forget_loss: Tensor) -> Tensor:
        """λ times the distance to the objective's target; for ascent as in the classification door."""
        if self.args.forget_objective == "ascent":
            return super().forget_term(forget_loss)
        return self.forget_weight * forget_loss

    def compute_sensitivity_loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Denoising loss L(D_f) of forget pictures, of the plain or of the guided prediction; memories take it, too."""
        prediction = self._predict(model, batch, batch["prompt"])
        if self.args.sensitivity_guidance:
            empty = torch.full_like(batch["prompt"], self.table.rows[""])
            prediction = guided(prediction, self._predict(model, batch, empty), self.args.sensitivity_guidance)
        return mean_squared_error(prediction, batch["denoising_target"])

    def compute_retain_sensitivity_loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Denoising loss of retain pictures: the distance to the original's own prediction has no gradient at the original."""
        return mean_squared_error(self._predict(model, batch, batch["prompt"]), batch["denoising_target"])

    def default_ceiling(self, batch: dict[str, Tensor], outputs: Any, loss: Tensor) -> Ceiling:
        """Of ascent: `ascent_limit` times the original's denoising loss on held-out forget examples, else that of saying
        nothing, the mean square of the targets. Other objectives have a floor."""
        limit = self.args.ascent_limit
        if limit is not None:
            original = self._mean_loss(self.eval_dataset["forget"], "denoising_target")
            return Ceiling(limit * original, f"{limit:g} times the original's denoising loss of {original:.3g}")
        batch = self.probe_batch(FORGET, size=64)
        return Ceiling(batch["denoising_target"].float().square().mean().item(), "the denoising loss of predicting nothing")

    # ---- The trade-off ----

    def measure_references(self) -> None:
        """Before any weight changes: the original's denoising loss on kept prompts, and its distance to the forget target."""
        with torch.no_grad():
            self.retain_reference = self._mean_loss(self.eval_dataset["retain"], "denoising_target")
            self.forget_reference = self._mean_loss(self.eval_dataset["forget"], "target")

    def default_damage_limit(self) -> float:
        """None: what a trim costs is measured by the trade-off, in whose course repair wins it back."""
        return math.inf

    def loss_floor(self) -> float:
        """A distilled retain loss begins at zero: it is compared in units of the original's denoising loss."""
        return self.retain_reference

    def _mean_loss(self, examples: NoisyExamples, target: str) -> float:
        total, size = 0.0, self.args.per_device_eval_batch_size
        for start in range(0, len(examples), size):
            batch = collate([examples[index] for index in range(start, min(start + size, len(examples)))])
            batch = send_to_device(batch, self.args.device)
            loss = mean_squared_error(self._predict(self.model, batch, batch["prompt"]), batch[target])
            total += loss.item() * len(batch["noisy"])
        return total / len(examples)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, None, None]:
        """The loss of an evaluation batch; predictions are not collected."""
        inputs = send_to_device(inputs, self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_batch_loss(model, inputs).detach(), None, None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Adds `eval_damage`, the share by which the denoising loss on kept prompts has risen, and `eval_tradeoff`: the
        distance to the forget target in units of the original's, plus the damage above the limit in units of the limit.

        A prediction that was the best one, as a distilled one sets out to be, has its denoising loss raised by exactly its
        squared distance to it; so the damage is that distance in units of the original's loss.
        """
        metrics = super().evaluate(*args, **kwargs)
        if "eval_retain_loss" in metrics and "eval_forget_loss" in metrics:
            damage = self.damage(metrics["eval_retain_loss"])
            reached = metrics["eval_forget_loss"] / max(self.forget_reference, 1e-12)
            if self.args.forget_objective == "ascent":
                reached = -reached
            metrics["eval_damage"] = damage
            metrics[f"eval_{TRADEOFF}"] = reached + max(0.0, damage / self.args.damage_limit - 1)
            # Trainer has logged its own part of them already.
            self.log({"eval_damage": damage, f"eval_{TRADEOFF}": metrics[f"eval_{TRADEOFF}"]})
        return metrics

    def damage(self, retain_loss: float) -> float:
        """Share by which the denoising loss on kept prompts has risen, from the retain loss of the evaluation."""
        if self.args.retain_objective == "data":
            return retain_loss / self.retain_reference - 1
        return retain_loss / self.retain_reference

    def change(self) -> float:
        """How much of the way to the forget target the model has gone, 1 for all of it; of ascent, by what share the loss has
        risen. Below 0 it went the other way."""
        with torch.no_grad(), evaluation_mode(self.model):
            left = self._mean_loss(self.eval_dataset["forget"], "target") / max(self.forget_reference, 1e-12)
        return left - 1 if self.args.forget_objective == "ascent" else 1 - left

    # ---- Checkpoints of the best step: temporary, and of the trained weights alone ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The trained weights, if they are finite. The pipeline is what is saved in the end. Every process saves its own, for
        each has a temporary folder of its own."""
        # `_internal_call` is Trainer's own argument (private by name, as of transformers 5.23).
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_repair(folder)
        model = self._plain_model()
        trained = {name: model.get_parameter(name).detach().contiguous() for name in self.scopes.trained}
        safetensors.torch.save_file(trained, folder / TRAINED)

    def _load_best_model(self) -> None:
        # Private (as of transformers 5.23); see ScissorhandsTrainer.
        model = self._plain_model()
        with safe_open(Path(self.state.best_model_checkpoint) / TRAINED, framework="pt") as file, torch.no_grad():
            for name in self.scopes.trained:
                model.get_parameter(name).copy_(file.get_tensor(name))

    # ---- What belongs to models of transformers alone ----

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def release(self) -> None:
        """After the run: let go of gradients, of the optimizer's state and of targets. Trainer, its callbacks and accelerate
        hold each other, and with them these, until the garbage collector comes."""
        self.model.zero_grad(set_to_none=True)
        if self.optimizer is not None:
            self.optimizer.state.clear()
        self._memories = None
        for examples in (self.train_dataset, self.forget_dataset, *self.eval_dataset.values()):
            examples.targets = None

    def report(self) -> UnlearningReport:
        """As the classification door's, with the measured trade-off in its history."""
        report = super().report()
        for row in self.state.log_history:
            if "eval_damage" in row:
                report.history.append({key: row[key] for key in ("step", "epoch", "eval_damage", f"eval_{TRADEOFF}")})
        report.history.sort(key=lambda row: row["step"])
        return report
