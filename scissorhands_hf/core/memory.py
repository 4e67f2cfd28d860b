"""Step 4 of Scissorhands: gradient memories of the forget loss, and the projection of the repair gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def nonnegative_coefficients(gram: Tensor, dots: Tensor, margins: Tensor, epsilon: float) -> Tensor:
    """Solve `v = argmin_{v ≥ c} ½ vᵀ(MMᵀ + εI)v + vᵀ(Mg)`.

    For one memory `v = max(c, −⟨m, g⟩ / (‖m‖² + ε))`. For more, with `P = MMᵀ + εI = LLᵀ` and `w = v − c ≥ 0`, the problem is
    `min_w ‖Lᵀw + L⁻¹(Mg + Pc)‖`, a non-negative least-squares problem, solved exactly by scipy's active-set method.

    Args:
        gram (`Tensor`):
            `MMᵀ`, float64, shape (M, M).
        dots (`Tensor`):
            `Mg`, float64, shape (M,).
        margins (`Tensor`):
            The lower bounds c, float64, shape (M,), >= 0.
        epsilon (`float`):
            Ridge, > 0; keeps the problem strictly convex when memories are parallel.

    Returns:
        v, float64, shape (M,).
    """
    if dots.numel() == 1:
        return torch.maximum(margins, -dots / (gram[0] + epsilon))
    # The only import beside torch in this room, and only for those who keep several memories.
    from scipy.optimize import nnls

    # Beside memories of norm² above 1e9 the published ridge is lost in float64's rounding; the second keeps P positive.
    ridge = max(epsilon, 1e-12 * gram.diagonal().max().item())
    ridged = gram + ridge * torch.eye(len(dots), dtype=gram.dtype)
    factor = torch.linalg.cholesky(ridged)
    target = -torch.linalg.solve_triangular(factor, (dots + ridged @ margins).unsqueeze(1), upper=False)
    solution, _ = nnls(factor.T.numpy(), target.squeeze(1).numpy())
    return margins + torch.from_numpy(solution)


_CHUNK = 1 << 22  # elements of each memory widened to float64 at a time


@dataclass(frozen=True)
class Projection:
    """What one projection did. `dots`: ⟨g, m_i⟩ before it. `coefficients`: v_i, all zero when g was left alone."""

    dots: list[float]
    coefficients: list[float]

    @property
    def applied(self) -> bool:
        return any(self.coefficients)


class GradientMemory:
    """M gradient memories `m_i = ∇(−L(D_f))` and the projection of a gradient off their half-spaces.

    If any `⟨g, m_i⟩ < 0` (the step would make the model remember), then `g ← g + Σ v_i m_i`. Memories live where the gradients
    live, as one (M, numel) matrix for each parameter, so a step costs one matrix-vector product to look and one more to
    correct. Averaged-GEM mathematics, written from its formula.

    Args:
        size (`int`, *optional*, defaults to `1`):
            Number of memories M, >= 1.
        margin (`float`, *optional*, defaults to `0.0`):
            Lower bound of each v_i when projecting, >= 0. 0 is the plain cone projection.
        relative_margin (`bool`, *optional*, defaults to `False`):
            If true, the bound of v_i is `margin` · ‖g‖ / ‖m_i‖, so that the forced ascent is a fixed share of the gradient;
            if false the bound is `margin` itself, as published, which nothing limits when ‖m_i‖ grows.
        epsilon (`float`, *optional*, defaults to `0.001`):
            Ridge of the quadratic problem, > 0.
    """

    def __init__(self, size: int = 1, margin: float = 0.0, relative_margin: bool = False, epsilon: float = 1e-3):
        if not (size >= 1 and 0 <= margin < float("inf") and 0 < epsilon < float("inf")):
            raise ValueError(f"size={size} must be >= 1, margin={margin} finite and >= 0, epsilon={epsilon} finite and > 0")
        self.size, self.margin, self.relative_margin, self.epsilon = size, margin, relative_margin, epsilon
        self.rows: list[Tensor] = []
        self.gram = torch.empty(0)

    def allocate(self, gradients: Sequence[Tensor]) -> None:
        """Make room for memories of gradients like these (shapes, dtypes, devices); keeps the room of the last call."""
        wanted = [(self.size, g.numel(), g.dtype, g.device) for g in gradients]
        if [(*row.shape, row.dtype, row.device) for row in self.rows] != wanted:
            self.rows = [torch.zeros(self.size, g.numel(), dtype=g.dtype, device=g.device) for g in gradients]

    def store(self, memory: int, parameter: int, gradient: Tensor) -> None:
        """Add `−∇L(D_f)` of one parameter, of a batch or of a part of it, to memory number `memory`."""
        self.rows[parameter][memory].sub_(gradient.reshape(-1))

    def clear(self) -> None:
        """Set all memories to zero before a refresh, which adds to them."""
        for row in self.rows:
            row.zero_()

    def close_refresh(self) -> None:
        """Compute the Gram matrix `MM^T` once, after the last [`store`] of a refresh."""
        gram = torch.zeros(self.size, self.size, dtype=torch.float64)
        for row in self.rows:  # in float64, or memories of neighbouring batches would lose what tells them apart
            for part in row.split(_CHUNK, dim=1):
                part = part.double()
                gram += (part @ part.T).cpu()
        self.gram = gram

    def project(self, gradients: Sequence[Tensor]) -> Projection:
        """Correct `gradients` in place if they oppose a memory.

        Args:
            gradients (`Sequence[Tensor]`):
                One tensor for each parameter, in the order of [`allocate`].

        Returns:
            The dot products before the projection and the coefficients used.
        """
        flat = [gradient.reshape(-1) for gradient in gradients]
        sums: dict[torch.device, Tensor] = {}  # ⟨g, m_1⟩ … ⟨g, m_M⟩, ⟨g, g⟩, summed on each device, fetched once
        for row, g in zip(self.rows, flat, strict=True):
            products = torch.mv(row, g) if self.size > 1 else torch.dot(row[0], g).reshape(1)
            square = torch.dot(g, g) if self.relative_margin else products.new_zeros(())
            own = torch.cat([products, square.reshape(1)]).double()
            sums[g.device] = sums[g.device] + own if g.device in sums else own
        totals = sum(tensor.cpu() for tensor in sums.values())
        dots, norm = totals[:-1], totals[-1].sqrt()
        if not (dots < 0).any():
            return Projection(dots.tolist(), [0.0] * self.size)

        margins = torch.full_like(dots, self.margin)
        if self.relative_margin:
            lengths = self.gram.diagonal().sqrt()
            margins = torch.where(lengths > 0, margins * norm / lengths, 0.0)  # an empty memory forces nothing
        coefficients = nonnegative_coefficients(self.gram, dots, margins, self.epsilon)
        for row, g, gradient in zip(self.rows, flat, gradients, strict=True):
            if self.size > 1:
                g.addmv_(row.T, coefficients.to(row))
            else:
                g.add_(row[0], alpha=coefficients.item())
            if g.data_ptr() != gradient.data_ptr():  # the gradient's layout forced reshape to copy
                gradient.copy_(g.view(gradient.shape))
        return Projection(dots.tolist(), coefficients.tolist())

    def state_dict(self) -> dict[str, Tensor]:
        """The memories, for a checkpoint on local disk; they reveal the forget set."""
        return {str(index): row for index, row in enumerate(self.rows)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the memories of [`state_dict`]; the object must have been allocated for the same gradients."""
        saved, wanted = [list(state[key].shape) for key in sorted(state, key=int)], [list(row.shape) for row in self.rows]
        if saved != wanted:
            raise ValueError(
                f"the saved memories have other shapes than this run's ({len(saved)} and {len(wanted)} parameters, the first "
                f"{saved[:1]} and {wanted[:1]}): resume with the memory_batches and projection_target_modules of the saved run"
            )
        for index, row in enumerate(self.rows):
            row.copy_(state[str(index)])
        self.close_refresh()
