"""Step 4 in a trainer: the loss of a paired batch, the projected step, and the memories that it is projected off."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.modes import evaluation_mode, unrecorded_batch_norm
from ..core.sensitivity import is_finite
from .monitoring import RunningMeans, UnlearningDivergedError, diverged
from .objective_losses import LossPart, ObjectiveMixin
from .paired_batches import FORGET, RETAIN, PairedBatchSampler, is_pair, random_batches
from .run_callbacks import UnlearningRecord
from .run_memories import MEMORY_NAME, RunMemories
from .scissorhands_config import ScissorhandsConfig
from .scopes import Scopes


class RepairMixin(ObjectiveMixin):
    """
    Repair by projected gradients; to be named before Trainer: `class MyTrainer(RepairMixin, Trainer)`. Beside what a
    [`~transformers.Trainer`] has, it needs what is declared here.
    """

    args: ScissorhandsConfig
    scopes: Scopes
    record: UnlearningRecord
    forget_dataset: Any
    forget_loss_ceiling: float
    """Above it the forget loss is not pushed further."""
    data_seed: int
    forget_batch_size: int
    """Per device, as the run has it."""
    shared_forget_losses: Callable[[list[list[int]], int], Iterator[list[Callable[[], Tensor]]]]
    """For a process's share of each batch of forget indices, callables that compute the loss of its parts."""

    def _init_repair(self) -> None:
        """Before `Trainer.__init__`, and again at the start of each run."""
        self._sampler: PairedBatchSampler | None = None
        self._memories: RunMemories | None = None
        self._checkpoint: Path | None = None
        self._step_window = RunningMeans()
        self._log_window = RunningMeans()
        self._init_objective()

    def compute_sensitivity_loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """L(D_f) of which the sensitivity and the gradient memories take the gradient."""
        return self.compute_batch_loss(model, batch)

    def compute_retain_sensitivity_loss(self, model: nn.Module, batch: dict[str, Any]) -> Tensor:
        """L(D_r) of the given model, whose gradient the sensitivity is related to with `saliency="relative"`."""
        return self.compute_batch_loss(model, batch)

    # ---- One step ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: dict[str, float] | Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """L(D_r) and what the objective adds to it, as −λ·min(L(D_f), ceiling), of a paired batch, or one of the two of a half,
        each weighed by its share in the step; the plain loss of a flat (evaluation) batch.

        Args:
            num_items_in_batch (`dict[str, float]` or `Tensor` or `int`, *optional*):
                Of a pair, what the parts of the whole step weigh, see [`get_batch_samples`]; default: the pair is the step.
                Of a flat batch, Trainer's.
        """
        if not is_pair(inputs):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        totals = num_items_in_batch or {part: float(self.part_weight(part, half)) for part, half in inputs.items()}
        loss, outputs = torch.zeros((), device=self.args.device), {}
        if RETAIN in inputs:
            part, outputs = self.retain_part(model, inputs[RETAIN], int(totals[RETAIN]))
            share = self.share_of(self.part_weight(RETAIN, inputs[RETAIN]), totals[RETAIN])
            loss = share * part.term
            self._note(RETAIN, part, share, self._log_window)
        if FORGET in inputs:
            # With λ = 0 the forget loss is still measured, but nothing is kept for a backward pass.
            ungraded = contextlib.nullcontext() if self.forget_weight else torch.no_grad()
            with ungraded, unrecorded_batch_norm(self.model):
                part = self.forget_part(model, inputs[FORGET], int(totals[FORGET]))
            share = self.share_of(self.part_weight(FORGET, inputs[FORGET]), totals[FORGET])
            self._note(FORGET, part, share, self._log_window, self._step_window)
            if self.forget_weight:
                loss = loss + share * part.term
        return (loss, outputs) if return_outputs else loss

    def _note(self, name: str, part: LossPart, share: float, log: RunningMeans, *others: RunningMeans) -> None:
        if part.loss is not None:
            weight = share if part.tokens is None else part.tokens
            for window in (log, *others):
                window.add(name, part.loss, weight)
        for key, value in part.logged.items():
            log.add(key, value, share)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One micro-batch; at the last of a step the gathered gradient is projected, before Trainer clips it."""
        if self.args.sharpness_radius and FORGET in inputs and self.forget_weight:
            with self._memories.relearned(self.args.sharpness_radius):
                loss = super().training_step(model, {FORGET: inputs[FORGET]}, num_items_in_batch)
            loss = loss + super().training_step(model, {RETAIN: inputs[RETAIN]}, num_items_in_batch)
        else:
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise self._diverged(f"the loss is {loss.item()}")
        if self.accelerator.sync_gradients:
            self._project()
            self._step_window = RunningMeans()
        return loss

    # ---- In the course of a run ----

    def begin_epoch(self) -> None:
        """Fix the epoch's order and renew the gradient memories (design, step 4)."""
        self._step_window = RunningMeans()
        epoch = self.state.global_step // self._steps_per_epoch()
        # Accelerate and Trainer lose a batch sampler's set_epoch when a resumed multi-process run skips batches.
        self._sampler.set_epoch(epoch)
        if not self.args.uses_memories:
            return
        if self._memories is None:
            parameters = {name: self.model.get_parameter(name) for name in self.scopes.projected}
            self._memories = RunMemories(self.args, parameters, self.accelerator)
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is not None and (checkpoint / MEMORY_NAME).is_file():  # those of an epoch that goes on
            self._memories.load(checkpoint)
        else:
            self.renew_memories(epoch)

    def begin_step(self) -> None:
        """Renew the gradient memories within an epoch, where that is asked for."""
        step, every = self.state.global_step, self.args.memory_every
        if self.args.uses_memories and every and step % every == 0 and step % self._steps_per_epoch():
            self.renew_memories(step // self._steps_per_epoch(), step % self._steps_per_epoch())

    @property
    def memory_batch_size(self) -> int:
        """Forget examples in each memory, per device."""
        return self.forget_batch_size

    @property
    def memory_examples_at_once(self) -> int:
        """How many of them the model sees at once."""
        return self.memory_batch_size

    def renew_memories(self, epoch: int, step: int = 0) -> None:
        """Replace the memories by gradients of random forget batches, a function of the seed, the epoch and its step."""
        started = time.perf_counter()
        size, world = self.memory_batch_size, self.accelerator.num_processes
        seed = self.data_seed * 1_000_003 + epoch + 1 + 10_007 * step
        batches = random_batches(len(self.forget_dataset), size * world, self.args.memory_batches, seed)
        mine = [batch[self.accelerator.process_index :: world] for batch in batches]
        with evaluation_mode(self.model, batch_statistics=True):
            finite = self._memories.renew(self.shared_forget_losses(mine, self.memory_examples_at_once))
        if not finite:
            raise self._diverged("the forget loss is not finite")
        self.record.add_seconds("memory", time.perf_counter() - started)

    def _project(self) -> None:
        """Project the gathered gradient off the memories, unless it is not the step's turn or the ceiling is reached."""
        record = self.record
        record.last_forget_loss = self._step_window.means(self.accelerator).get(FORGET, record.last_forget_loss)
        above = record.last_forget_loss is not None and record.last_forget_loss > self.forget_loss_ceiling
        if not self._bounds_examples:  # else each example counts, where its loss is computed
            self._log_window.add("above_ceiling_share", above)
        if not self.args.projection or self.state.global_step % self.args.projection_every:
            return
        if above:
            self._log_window.add("projected_share", False)
            return
        projection = self._memories.project()
        self._log_window.add("projected_share", projection.applied)
        self._log_window.add("memory_alignment", min(projection.dots))

    def _save_repair(self, folder: Path) -> None:
        """Into a checkpoint, before Trainer writes its own part: the memories that an epoch goes on with."""
        # A finite loss can leave weights that are not, by one overflowing step; they must not pass for a good checkpoint.
        for name, parameter in self.model.named_parameters():
            if not is_finite(parameter.detach()):
                raise self._diverged(f"the weight {name!r} is not finite")
        self.save_references(folder)
        if self._memories is not None and self.state.global_step % self._steps_per_epoch():
            folder.mkdir(parents=True, exist_ok=True)
            self._memories.save(folder)

    def _diverged(self, what: str) -> UnlearningDivergedError:
        return diverged(what, self.state.global_step, self.args, self.forget_weight, self.forget_loss_ceiling)

    def _steps_per_epoch(self) -> int:
        return -(-self._sampler.steps // self.args.gradient_accumulation_steps)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds retain_loss, forget_loss, projected_share, above_ceiling_share, memory_alignment (⟨g, m⟩ before projection, the
        smallest of the M) and, where they are others than these losses, forget_objective and retain_objective to the logs of
        training steps: means over the steps since the last log."""
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
        return sum(super(RepairMixin, self).floating_point_ops(half) for half in inputs.values())
