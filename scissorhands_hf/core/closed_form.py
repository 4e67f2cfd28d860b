"""The closed-form edit of layers that read text alone: other answers for some inputs, the old ones for the rest.

Unified Concept Editing (Gandikota et al., arXiv:2308.14761, equation 7), with two changes: the sums are means, so that the
weights below do not depend on how many prompts there are, and the new answer is overshot, which is what makes it last. With
`c` an input to edit, `a` the one whose answer it is to get, `k` an input to keep, `W` the old weight and ⟨·⟩ a mean:

`W* = W (⟨c* cᵀ⟩ + κ⟨k kᵀ⟩ + λI) (⟨c cᵀ⟩ + κ⟨k kᵀ⟩ + λI)⁻¹`, with `c* = a + α(a − c)`.

A bias adds the same to every answer and needs no edit. What stands to the right of `W` is the same for all layers that read the
same inputs, and is solved for once.
"""

import torch
from torch import Tensor


class ClosedFormEdit:
    r"""
    Sums over inputs, from which the weights of all layers that read these inputs are solved. Three matrices of (width, width)
    are kept, however many inputs there are, and a fourth once a weight was solved for.

    Args:
        width (`int`):
            Of the inputs.
        overshoot (`float`):
            α ≥ 0. 0: the other input's answer itself; 1: as far again beyond it, away from the old answer.
        keep_weight (`float`):
            κ ≥ 0, of the inputs to keep against those to edit.
        ridge (`float`):
            λ > 0 in units of the mean square of the edited inputs' elements; holds directions that no input has.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`):
            Where sums are kept and solved, in float64 (float32 on devices without it).

    Attributes:
        edits: inputs to edit that were added.
    """

    def __init__(self, width: int, overshoot: float, keep_weight: float, ridge: float, device: torch.device | str = "cpu"):
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self.overshoot, self.keep_weight, self.ridge = overshoot, keep_weight, ridge
        self._cross, self._edited, self._kept = (torch.zeros(width, width, dtype=dtype, device=device) for _ in range(3))
        self.edits = self._keeps = 0
        self._solution: Tensor | None = None

    @torch.no_grad()
    def add_edit(self, old: Tensor, new: Tensor) -> None:
        """Let `old` (n, width) be answered as `new` (n, width) is, and beyond."""
        old, new = old.to(self._edited), new.to(self._edited)
        self._cross += ((1 + self.overshoot) * new - self.overshoot * old).T @ old
        self._edited += old.T @ old
        self.edits += len(old)
        self._solution = None

    @torch.no_grad()
    def add_kept(self, inputs: Tensor) -> None:
        """Keep the answers to `inputs` (n, width)."""
        inputs = inputs.to(self._kept)
        self._kept += inputs.T @ inputs
        self._keeps += len(inputs)
        self._solution = None

    @torch.no_grad()
    def solve(self, weight: Tensor) -> Tensor:
        """The edited weight, in shape (outputs, width), dtype and on the device of `weight`, which is not changed.

        Raises:
            ValueError: no edit was added.
        """
        if not self.edits:
            raise ValueError("nothing to edit: call add_edit first")
        if self._solution is None:
            self._solution = self._solve()
        return (weight.to(self._solution) @ self._solution).to(weight)

    def _solve(self) -> Tensor:
        """R A⁻¹ (width, width), with R and A the two sums in brackets."""
        edited = self._edited / self.edits
        base = self.keep_weight * self._kept / max(1, self._keeps)
        base += self.ridge * edited.diagonal().mean() * torch.eye(len(edited), dtype=base.dtype, device=base.device)
        # A is symmetric, so A (R A⁻¹)ᵀ = Rᵀ.
        return torch.linalg.solve(edited + base, (self._cross / self.edits + base).T).T
