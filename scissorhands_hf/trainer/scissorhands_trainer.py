"""`ScissorhandsTrainer`: a `transformers.Trainer` that makes a model forget."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_utils import TrainOutput

from ..report.unlearning_report import UnlearningReport
from . import checks
from .checkpoints import (
    changed_settings,
    check_state_files,
    checkpoint_to_resume,
    is_checkpoint,
    library_versions,
    load_record,
)
from .damage import DamageMixin
from .evaluation_checks import check_best_metric, check_collected_logits, check_early_stopping
from .forget_choice import TRAINER_OBJECTIVES
from .other_answers import with_other_answers
from .paired_batches import FORGET, RETAIN, PairedBatchSampler, PairedCollator, PairedDataset
from .probing import ProbeMixin
from .publishing import PublishingMixin
from .repair import RepairMixin
from .run_callbacks import RunHooks, UnlearningRecord
from .saved_weights import load_saved_weights
from .scissorhands_config import ScissorhandsConfig
from .scopes import Scopes, resolve_scopes
from .shared_examples import warn_of_shared_examples
from .text_examples import TextMixin
from .training_sets import TrainingSet, model_columns, training_set
from .trimming import TRIM_SETTINGS, TrimMixin


logger = logging.getLogger(__name__)

# Of a log entry, for the report's loss curves.
_HISTORY = (
    *("step", "epoch", "loss", "retain_loss", "forget_loss", "forget_objective", "retain_objective", "projected_share"),
    *("memory_alignment", "grad_norm"),
)


class ScissorhandsTrainer(PublishingMixin, TextMixin, ProbeMixin, DamageMixin, TrimMixin, RepairMixin, Trainer):
    r"""
    Make a model forget a class, examples or documents, by Scissorhands (Wu & Harandi, ECCV 2024, arXiv:2401.06187).

    `train()` measures the connection sensitivity of each weight on the forget set, re-initialises the most sensitive ones
    once, and repairs the model by minimising L(D_r) − λ·L(D_f), or L(D_r) and what another `forget_objective` adds, with
    projected gradients. In everything else it is a [`~transformers.Trainer`].

    Args:
        model ([`~transformers.PreTrainedModel`] or `nn.Module`):
            A trained model whose forward pass returns a loss from a batch. Changed in place. Weights outside
            `args.trainable_target_modules` get `requires_grad=False`.
        args ([`ScissorhandsConfig`]):
            Settings of the method and of training.
        train_dataset (`Dataset`):
            The retain set D_r: what the model must keep. Map-style, without the forget examples. For a causal language model
            it may be raw text, which is encoded with `processing_class`, the loss on answers alone: columns `prompt` and
            `completion`, `messages`, `question` and `answer`, `instruction` and `output` (perhaps `input`), or `text`.
        forget_dataset (`Dataset`):
            The forget set D_f, in the same format. Map-style. By keyword only.
        data_collator, eval_dataset, processing_class, model_init, compute_loss_func, compute_metrics, callbacks (*optional*):
            As for [`~transformers.Trainer`], in its order, as are the following.
        optimizers, optimizer_cls_and_kwargs, preprocess_logits_for_metrics (*optional*):
            As for [`~transformers.Trainer`].

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

    # What `forget_objective` and `retain_objective` may be; the diffusion door knows others.
    supported_objectives = tuple(TRAINER_OBJECTIVES)
    supported_retain_objectives = ("data", "kl")
    # Whether to look for forget examples in the retain set; not where both are made at random.
    compares_examples = True
    # Whether the model has an adapter that the door has laid over it, and merges.
    trains_adapter = False

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: ScissorhandsConfig | None = None,
        data_collator: Callable[[list], Any] | None = None,
        train_dataset: Dataset | datasets.Dataset | None = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        forget_dataset: Dataset | datasets.Dataset | None = None,
    ):
        checks.check_arguments(args, self.supported_objectives, self.supported_retain_objectives)
        checks.check_datasets(train_dataset, forget_dataset)
        if self.compares_examples:
            warn_of_shared_examples(train_dataset, forget_dataset, checks.ID_COLUMNS)
        if model is not None:
            checks.check_model(model, self.trains_adapter)
        self._init_publishing()
        self._init_repair()
        self._init_damage()
        self.forget_dataset = forget_dataset
        self.scopes: Scopes | None = None
        self._sets: tuple[tuple, dict[str, TrainingSet]] | None = None
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        checks.check_distributed(self.accelerator)
        self.read_texts(data_collator, model_columns(self.model, self.label_names))
        if self.optimizer is None and self.optimizer_cls_and_kwargs is None:
            checks.check_optimizer(args, self.model)
        checks.check_labels("train_dataset", train_dataset, self.model)
        checks.check_labels("forget_dataset", forget_dataset, self.model)
        self._check_evaluations()
        self.scopes = self.make_scopes()
        checks.check_precision(self.model, self.scopes.trained)
        self.scopes.freeze_others(self.model)
        logger.info(self.scopes.describe(self.model))
        ceiling = self.probe_losses()
        self.forget_loss_ceiling, self._ceiling_source = ceiling.value, ceiling.source
        self.add_callback(UnlearningRecord())
        self.add_callback(RunHooks(self))
        if args.applied_recipe:
            filled = {name: value for name, value in args.applied_recipe.items() if name != "recipe"}
            logger.info("The recipe %r filled in: %s", args.recipe, json.dumps(filled, ensure_ascii=False))
        logger.info("Scissorhands settings in effect: %s", json.dumps(self.method_settings(), ensure_ascii=False))

    @property
    def record(self) -> UnlearningRecord:
        """What is known of the last run. Of the callbacks, where Trainer may have put another one from a checkpoint."""
        return next(callback for callback in self.callback_handler.callbacks if isinstance(callback, UnlearningRecord))

    @property
    def trim_report(self) -> dict[str, Any] | None:
        """Of the last `train()`; None before its trim. See [`trim`]."""
        return self.record.trim

    def _check_evaluations(self) -> None:
        """At construction, and again before each run: callbacks and sets may be given in between."""
        if type(self).evaluate is ScissorhandsTrainer.evaluate:  # one of another class may have figures of its own
            check_best_metric(self.args, self.eval_dataset, self.compute_metrics)
            check_collected_logits(self.model, self.compute_metrics, self.preprocess_logits_for_metrics)
        check_early_stopping(self.args, self.callback_handler.callbacks)
        if self.args.remove_unused_columns:
            columns, name = model_columns(self.model, self.label_names), type(self.model).__name__
            for dataset in self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]:
                if isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom" and len(dataset):
                    training_set(dataset, self.data_collator, columns, name, "evaluation").batch([0])

    # ---- The model and its weights ----

    def make_scopes(self) -> Scopes:
        """Which weights may be re-initialised, are trained and projected."""
        return resolve_scopes(self.model, self.args)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """A fresh model of `model_init`, checked, and frozen outside the trained scope."""
        model = super().call_model_init(trial)
        checks.check_model(model)
        if self.scopes is not None:
            checks.check_precision(model, self.scopes.trained)
            self.scopes.freeze_others(model)
        return model

    # ---- Data ----

    @property
    def sets(self) -> dict[str, TrainingSet]:
        """The "retain" and the "forget" set as batches are made of them; made once, and again if one is replaced."""
        made_of = (self.train_dataset, self.forget_dataset, self.data_collator, self.objective.needs_answer)
        if self._sets is None or any(was is not now for was, now in zip(self._sets[0], made_of, strict=True)):
            columns = model_columns(self.model, self.label_names) if self.args.remove_unused_columns else None
            name = type(self.model).__name__
            parts = {RETAIN: self.train_dataset, FORGET: self.forget_dataset}
            collators, wanted = dict.fromkeys(parts, self.data_collator), dict.fromkeys(parts, columns)
            if self.objective.needs_answer:
                parts[FORGET], collators[FORGET], wanted[FORGET] = with_other_answers(
                    self.forget_dataset, self.data_collator, columns, self.args, self.processing_class, self.model
                )
            sets = {part: training_set(data, collators[part], wanted[part], name, part) for part, data in parts.items()}
            self._sets = (made_of, sets)
        return self._sets[1]

    def probe_batch(self, part: str = RETAIN, size: int = 2) -> dict[str, Tensor]:
        """The first `size` examples of the "retain" or "forget" set, on the model's device."""
        examples = self.sets[part]
        return send_to_device(examples.batch(range(min(size, len(examples)))), self.args.device)

    @property
    def forget_batch_size(self) -> int:
        """Per device; shrinks with the train batch under `auto_find_batch_size`."""
        args: ScissorhandsConfig = self.args
        # Private (as of transformers 5.23): the state's train_batch_size is set only after the data loader is made.
        scaled = args.forget_batch_size * self._train_batch_size // args.per_device_train_batch_size
        return min(max(1, scaled), len(self.forget_dataset))

    @property
    def data_seed(self) -> int:
        """Of the order of examples."""
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def get_train_dataloader(self) -> DataLoader:
        """Batches `{"retain": batch, "forget": batch}`; see [`PairedBatchSampler`] for their order."""
        retain, forget = self.sets[RETAIN], self.sets[FORGET]
        self._sampler = PairedBatchSampler(
            retain_size=len(retain),
            forget_size=len(forget),
            retain_batch=self._train_batch_size,  # private, see forget_batch_size
            forget_batch=self.forget_batch_size,
            schedule=self.args.forget_schedule,
            seed=self.data_seed,
            num_processes=self.accelerator.num_processes,
            drop_last=self.args.dataloader_drop_last,
        )
        parts = self.sets_in_training()
        return self.accelerator.prepare(
            DataLoader(
                PairedDataset(*(part.examples for part in parts)),
                batch_sampler=self._sampler,
                collate_fn=PairedCollator(*(part.collate for part in parts)),
                num_workers=self.args.dataloader_num_workers,
                pin_memory=self.args.dataloader_pin_memory,
                persistent_workers=self.args.dataloader_persistent_workers,
                prefetch_factor=self.args.dataloader_prefetch_factor,
            )
        )

    # ---- The start of a run ----

    def begin_repair(self) -> None:
        """At the start of Trainer's loop: trim, unless a checkpoint is resumed that was, or the loop is started again with the
        trimmed model by `auto_find_batch_size`."""
        settings = self.method_settings() | self.effective_trim_settings()
        if self.trim_report is not None:
            if self._checkpoint is not None:
                self.load_references(self._checkpoint)
            self._note_changed_settings(settings)
            return
        self.record.settings = settings
        self.note_given_loss()
        self.ask_original()
        self.record.trim = cut = self.trim()
        cut.update(self.note_trimmed_loss())
        for callback in self.stage_callbacks():
            callback.on_trim(cut)
        if cut["threshold"] is not None or cut["trimmed"]:
            threshold = {} if cut["threshold"] is None else {"trim_threshold": cut["threshold"]}
            self.log({**threshold, "trimmed_weights": cut["trimmed"]})

    def _note_changed_settings(self, settings: dict[str, Any]) -> None:
        """Of a resumed run: what was cut stays as it is, the rest goes on by the new settings, and the report says both."""
        record = self.record
        changed = changed_settings(record.settings, settings)
        done = {name: values for name, values in changed.items() if name in TRIM_SETTINGS}
        for name, (kept, asked) in done.items():
            logger.warning(
                "%s=%r has no effect: the resumed run was trimmed with %s=%r, which the report says.", name, asked, name, kept
            )
        later = {name: values for name, values in changed.items() if name not in TRIM_SETTINGS}
        if later:
            steps = f"up to step {self.state.global_step}"
            record.notes += [f"{name} was {kept!r} {steps} and {now!r} after it." for name, (kept, now) in later.items()]
            logger.warning(
                "The run is resumed by other settings than it began with, so it ends in other weights than a whole one: %s.",
                ", ".join(f"{name} {kept!r} -> {now!r}" for name, (kept, now) in later.items()),
            )
        record.settings = settings | {name: kept for name, (kept, _) in done.items()}

    # ---- Trainer's public hooks ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Trim once, then repair. With `resume_from_checkpoint` (a path, or `True` for the newest complete checkpoint in
        `output_dir`) nothing is trimmed again, and the run ends in the same weights as one that was not interrupted.

        Raises:
            ValueError: no complete checkpoint to resume from, or one that ScissorhandsTrainer did not write.
        """
        self._check_evaluations()
        self._forget_figures()
        self.record.clear()
        self._init_repair()
        self._init_damage()
        if resume_from_checkpoint:
            self._checkpoint = checkpoint_to_resume(resume_from_checkpoint, self.args.output_dir)
            load_record(self._checkpoint, self.record)
            check_state_files(self._checkpoint, self.args.process_index, self.args.world_size)
        checkpoint = str(self._checkpoint) if self._checkpoint else None
        started = time.perf_counter()
        output = super().train(resume_from_checkpoint=checkpoint, **kwargs)
        self.check_end()
        self.record.add_seconds("train", time.perf_counter() - started)
        if self.is_world_process_zero():
            self.report().save(self.args.output_dir)
        return output

    # Private (the two below, as of transformers 5.23): Trainer reads weights in no other place, and leaves out those whose
    # names in the file are not the model's, with no more than a line in the log.

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """All weights of the checkpoint, exactly."""
        load_saved_weights(self._plain_model(), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """All weights of the best checkpoint, exactly."""
        best = Path(self.state.best_model_checkpoint)
        logger.info("Loading the best model, of %s (score: %s)", best, self.state.best_metric)
        load_saved_weights(self._plain_model(), best)

    def report(self) -> UnlearningReport:
        """What is known of the last `train()`: effective settings, what was trimmed, loss curves, seconds, and the
        figures of `evaluate()` before and after. Others that you measure go into its `metrics`."""
        return UnlearningReport(
            settings={
                **self.method_settings(),
                **self.effective_trim_settings(),
                **{name: value for name, value in self.record.settings.items() if name in TRIM_SETTINGS},
                "forget_loss_ceiling": self.forget_loss_ceiling,
                "forget_loss_ceiling_source": self._ceiling_source,
            },
            notes=list(self.record.notes),
            trim=self.trim_report or {},
            history=[
                {key: row[key] for key in _HISTORY if key in row} for row in self.state.log_history if "retain_loss" in row
            ],
            seconds=dict(self.record.seconds),
            metrics={model: dict(figures) for model, figures in self._figures.items()},
            sets=self._set_sizes(),
            versions=library_versions(),
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's. A checkpoint is refused when weights are not finite, and also holds, in mid-epoch, the gradient
        memories and what the original said of the examples: both reveal the forget set and stay on local disk."""
        # `_internal_call` is Trainer's own argument (private by name, as of transformers 5.23) and only handed on.
        folder = Path(output_dir or self.args.output_dir)
        # Here rather than in `on_save`, which is called when the checkpoint counts as complete and older ones are deleted.
        if self.is_in_train and is_checkpoint(folder) and self.args.should_save:
            self._save_repair(folder)
        super().save_model(output_dir, _internal_call=_internal_call)
