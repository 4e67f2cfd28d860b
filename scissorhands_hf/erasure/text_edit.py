"""The closed-form edit of a denoiser: its layers that read text answer a concept's prompts as they answer others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..core import ClosedFormEdit
from .erasure_config import ConceptErasureConfig
from .families import Family, TextInputs


# States that differ by less than this share of the largest one are the same: the text before a concept, read from the left.
SAME = 1e-5
PROMPTS_AT_ONCE = 16


def edited_inputs(family: Family) -> list[TextInputs]:
    """The kinds of inputs of a family's denoiser that the edit solves for, each with the names of the layers that read it."""
    return family.text_inputs(family.encode_prompts([""]), torch.empty(1, 1, 8, 8, device=family.device))


def check_scope(edited: set[str], reinit: Iterable[str]) -> None:
    """
    Raises:
        ValueError: weights that the edit solves for are in the scope of re-initialisation.
    """
    if both := sorted(edited & set(reinit)):
        raise ValueError(
            f"reinit_target_modules holds {both[0]!r}, which forget_objective='closed_form' solves for, so cutting it would be "
            "undone. Leave layers that read text out of reinit_target_modules, or choose forget_objective='negative_guidance'."
        )


class TextEdit:
    """
    What all text layers of a denoiser are to answer, summed over prompts; one `ClosedFormEdit` for each kind of input.

    Args:
        family (`Family`):
            Of the pipeline, whose text encoders are at hand.
        args (`ConceptErasureConfig`):
            `closed_form_overshoot`, `closed_form_keep_weight` and `closed_form_ridge`.
    """

    def __init__(self, family: Family, args: ConceptErasureConfig):
        self.family, self.args = family, args
        self._edits: dict[tuple[str, ...], ClosedFormEdit] = {}
        self.changes: dict[str, float] = {}

    @torch.no_grad()
    def gather(
        self,
        edits: Sequence[tuple[str, str]],
        kept: Sequence[str],
        latents: Tensor,
        on_prompt: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """
        Encode prompts and add them up.

        Args:
            edits (`Sequence[tuple[str, str]]`):
                Prompts, and those whose answers they are to get.
            kept (`Sequence[str]`):
                Prompts whose answers are to stay.
            latents (`Tensor`):
                (any number, *latent shape), of the size that pictures have.
            on_prompt (`Callable[[int, int], None]`, *optional*, defaults to `lambda done, total: None`):
                Called with prompts done and in all.

        Raises:
            ValueError: the text encoders read the prompts of every edit alike, so that there is nothing to edit.
        """
        total, done = len(edits) + len(kept), 0
        with tqdm(total=total, desc="Prompts", disable=self.args.disable_tqdm) as bar:

            def tell(count: int) -> None:
                nonlocal done
                done += count
                bar.update(count)
                on_prompt(done, total)

            tell(0)
            for start in range(0, len(edits), PROMPTS_AT_ONCE):
                chunk = edits[start : start + PROMPTS_AT_ONCE]
                old, new = (self._inputs([pair[side] for pair in chunk], latents) for side in (0, 1))
                for before, after in zip(old, new, strict=True):
                    for row, pair in enumerate(chunk):
                        self._add_edit(before, after, row, pair)
                tell(len(chunk))
            for start in range(0, len(kept), PROMPTS_AT_ONCE):
                chunk = kept[start : start + PROMPTS_AT_ONCE]
                for part in self._inputs(chunk, latents):
                    everywhere = part.inputs.flatten(0, 1)
                    self._of(part).add_kept(everywhere if part.read is None else everywhere[part.read.flatten()])
                tell(len(chunk))
        # A layer whose inputs do not tell the prompts apart has nothing to answer differently.
        self._edits = {layers: edit for layers, edit in self._edits.items() if edit.edits}
        if not self._edits:
            old, new = edits[0]
            raise ValueError(
                f"the text encoder reads {old!r} and {new!r} alike, so the one cannot be answered as the other. Choose another "
                "anchor, or write the concept in words that the pipeline's tokenizer knows."
            )

    def _inputs(self, prompts: Sequence[str], latents: Tensor) -> list[TextInputs]:
        return self.family.text_inputs(self.family.encode_prompts(list(prompts)), latents)

    def _of(self, part: TextInputs) -> ClosedFormEdit:
        if part.layers not in self._edits:
            args = self.args
            self._edits[part.layers] = ClosedFormEdit(
                part.inputs.shape[-1],
                args.closed_form_overshoot,
                args.closed_form_keep_weight,
                args.closed_form_ridge,
                part.inputs.device,
            )
        return self._edits[part.layers]

    def _add_edit(self, before: TextInputs, after: TextInputs, row: int, prompts: tuple[str, str]) -> None:
        pairs = [(0, 0)] if before.summary else self.family.matching_places(*prompts)
        if before.read is not None:
            pairs = [(old, new) for old, new in pairs if before.read[row, old] and after.read[row, new]]
        places = torch.tensor(pairs, device=before.inputs.device).T
        old, new = before.inputs[row, places[0]], after.inputs[row, places[1]]
        moved = (old - new).abs().amax(1) > SAME * old.abs().amax()
        self._of(before).add_edit(old[moved], new[moved])

    @property
    def layers(self) -> list[str]:
        """Names of the edited layers in the denoiser."""
        return [name for layers in self._edits for name in layers]

    def apply(self) -> None:
        """Give every layer its edited weight, in place, one at a time; `changes` then has ‖W* − W‖ / ‖W‖ of each."""
        for layers, edit in self._edits.items():
            for name in layers:
                weight = self._weight(name)
                edited = edit.solve(weight.detach())
                self.changes[name] = ((edited - weight.detach()).norm() / weight.detach().norm()).item()
                weight.data.copy_(edited)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the layers are edited; afterwards they are as before, bit for bit. Holds a copy of these layers meanwhile."""
        originals = {name: self._weight(name).detach().clone() for name in self.layers}
        try:
            self.apply()
            yield
        finally:
            for name, original in originals.items():
                self._weight(name).data.copy_(original)

    def _weight(self, name: str) -> nn.Parameter:
        return self.family.denoiser.get_submodule(name).weight

    def summary(self) -> dict[str, Any]:
        """How many layers were edited, how many weights they have, and by how much each changed, as a share of its norm."""
        weights = sum(self._weight(name).numel() for name in self.layers)
        return {"layers": len(self.layers), "weights": weights, "per_layer": dict(self.changes)}
