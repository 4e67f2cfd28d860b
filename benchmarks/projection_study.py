"""Why does the projection do so little for a pipeline? Along one repair of the shipped pipeline, step by step:

    python benchmarks/projection_study.py --steps 60

- opposed: share of steps whose gradient opposes a memory, so that the projection acts at all;
- fresh: cosine of the stored memory with the memory as it would be now (1: not stale);
- against plain / against Adam: share of steps in which the step that plain gradient descent, or Adam, takes after the
  projection still descends the forget set's denoising loss to first order, measured with the present forget gradient.

Once with memories of the epoch's start (one epoch: as published) and once with memories renewed at every step. The
objective is negative guidance; no weight is trimmed, no text layer edited, no look-ahead used: the projection stands alone.
"""

import argparse
from typing import Any
from unittest import mock

import torch
from erasure_measure import SAMPLING, load_pipeline
from transformers import TrainerCallback

from scissorhands_hf import erase_concept
from scissorhands_hf.erasure import erase as erase_module
from scissorhands_hf.erasure.erasure_trainer import ConceptErasureTrainer


class Watch(TrainerCallback):
    """Looks at gradients after the projection, and at what the optimizer makes of them."""

    def __init__(self, trainer: ConceptErasureTrainer):
        self.trainer, self.rows = trainer, []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        self.parameters = list(trainer._memories.parameters.values())
        kept = [parameter.grad.clone() for parameter in self.parameters]
        self.now = self._forget_memory(list(range(64)))
        for parameter, gradient in zip(self.parameters, kept, strict=True):
            parameter.grad = gradient
        stored = torch.cat([row[0] for row in trainer._memories._memory.rows])
        self.row = {
            "fresh": torch.nn.functional.cosine_similarity(stored, self.now, dim=0).item(),
            "against plain": (torch.cat([g.flatten() for g in kept]) @ self.now).item() < 0,
        }
        self.before = torch.cat([parameter.detach().flatten() for parameter in self.parameters])

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The step is -lr·(gradient as the optimizer sees it); a step along the memory -∇L(D_f) descends the forget loss.
        step = torch.cat([parameter.detach().flatten() for parameter in self.parameters]) - self.before
        self.rows.append({**self.row, "against Adam": (step @ self.now).item() > 0})

    def _forget_memory(self, indices: list[int]) -> torch.Tensor:
        (compute,) = self.trainer.forget_losses([indices])
        return -torch.cat([g.flatten() for g in torch.autograd.grad(compute(), self.parameters)])


def study(concept: str, steps: int, memory_every: int | None, seed: int) -> dict[str, float]:
    watches: list[Watch] = []

    class Watched(ConceptErasureTrainer):
        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            watches.append(Watch(self))
            self.add_callback(watches[-1])

    with mock.patch.object(erase_module, "ConceptErasureTrainer", Watched):
        report = erase_concept(
            load_pipeline(), concept, recipe="concept", projection=True, memory_every=memory_every, trim_ratio=0.0,
            forget_objective="negative_guidance", learning_rate=3e-4, max_steps=steps, logging_steps=1, seed=seed,
            sampling=SAMPLING, report_images=0, disable_tqdm=True,
        )  # fmt: skip
    rows = watches[0].rows
    projected = [row["projected_share"] for row in report.history if "projected_share" in row]
    figures = {"opposed": sum(projected) / len(projected)}
    return figures | {name: sum(float(row[name]) for row in rows) / len(rows) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", default="dress")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for label, every in (("memories of the start", None), ("memories renewed at every step", 1)):
        figures = study(options.concept, options.steps, every, options.seed)
        print(f"{label}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
