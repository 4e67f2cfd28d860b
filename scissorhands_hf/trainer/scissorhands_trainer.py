"""`ScissorhandsTrainer`: a `transformers.Trainer` that makes a model forget."""

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..core import GradientMemory
from ..core.modes import evaluation_mode, unrecorded_batch_norm
from ..core.projection import project_gradients, relearned_weights, renew_memories
from ..core.trim import trim_model
from ..report.unlearning_report import UnlearningReport
from . import checks
from .checkpoints import MEMORY_NAME, is_checkpoint, last_complete_checkpoint, library_versions, load_run_state, save_run_state
from .initializer import initializer_of
from .monitoring import RunningMeans, UnlearningDivergedError
from .paired_batches import (
    FORGET,
    RETAIN,
    PairedBatchSampler,
    PairedCollator,
    PairedDataset,
    fetch_examples,
    is_pair,
    random_batches,
)
from .publishing import PublishingMixin
from .scissorhands_config import ScissorhandsConfig
from .scopes import Scopes, resolve_scopes
from .stage_callback import StageCallback


logger = logging.getLogger(__name__)


class ScissorhandsTrainer(PublishingMixin):
    r"""
    Make a model forget a class, examples or documents, by Scissorhands (Wu & Harandi, ECCV 2024, arXiv:2401.06187).

    `train()` measures the connection sensitivity of each weight on the forget set, re-initialises the most sensitive ones
    once, and repairs the model by minimising L(D_r) − λ·L(D_f) with projected gradients. In everything else it is a
    [`~transformers.Trainer`].

    Args:
        model ([`~transformers.PreTrainedModel`] or `nn.Module`):
            A trained model whose forward pass returns a loss from a batch. Changed in place. Weights outside
            `args.trainable_target_modules` get `requires_grad=False`.
        args ([`ScissorhandsConfig`]):
            Settings of the method and of training.
        train_dataset (`Dataset`):
            The retain set D_r: what the model must keep. Map-style, without the forget examples.
        forget_dataset (`Dataset`):
            The forget set D_f, in the same format. Map-style.
        kwargs:
            As for [`~transformers.Trainer`]: `eval_dataset` (also a dict), `data_collator`, `processing_class`,
            `compute_metrics`, `callbacks`, `optimizers`, `compute_loss_func`, ...

    Raises:
        TypeError, ValueError: at construction and before any weight is touched, for arguments, models or data that the method
            cannot work with; the message names the argument, its value and the way out.
        UnlearningDivergedError: by `train()`, see [`ScissorhandsConfig`] on `forget_loss_ceiling` and `divergence_factor`.

    Example:

    ```python
    args = ScissorhandsConfig(output_dir="out", recipe="cifar10-random-10")
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    trainer.train()
    ```
    """

    # Each of our losses is a mean over its own batch, so Trainer must divide by the accumulation steps.
    loss_is_scaled_for_ga = False
    # What `forget_objective` may be; the diffusion door knows more.
    supported_objectives = ("ascent",)

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: ScissorhandsConfig | None = None,
        data_collator: Callable[[list], Any] | None = None,
        train_dataset: Dataset | datasets.Dataset | None = None,
        forget_dataset: Dataset | datasets.Dataset | None = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ):
        checks.check_arguments(args, self.supported_objectives)
        checks.check_datasets(train_dataset, forget_dataset)
        if model is not None:
            checks.check_model(model)
        self._init_publishing()
        self.forget_dataset = forget_dataset
        self.scopes: Scopes | None = None
        self.trim_report: dict[str, Any] | None = None
        self.seconds: dict[str, float] = {}
        self._first_epoch_retain_loss: float | None = None
        self._memory: GradientMemory | None = None
        self._memory_to_resume: str | None = None
        self._last_forget_loss: float | None = None
        self._step_forget_losses: list[Tensor] = []
        self._log_window, self._epoch_window = RunningMeans(), RunningMeans()
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        checks.check_distributed(self.accelerator)
        checks.check_labels("train_dataset", train_dataset, self.model)
        checks.check_labels("forget_dataset", forget_dataset, self.model)
        self.scopes = resolve_scopes(self.model, args)
        self.scopes.freeze_others(self.model)
        logger.info(self.scopes.describe(self.model))
        self.forget_loss_ceiling = self._probe_losses()
        self.add_callback(_ScissorhandsCallback(self))
        if args.applied_recipe:
            filled = {name: value for name, value in args.applied_recipe.items() if name != "recipe"}
            logger.info("The recipe %r filled in: %s", args.recipe, json.dumps(filled, ensure_ascii=False))
        logger.info("Scissorhands settings in effect: %s", json.dumps(args.method_settings(), ensure_ascii=False))

    # ---- The model and its weights ----

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """A fresh model of `model_init`, checked, and frozen outside the trained scope."""
        model = super().call_model_init(trial)
        checks.check_model(model)
        if self.scopes is not None:
            self.scopes.freeze_others(model)
        return model

    def _parameters(self, names: list[str]) -> dict[str, nn.Parameter]:
        return {name: self.model.get_parameter(name) for name in names}

    def _probe_losses(self) -> float:
        """Run one small batch of each set without gradients: is there a finite loss? Returns the ceiling of ascent."""
        with evaluation_mode(self.model), torch.no_grad():
            for argument, dataset in (("train_dataset", self.train_dataset), ("forget_dataset", self.forget_dataset)):
                batch = self._collate_set(dataset, list(range(min(2, len(dataset)))), argument)
                loss, outputs = self.compute_batch_loss(self.model, self._prepare_inputs(batch), return_outputs=True)
                checks.check_loss(argument, loss)
        if self.args.forget_loss_ceiling is not None:
            return self.args.forget_loss_ceiling
        if self.args.forget_weight == 0 and not self.args.projection:
            return math.inf  # nothing ascends
        return self.default_ceiling(outputs)

    def default_ceiling(self, outputs: Any) -> float:
        """The forget loss at which ascent stops when `forget_loss_ceiling` is left open; `outputs` of one batch."""
        return checks.ceiling_from_outputs(outputs, self.model)

    # ---- Data ----

    def _set_and_collator(self, dataset: Any, description: str) -> tuple[Any, Callable[[list], Any]]:
        """A training set and its collator, both without the columns that the model does not take.

        Trainer's own helpers (private, as of transformers 5.23) do it for flat batches only: given the pairs they would
        drop the keys "retain" and "forget", so each set is stripped by itself.
        """
        if isinstance(dataset, datasets.Dataset):
            return self._remove_unused_columns(dataset, description), self.data_collator
        return dataset, self._get_collator_with_removed_columns(self.data_collator, description)

    def _collate_set(self, dataset: Any, indices: list[int], description: str) -> dict[str, Any]:
        dataset, collate = self._set_and_collator(dataset, description)
        return collate(fetch_examples(dataset, indices))

    def _forget_batch_size(self) -> int:
        """Per device; shrinks with the train batch under `auto_find_batch_size`."""
        args: ScissorhandsConfig = self.args
        scaled = args.forget_batch_size * self._train_batch_size // args.per_device_train_batch_size
        return min(max(1, scaled), len(self.forget_dataset))

    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def get_train_dataloader(self) -> DataLoader:
        """Batches ``{"retain": batch, "forget": batch}``; see [`PairedBatchSampler`] for their order."""
        retain, collate_retain = self._set_and_collator(self.train_dataset, "retain")
        forget, collate_forget = self._set_and_collator(self.forget_dataset, "forget")
        self._sampler = PairedBatchSampler(
            retain_size=len(retain),
            forget_size=len(forget),
            retain_batch=self._train_batch_size,
            forget_batch=self._forget_batch_size(),
            schedule=self.args.forget_schedule,
            seed=self._data_seed(),
            num_processes=self.accelerator.num_processes,
            drop_last=self.args.dataloader_drop_last,
        )
        return self.accelerator.prepare(
            DataLoader(
                PairedDataset(retain, forget),
                batch_sampler=self._sampler,
                collate_fn=PairedCollator(collate_retain, collate_forget),
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
                persistent_workers=self.args.dataloader_persistent_workers,
                prefetch_factor=self.args.dataloader_prefetch_factor,
            )
        )

    def _forget_losses(self, batches: list[list[int]]) -> Iterator[Callable[[], Tensor]]:
        """For each batch of forget indices a callable that computes its loss on the model outside DDP."""
        for indices in batches:
            batch = self._prepare_inputs(self._collate_set(self.forget_dataset, indices, "forget"))

            def compute(batch: dict[str, Any] = batch) -> Tensor:
                with self.compute_loss_context_manager():
                    return self.compute_sensitivity_loss(self.model, batch)

            yield compute

    # ---- Steps 1 to 3: sensitivity, threshold, trim ----

    def _stage_callbacks(self) -> list[StageCallback]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, StageCallback)]

    def _told(self, losses: Iterator[Callable[[], Tensor]], total: int) -> Iterator[Callable[[], Tensor]]:
        """The losses, with how many of them are done told to the stage callbacks."""
        for done, loss in enumerate(losses):
            for callback in self._stage_callbacks():
                callback.on_sensitivity(done, total)
            yield loss

    def trim(self) -> dict[str, Any]:
        """Re-initialise the weights that the forget set depends on most (paper, section 3.1). `train()` calls this once.

        Returns:
            The trim report: ``threshold`` τ, ``candidates`` (weights compared), ``above_threshold`` asked for by trim_ratio,
            ``trimmed`` in all, and ``per_module`` counts. With ``trim_ratio=0`` nothing is measured or cut.
        """
        args: ScissorhandsConfig = self.args
        if args.trim_ratio == 0:
            return {"threshold": None, "candidates": 0, "above_threshold": 0, "trimmed": 0, "per_module": {}}
        scope = self._parameters(self.scopes.reinit)
        candidates = scope if args.threshold_scope == "reinit" else self._parameters(self.scopes.trained)
        size, world = self._forget_batch_size(), self.accelerator.num_processes
        if args.saliency_batches == -1:
            everything = range(len(self.forget_dataset))
            batches = [list(everything[start : start + size]) for start in everything[::size]]
        else:
            batches = random_batches(len(self.forget_dataset), size, args.saliency_batches, self._data_seed())
        mine = batches[self.accelerator.process_index :: world]
        losses = tqdm(
            self._told(self._forget_losses(mine), len(mine)),
            total=len(mine),
            desc="Connection sensitivity",
            disable=args.disable_tqdm or not self.is_local_process_zero(),
        )

        over_processes = partial(self.accelerator.reduce, reduction="sum") if world > 1 else None
        with evaluation_mode(self.model):
            account = trim_model(
                self.model, losses, candidates, scope, args.trim_ratio, args.seed, initializer_of(self.model), over_processes
            )
        report = {**dataclasses.asdict(account), "saliency_batches": len(batches)}
        self.seconds.update(report.pop("seconds"))
        if report["trimmed"] == 0:
            logger.warning(
                "No weight was re-initialised: none in the scope is among the top %s of %s weights. A larger trim_ratio or "
                "threshold_scope='reinit' would cut some.",
                args.trim_ratio,
                f"{report['candidates']:,}",
            )
        logger.info(
            "Trimmed %s weights (threshold %.3e over %s): %s",
            f"{report['trimmed']:,}",
            report["threshold"],
            f"{report['candidates']:,}",
            ", ".join(f"{name} {row['trimmed']:,}" for name, row in report["per_module"].items() if row["trimmed"]),
        )
        return report

    # ---- The losses: what a kind of model replaces ----

    def compute_batch_loss(self, model: nn.Module, batch: dict[str, Any], return_outputs: bool = False) -> Any:
        """L of a flat batch, as Trainer computes it (`compute_loss_func`, label smoothing); with outputs if asked."""
        return super().compute_loss(model, batch, return_outputs)

    def compute_forget_loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """What repair measures on a forget batch: L(D_f)."""
        return self.compute_batch_loss(model, batch)

    def forget_term(self, forget_loss: Tensor) -> Tensor:
        """What repair adds to L(D_r): −λ·min(L(D_f), ceiling)."""
        return -self.args.forget_weight * forget_loss.clamp(max=self.forget_loss_ceiling)

    def compute_sensitivity_loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """L(D_f) of which the sensitivity and the gradient memories take the gradient."""
        return self.compute_batch_loss(model, batch)

    # ---- Step 4: repair ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """L(D_r) − λ·min(L(D_f), ceiling) of a paired batch, or one of the two of a half; the plain loss of a flat (evaluation)
        batch."""
        if not is_pair(inputs):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, outputs = torch.zeros((), device=self.args.device), {}
        if RETAIN in inputs:
            loss, outputs = self.compute_batch_loss(model, inputs[RETAIN], return_outputs=True)
            self._log_window.add(RETAIN, loss)
            self._epoch_window.add(RETAIN, loss)
        if FORGET in inputs:
            # With λ = 0 the forget loss is still measured, but nothing is kept for a backward pass.
            ungraded = contextlib.nullcontext() if self.args.forget_weight else torch.no_grad()
            with ungraded, unrecorded_batch_norm(self.model):
                forget_loss = self.compute_forget_loss(model, inputs[FORGET])
            self._log_window.add(FORGET, forget_loss)
            self._step_forget_losses.append(forget_loss.detach())
            if self.args.forget_weight:
                loss = loss + self.forget_term(forget_loss)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """One micro-batch; at the last of a step the gathered gradient is projected, before Trainer clips it."""
        if self.args.sharpness_radius and FORGET in inputs and self.args.forget_weight:
            parameters = self._parameters(self.scopes.projected).values()
            with relearned_weights(self._memory, parameters, self.args.sharpness_radius):
                loss = super().training_step(model, {FORGET: inputs[FORGET]}, num_items_in_batch)
            loss = loss + super().training_step(model, {RETAIN: inputs[RETAIN]}, num_items_in_batch)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {loss.item()}")
        if self.accelerator.sync_gradients:
            self._project()
            self._step_forget_losses = []
        return loss

    def _start_epoch(self) -> None:
        """Fix the epoch's order and renew the gradient memories (design, step 4)."""
        self._step_forget_losses = []
        self._epoch_window = RunningMeans()
        epoch = self.state.global_step // self._steps_per_epoch()
        # Accelerate and Trainer lose a batch sampler's set_epoch when a resumed multi-process run skips batches.
        self._sampler.set_epoch(epoch)
        if not self.args.uses_memories:
            return
        parameters = self._parameters(self.scopes.projected)
        if self._memory is None:
            self._memory = new_memory(self.args)
        self._memory.allocate([parameter.detach() for parameter in parameters.values()])
        if self._memory_to_resume is not None:
            self._memory.load_state_dict(safetensors.torch.load_file(self._memory_to_resume))
            self._memory_to_resume = None
            return
        self._renew_memories(epoch)

    def _start_step(self) -> None:
        """Renew the gradient memories within an epoch, where that is asked for."""
        step, every = self.state.global_step, self.args.memory_every
        if self.args.uses_memories and every and step % every == 0 and step % self._steps_per_epoch():
            self._renew_memories(step // self._steps_per_epoch(), step % self._steps_per_epoch())

    def _renew_memories(self, epoch: int, step: int = 0) -> None:
        """Replace the memories by gradients of random forget batches, a function of the seed, the epoch and its step."""
        started = time.perf_counter()
        parameters = self._parameters(self.scopes.projected)
        size, world = self._forget_batch_size(), self.accelerator.num_processes
        seed = self._data_seed() * 1_000_003 + epoch + 1 + 10_007 * step
        batches = random_batches(len(self.forget_dataset), size * world, self.args.memory_batches, seed)
        mine = [batch[self.accelerator.process_index :: world] for batch in batches]
        with evaluation_mode(self.model, batch_statistics=True):
            losses = renew_memories(
                self._memory,
                parameters,
                self._forget_losses(mine),
                average=partial(self.accelerator.reduce, reduction="mean") if world > 1 else None,
            )
        if not all(torch.isfinite(loss) for loss in losses):
            raise self._diverged("the forget loss is not finite")
        self.seconds["memory"] = self.seconds.get("memory", 0.0) + time.perf_counter() - started

    def _project(self) -> None:
        """Project the gathered gradient off the memories, unless it is not the step's turn or the ceiling is reached."""
        if self._step_forget_losses:
            mean = torch.stack(self._step_forget_losses).mean()
            self._last_forget_loss = self.accelerator.reduce(mean, reduction="mean").item()
        above = self._last_forget_loss is not None and self._last_forget_loss > self.forget_loss_ceiling
        self._log_window.add("above_ceiling_share", above)
        if not self.args.projection or self.state.global_step % self.args.projection_every:
            return
        if above:
            self._log_window.add("projected_share", False)
            return
        projection = project_gradients(self._memory, self._parameters(self.scopes.projected).values())
        self._log_window.add("projected_share", projection.applied)
        self._log_window.add("memory_alignment", min(projection.dots))

    def _end_epoch(self) -> None:
        """Stop a run whose retain loss rises instead of falling: it is being ruined, not repaired."""
        means = self._epoch_window.means(self.accelerator)
        if RETAIN not in means:
            return
        retain_loss = means[RETAIN]
        if self._first_epoch_retain_loss is None:
            self._first_epoch_retain_loss = retain_loss
        limit = self.args.divergence_factor * self._first_epoch_retain_loss
        if retain_loss > limit:
            raise self._diverged(
                f"the mean retain loss of this epoch is {retain_loss:.3g}, of the first {self._first_epoch_retain_loss:.3g} "
                f"(divergence_factor={self.args.divergence_factor})"
            )

    def _diverged(self, what: str) -> UnlearningDivergedError:
        good = last_complete_checkpoint(self.args.output_dir)
        where = f"The last good checkpoint is {good.name} in output_dir" if good else "No checkpoint was saved"
        return UnlearningDivergedError(
            f"Unlearning diverged at step {self.state.global_step}: {what}. {where}; the model in memory is not to be used. "
            f"Lower learning_rate ({self.args.learning_rate}), forget_weight ({self.args.forget_weight}), projection_margin "
            f"({self.args.projection_margin}) or forget_loss_ceiling ({self.forget_loss_ceiling:.3g}), or set max_grad_norm "
            f"({self.args.max_grad_norm})."
        )

    def _steps_per_epoch(self) -> int:
        return -(-self._sampler.steps // self.args.gradient_accumulation_steps)

    # ---- Trainer's public hooks ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Trim once, then repair. With `resume_from_checkpoint` (a path, or `True` for the newest complete checkpoint in
        `output_dir`) nothing is trimmed again, and the run ends in the same weights as one that was not interrupted.

        Raises:
            ValueError: no complete checkpoint to resume from, or one that ScissorhandsTrainer did not write.
        """
        self._forget_figures()
        self.trim_report, self.seconds, self._memory = None, {}, None
        self._first_epoch_retain_loss = self._last_forget_loss = self._memory_to_resume = None
        self._step_forget_losses = []
        if resume_from_checkpoint:
            if resume_from_checkpoint is True:
                resume_from_checkpoint = last_complete_checkpoint(self.args.output_dir)
                if resume_from_checkpoint is None:
                    raise ValueError(
                        f"resume_from_checkpoint=True, but output_dir={self.args.output_dir!r} has no complete checkpoint; "
                        "start anew with trainer.train()"
                    )
            state = load_run_state(Path(resume_from_checkpoint))
            self.trim_report, self.seconds = state["trim"], state["seconds"]
            self._first_epoch_retain_loss = state["first_epoch_retain_loss"]
            self._last_forget_loss = state["last_forget_loss"]
            memory = Path(resume_from_checkpoint) / MEMORY_NAME
            self._memory_to_resume = str(memory) if memory.is_file() else None
            resume_from_checkpoint = str(resume_from_checkpoint)
        started = time.perf_counter()
        output = super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
        self.seconds["train"] = self.seconds.get("train", 0.0) + time.perf_counter() - started
        if self.is_world_process_zero():
            self.report().save(self.args.output_dir)
        return output

    def report(self) -> UnlearningReport:
        """What is known of the last `train()`: effective settings, what was trimmed, loss curves, seconds, and the
        figures of `evaluate()` before and after. Others that you measure go into its `metrics`."""
        keys = (
            "step",
            "epoch",
            "loss",
            "retain_loss",
            "forget_loss",
            "projected_share",
            "memory_alignment",
            "grad_norm",
        )
        return UnlearningReport(
            settings={**self.args.method_settings(), "forget_loss_ceiling": self.forget_loss_ceiling},
            trim=self.trim_report or {},
            history=[{k: row[k] for k in keys if k in row} for row in self.state.log_history if "retain_loss" in row],
            seconds=dict(self.seconds),
            metrics={model: dict(figures) for model, figures in self._figures.items()},
            sets=self._set_sizes(),
            versions=library_versions(),
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds retain_loss, forget_loss, projected_share, above_ceiling_share and memory_alignment (⟨g, m⟩ before projection,
        the smallest of the M) to the logs of training steps: means over the steps since the last log."""
        if "loss" in logs:
            means = self._log_window.means(self.accelerator)
            self._log_window = RunningMeans()
            names = {RETAIN: "retain_loss", FORGET: "forget_loss"}
            logs.update({names.get(name, name): value for name, value in means.items()})
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Of both halves of a paired batch."""
        if not is_pair(inputs):
            return super().floating_point_ops(inputs)
        return sum(super(ScissorhandsTrainer, self).floating_point_ops(half) for half in inputs.values())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's; into a checkpoint it also writes what a resumed run needs: counts of the trim and, in mid-epoch, this
        process's gradient memories, which reveal the forget set and stay on local disk."""
        folder = Path(output_dir or self.args.output_dir)
        if _internal_call and is_checkpoint(folder) and self.args.should_save:
            # A finite loss can leave weights that are not, by one overflowing step; they must not pass for a good checkpoint.
            for name, parameter in self.model.named_parameters():
                if not torch.isfinite(parameter).all():
                    raise self._diverged(f"the weight {name!r} is not finite")
            folder.mkdir(parents=True, exist_ok=True)
            if self._memory is not None and self.state.global_step % self._steps_per_epoch():
                safetensors.torch.save_file(self._memory.state_dict(), folder / MEMORY_NAME)
            state = {
                "trim": self.trim_report,
                "settings": self.args.method_settings(),
                "first_epoch_retain_loss": self._first_epoch_retain_loss,
                "last_forget_loss": self._last_forget_loss,
                "seconds": self.seconds,
            }
            save_run_state(folder, state)
        super().save_model(output_dir, _internal_call=_internal_call)


def new_memory(args: ScissorhandsConfig) -> GradientMemory:
    """Empty memories with the projection's settings of ``args``."""
    return GradientMemory(
        size=args.memory_batches,
        margin=args.projection_margin,
        relative_margin=args.projection_margin_unit == "gradient",
        epsilon=args.projection_epsilon,
    )


class _ScissorhandsCallback(TrainerCallback):
    """Calls the trainer at the moments that it has no hook of its own for."""

    def __init__(self, trainer: ScissorhandsTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Set on a resumed run, and when auto_find_batch_size starts the loop again with the trimmed model.
        if self.trainer.trim_report is None:
            self.trainer.trim_report = self.trainer.trim()
            cut = self.trainer.trim_report
            for callback in self.trainer._stage_callbacks():
                callback.on_trim(cut)
            if cut["threshold"] is not None:
                self.trainer.log({"trim_threshold": cut["threshold"], "trimmed_weights": cut["trimmed"]})

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._start_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._start_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._end_epoch()
