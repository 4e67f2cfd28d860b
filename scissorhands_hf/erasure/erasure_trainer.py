"""The diffusion door's trainer: the same loop as ever, on a denoiser whose loss is computed from noisy pictures."""

from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback

from ..report.unlearning_report import UnlearningReport
from ..trainer.ceilings import Ceiling
from ..trainer.paired_batches import FORGET
from ..trainer.scissorhands_trainer import ScissorhandsTrainer
from .erasure_config import ConceptErasureConfig
from .families import Family
from .noisy_examples import NoisyExamples, PromptTable, collate, mean_squared_error
from .objectives import OBJECTIVES, guided
from .text_edit import TextEdit


TRADEOFF = "tradeoff"


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
    """

    supported_objectives = OBJECTIVES
    supported_retain_objectives = ("distillation", "data")
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
    ):
        self.family, self.table, self.edit = family, table, edit
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
        report = super().trim()
        if self.edit is not None:
            self.edit.apply()
        return report

    # ---- Losses ----

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
        prediction = self._predict(model, batch, batch["prompt"])
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
        """Of ascent: the denoising loss of saying nothing, the mean square of the targets. Other objectives have a floor."""
        batch = self.probe_batch(FORGET, size=64)
        return Ceiling(batch["denoising_target"].float().square().mean().item(), "the denoising loss of predicting nothing")

    # ---- The trade-off ----

    def measure_references(self) -> None:
        """Before any weight changes: the original's denoising loss on kept prompts, and its distance to the forget target."""
        with torch.no_grad():
            self.retain_reference = self._mean_loss(self.eval_dataset["retain"], "denoising_target")
            self.forget_reference = self._mean_loss(self.eval_dataset["forget"], "target")

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

    # ---- What belongs to models of transformers alone ----

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0

    def report(self) -> UnlearningReport:
        """As the classification door's, with the measured trade-off in its history."""
        report = super().report()
        for row in self.state.log_history:
            if "eval_damage" in row:
                report.history.append({key: row[key] for key in ("step", "epoch", "eval_damage", f"eval_{TRADEOFF}")})
        report.history.sort(key=lambda row: row["step"])
        return report
