"""Gradient memories and the projection against the quadratic problem solved by enumeration, and its KKT conditions."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from scissorhands_hf.core import GradientMemory, nonnegative_coefficients


SHAPES = [(6, 3, 3, 3), (6,), (5, 6), (), (1, 4)]


def by_enumeration(gram: Tensor, dots: Tensor, margins: Tensor, epsilon: float) -> Tensor:
    """argmin over v >= margins: try every set of bounds that may be active, keep the feasible point of least value."""
    size = len(dots)
    hessian = gram + epsilon * torch.eye(size, dtype=torch.float64)
    best, best_value = None, math.inf
    for active in itertools.product([False, True], repeat=size):
        bound, free = torch.tensor(active), ~torch.tensor(active)
        v = margins.clone()
        if free.any():
            right = -dots[free] - hessian[free][:, bound] @ margins[bound]
            v[free] = torch.linalg.solve(hessian[free][:, free], right)
        if (v < margins - 1e-12 * (1 + margins)).any():
            continue
        value = float(0.5 * v @ hessian @ v + v @ dots)
        if value < best_value:
            best, best_value = v, value
    assert best is not None
    return best


def assert_kkt(v: Tensor, gram: Tensor, dots: Tensor, margins: Tensor, epsilon: float) -> None:
    """v >= c, slope >= 0, and slope * (v - c) = 0, each relative to the size of its terms."""
    hessian = gram + epsilon * torch.eye(len(dots), dtype=torch.float64)
    slope = hessian @ v + dots
    scale = (hessian.abs() @ v.abs() + dots.abs()).max()
    assert (v >= margins).all()
    assert (slope >= -1e-9 * scale).all()
    assert (slope * (v - margins)).abs().max() <= 1e-9 * scale * (1 + v.abs().max())


def gradients(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def vector(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors]).double()


def remember(memory: GradientMemory, forget_gradients: list[list[Tensor]]) -> Tensor:
    """Store the forget gradients; returns the (M, n) matrix of memories, minus the gradients, in float64."""
    memory.allocate(forget_gradients[0])
    memory.clear()
    for index, one in enumerate(forget_gradients):
        for position, gradient in enumerate(one):
            memory.store(index, position, gradient)
    memory.close_refresh()
    return -torch.stack([vector(one) for one in forget_gradients])


def opposing(size: int, seed: int = 0) -> tuple[list[list[Tensor]], list[Tensor]]:
    """M forget gradients and a gradient which has a part along each of them, so that it opposes the memories."""
    forget = [gradients(seed + 1 + index) for index in range(size)]
    step = [g + sum(parts) * 0.3 for g, *parts in zip(gradients(seed), *forget, strict=True)]
    return forget, step


def bounds(memory: GradientMemory, rows: Tensor, g: Tensor) -> Tensor:
    c = torch.full((memory.size,), memory.margin, dtype=torch.float64)
    return c * g.norm() / rows.norm(dim=1) if memory.relative_margin else c


# -------------------- the quadratic problem


@pytest.mark.parametrize("size", range(1, 9))
def test_solution_equals_enumeration_and_satisfies_kkt(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    with_active, without = 0, 0
    for case in range(12):
        rows = torch.randn(size, 20, generator=generator, dtype=torch.float64)
        g = torch.randn(20, generator=generator, dtype=torch.float64) * 3
        gram, dots = rows @ rows.T, rows @ g
        margins = torch.full((size,), [0.0, 0.05, 0.5][case % 3], dtype=torch.float64)
        epsilon = [1e-3, 1.0][case % 2]
        expected = by_enumeration(gram, dots, margins, epsilon)
        measured = nonnegative_coefficients(gram, dots, margins, epsilon)
        assert measured.dtype == torch.float64 and measured.shape == (size,)
        torch.testing.assert_close(measured, expected, rtol=1e-8, atol=1e-9)
        assert_kkt(measured, gram, dots, margins, epsilon)
        with_active += int((expected == margins).any())
        without += int((expected > margins).any())
    assert with_active and without, "both kinds of constraint must have been tried"


def test_closed_form_for_one_memory() -> None:
    def solve(square: float, dot: float, margin: float) -> float:
        one = lambda x: torch.tensor([x], dtype=torch.float64)  # noqa: E731
        return nonnegative_coefficients(one(square).unsqueeze(0), one(dot), one(margin), 1e-3).item()

    assert solve(4.0, -2.0, 0.0) == pytest.approx(2.0 / 4.001, rel=1e-14)
    assert solve(4.0, -2.0, 0.5) == 0.5
    assert solve(4.0, -4.0, 0.5) == pytest.approx(4.0 / 4.001, rel=1e-14)
    assert solve(4.0, 2.0, 0.0) == 0.0
    assert solve(0.0, -1.0, 0.0) == pytest.approx(1000.0, rel=1e-12)


@pytest.mark.parametrize("angle", [1e-2, 1e-4, 1e-6, 0.0])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_nearly_parallel_memories(size: int, angle: float) -> None:
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(20, generator=generator, dtype=torch.float64) + angle * torch.randn(
        size, 20, generator=generator, dtype=torch.float64
    )
    dots = rows @ (-rows[0] + 0.1 * torch.randn(20, generator=generator, dtype=torch.float64))
    for margin in (0.0, 0.5):
        margins = torch.full((size,), margin, dtype=torch.float64)
        v = nonnegative_coefficients(rows @ rows.T, dots, margins, 1e-3)
        assert_kkt(v, rows @ rows.T, dots, margins, 1e-3)


# -------------------- the projection


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize(("margin", "relative"), [(0.0, False), (0.5, False), (0.1, True), (0.0, True)])
def test_projection_follows_the_formula(size: int, margin: float, relative: bool) -> None:
    memory = GradientMemory(size, margin, relative)
    forget, step = opposing(size)
    rows, g = remember(memory, forget), vector(step)
    expected_v = by_enumeration(rows @ rows.T, rows @ g, bounds(memory, rows, g), 1e-3)
    assert (rows @ g < 0).any()
    pointers = [t.data_ptr() for t in step]

    done = memory.project(step)

    assert done.applied
    assert done.dots == pytest.approx((rows @ g).tolist(), rel=1e-5, abs=1e-4)
    assert done.coefficients == pytest.approx(expected_v.tolist(), rel=1e-5, abs=1e-5)
    torch.testing.assert_close(vector(step), g + expected_v @ rows, rtol=1e-4, atol=1e-5)
    assert [t.data_ptr() for t in step] == pointers, "the projection must be in place"
    assert [t.shape for t in step] == [torch.Size(shape) for shape in SHAPES]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_cone_projection_no_longer_opposes_any_memory(size: int) -> None:
    for seed in range(10):
        memory = GradientMemory(size)
        forget, step = opposing(size, seed=100 * seed)
        rows = remember(memory, forget)
        before = vector(step)
        assert (rows @ before < 0).any()
        v = torch.tensor(memory.project(step).coefficients, dtype=torch.float64)
        slack = 1e-3 * v + 1e-5 * before.norm() * rows.norm(dim=1)  # <g', m_i> >= -epsilon v_i, up to float32 rounding
        assert (rows @ vector(step) >= -slack).all()


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_a_gradient_that_agrees_is_untouched_bit_for_bit(size: int, margin: float) -> None:
    memory = GradientMemory(size, margin)
    forget, step = opposing(size)
    remember(memory, [[-g for g in one] for one in forget])
    before = [t.clone() for t in step]
    done = memory.project(step)
    assert min(done.dots) > 0 and done.coefficients == [0.0] * size and not done.applied
    assert all(torch.equal(a, b) for a, b in zip(step, before, strict=True))


def test_one_violated_memory_among_several_is_enough() -> None:
    memory = GradientMemory(3)
    forget = [[torch.tensor(row)] for row in ([-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0])]
    remember(memory, forget)  # memories e1, e2, -e3
    step = [torch.tensor([1.0, 2.0, 3.0])]
    done = memory.project(step)
    assert done.dots == [1.0, 2.0, -3.0]
    assert done.coefficients == pytest.approx([0.0, 0.0, 3.0 / 1.001])
    assert step[0].tolist() == pytest.approx([1.0, 2.0, 3.0 - 3.0 / 1.001], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_relative_margin_forces_a_fixed_share_of_the_gradient(size: int) -> None:
    """Memories a thousand times larger: an absolute margin's step grows as much, a relative one's not at all."""
    steps = []
    for scale in (1.0, 1000.0):
        memory = GradientMemory(size, margin=5.0, relative_margin=True, epsilon=1e-9)
        forget, step = opposing(size)
        rows = remember(memory, [[scale * g for g in one] for one in forget])
        g = vector(step)
        v = torch.tensor(memory.project(step).coefficients, dtype=torch.float64)
        assert (v * rows.norm(dim=1) / g.norm()).tolist() == pytest.approx([5.0] * size, rel=1e-5)
        steps.append(vector(step))
    torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1, 3])
def test_channels_last_gradients(size: int) -> None:
    forget, step = opposing(size)
    plain, other = GradientMemory(size), GradientMemory(size)
    remember(plain, forget)
    remember(other, [[channels_last(g) for g in one] for one in forget])
    permuted = [channels_last(g.clone()) for g in step]
    pointers = [t.data_ptr() for t in permuted]
    assert not permuted[0].is_contiguous()
    plain.project(step)
    other.project(permuted)
    for one, two in zip(step, permuted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert [t.data_ptr() for t in permuted] == pointers and not permuted[0].is_contiguous()


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
def test_memories_of_neighbouring_batches_with_large_gradients(size: int, scale: float) -> None:
    """A model that starts to diverge: huge forget gradients, alike in all but the last digits of float32."""
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(20_000, generator=generator) * scale
    forget = [[base * (1 + 1e-7 * index) + 1e-6 * scale * torch.randn(20_000, generator=generator)] for index in range(size)]
    memory = GradientMemory(size)
    rows = remember(memory, forget)
    step = [base.clone()]
    before = vector(step)
    memory.project(step)
    cosines = (rows @ vector(step)) / (rows.norm(dim=1) * before.norm())
    assert cosines.min() >= -1e-4


@pytest.mark.parametrize("size", [2, 4])
def test_bfloat16_memories_that_are_alike(size: int) -> None:
    """Cosines of 0.999, as forget batches of one class have: products rounded to eight bits do not tell them apart."""
    generator = torch.Generator().manual_seed(12)
    base = torch.randn(30_000, generator=generator)
    forget = [[(base + 0.03 * torch.randn(30_000, generator=generator)).bfloat16()] for _ in range(size)]
    memory, step = GradientMemory(size), [base.bfloat16()]
    rows = remember(memory, forget)
    before = vector(step)
    memory.project(step)
    assert (rows @ vector(step) / (rows.norm(dim=1) * before.norm())).min() >= -0.01


@pytest.mark.parametrize("size", [1, 4])
def test_bfloat16_gradients(size: int) -> None:
    """Gradients with eight significant bits still give the coefficients of what they hold, to a few per cent."""
    memory = GradientMemory(size)
    generator = torch.Generator().manual_seed(11)
    forget = [[torch.randn(30_000, generator=generator).bfloat16()] for _ in range(size)]
    step = [(sum(one[0] for one in forget).float() * 0.1 + torch.randn(30_000, generator=generator)).bfloat16()]
    rows, g = remember(memory, forget), vector(step)
    expected = by_enumeration(rows @ rows.T, rows @ g, torch.zeros(size, dtype=torch.float64), 1e-3)
    assert memory.project(step).coefficients == pytest.approx(expected.tolist(), rel=0.05)


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_memory_that_was_never_stored_adds_nothing(size: int, margin: float) -> None:
    """Fewer forget batches than memories, or a loss that misses the projected weights, leaves a memory at zero."""
    memory = GradientMemory(size, margin, relative_margin=True)
    forget, step = opposing(size)
    forget[-1] = [torch.zeros_like(g) for g in forget[-1]]
    rows, g = remember(memory, forget), vector(step)
    memory.project(step)
    assert torch.isfinite(vector(step)).all()
    if size > 1:
        own = rows[:-1]
        margins = margin * g.norm() / own.norm(dim=1)
        torch.testing.assert_close(
            vector(step), g + by_enumeration(own @ own.T, own @ g, margins, 1e-3) @ own, rtol=1e-4, atol=1e-5
        )
    else:
        assert torch.equal(vector(step), g)


# -------------------- storing, saving


def test_memories_are_copies_of_minus_the_gradient_and_a_refresh_replaces_them() -> None:
    memory = GradientMemory(2)
    first, second = [gradients(1), gradients(2)], [gradients(3), gradients(4)]
    remember(memory, first)
    for one in first:
        for g in one:
            g.fill_(9.0)  # a reused gradient buffer must not reach the memory
    rows = -torch.stack([vector(gradients(1)), vector(gradients(2))])
    torch.testing.assert_close(memory.gram, rows @ rows.T, rtol=1e-5, atol=1e-3)
    pointers = [row.data_ptr() for row in memory.rows]

    rows = remember(memory, second)

    torch.testing.assert_close(memory.gram, rows @ rows.T, rtol=1e-5, atol=1e-3)
    assert [row.data_ptr() for row in memory.rows] == pointers


def test_clear_forgets_what_a_refresh_does_not_store() -> None:
    memory = GradientMemory(1)
    one = gradients(1)
    remember(memory, [one])
    memory.clear()
    memory.store(0, 2, one[2])
    memory.close_refresh()
    assert memory.gram.item() == pytest.approx(one[2].double().pow(2).sum().item(), rel=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_state_dict_round_trip(size: int, tmp_path) -> None:
    memory = GradientMemory(size, 0.1)
    forget, step = opposing(size)
    remember(memory, forget)
    torch.save(memory.state_dict(), tmp_path / "memory.pt")
    other = GradientMemory(size, 0.1)
    other.allocate(step)
    other.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
    copy = [t.clone() for t in step]
    assert memory.project(step) == other.project(copy)
    assert all(torch.equal(a, b) for a, b in zip(step, copy, strict=True))


def test_state_of_another_model_or_another_number_of_memories_is_refused() -> None:
    memory, fewer, single = GradientMemory(3), GradientMemory(3), GradientMemory(1)
    remember(memory, [gradients(i) for i in range(3)])
    fewer.allocate(gradients(0)[:2])
    with pytest.raises(ValueError, match="other shapes.*resume with the memory_batches"):
        fewer.load_state_dict(memory.state_dict())
    remember(single, [gradients(9)])
    with pytest.raises(ValueError, match="other shapes"):
        memory.load_state_dict(single.state_dict())


def test_allocate_makes_room_for_gradients_of_other_shapes() -> None:
    memory = GradientMemory(1)
    remember(memory, [[torch.ones(3), torch.ones(4)]])
    remember(memory, [[torch.ones(5), torch.ones(2, 2)]])
    assert memory.gram.item() == 9.0


@pytest.mark.parametrize("bad", [{"size": 0}, {"margin": -0.1}, {"epsilon": 0.0}, {"epsilon": -1.0}, {"margin": float("nan")}])
def test_bad_arguments_raise(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        GradientMemory(**bad)


@pytest.mark.parametrize("change", ["fewer", "more"])
def test_another_number_of_gradients_raises(change: str) -> None:
    memory = GradientMemory(1)
    remember(memory, [gradients(1)])
    with pytest.raises(ValueError):
        memory.project(gradients(2)[:-1] if change == "fewer" else [*gradients(2), torch.ones(2)])
