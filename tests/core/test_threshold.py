"""The exact threshold against brute force: concatenate, sort, take the k-th value."""

import math

import pytest
import torch
from torch import Tensor

from scissorhands_hf.core import exact_threshold, threshold


DTYPES = [torch.float32, torch.float64]


def brute_force(scores: list[Tensor], ratio: float) -> tuple[float, int]:
    """The (n - k)-th smallest of all scores, by sorting; k = floor(ratio * n)."""
    everything = torch.cat([s.reshape(-1) for s in scores]).double()
    count = everything.numel()
    rank = count - math.floor(ratio * count)
    return everything.kthvalue(rank).values.item(), count


def check(scores: list[Tensor], ratio: float) -> int:
    """Assert exactness, and return how many scores exceed the threshold."""
    tau, count = exact_threshold(scores, ratio)
    assert (tau, count) == brute_force(scores, ratio)
    return sum(int((s > tau).sum()) for s in scores)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 10, 257, 1000, 70_001])
def test_without_ties_exactly_k_scores_exceed(count: int, dtype: torch.dtype) -> None:
    scores = (torch.randperm(count).to(dtype) + 1) * 1.0009765625e-3
    assert scores.unique().numel() == count
    parts = list(scores.split([count // 3, count - count // 3]))
    for ratio in (0.001, 0.03, 0.1, 0.5, 0.9, 0.999):
        assert check(parts, ratio) == math.floor(ratio * count)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ratio", [0.005, 0.03, 0.37, 0.99])
def test_with_ties_at_most_k_scores_exceed(ratio: float, dtype: torch.dtype) -> None:
    scores = [torch.randint(0, 5, (40, 25)).to(dtype) * 0.1, torch.zeros(300, dtype=dtype), torch.rand(7, dtype=dtype)]
    assert check(scores, ratio) <= math.floor(ratio * 1307)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_equal_and_all_zero(dtype: torch.dtype) -> None:
    assert check([torch.zeros(100, dtype=dtype), torch.zeros(3, 3, dtype=dtype)], 0.3) == 0
    assert check([torch.full((100,), 0.7, dtype=dtype)], 0.3) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_in_the_last_bit_are_told_apart(dtype: torch.dtype) -> None:
    integer = torch.int32 if dtype == torch.float32 else torch.int64
    start = int(torch.tensor(1.5, dtype=dtype).view(integer))
    scores = (start + torch.randperm(1000).to(integer)).view(dtype)
    assert scores.unique().numel() == 1000
    for ratio in (0.01, 0.25, 0.5, 0.777):
        assert check([scores], ratio) == math.floor(ratio * 1000)


@pytest.mark.parametrize("dtype", DTYPES)
def test_denormals_and_a_huge_dynamic_range(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    denormals = torch.arange(1, 200, dtype=dtype) * info.smallest_normal * info.eps
    assert denormals.max() < info.smallest_normal and denormals.min() > 0
    exponents = torch.linspace(math.log2(info.tiny) + 1, math.log2(info.max) - 1, 500, dtype=torch.float64)
    extremes = torch.tensor([0.0, info.max, info.tiny], dtype=dtype)
    for ratio in (0.003, 0.2, 0.6, 0.75, 0.95):
        check([denormals, torch.exp2(exponents).to(dtype), extremes], ratio)


def test_one_element_in_each_tensor_and_scalars_and_an_empty_tensor_among_others() -> None:
    scores = [torch.rand(shape) for shape in [(1,), (), (1, 1, 1)] * 33] + [torch.empty(0), torch.empty(3, 0)]
    for ratio in (0.05, 0.5, 0.95):
        assert check(scores, ratio) == math.floor(ratio * 99)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_tensors_larger_than_the_chunk(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    sizes: list[int] = []
    bincount = torch.bincount
    monkeypatch.setattr(threshold, "_CHUNK", chunk)
    monkeypatch.setattr(torch, "bincount", lambda x, **k: sizes.append(x.numel()) or bincount(x, **k))
    for ratio in (0.03, 0.4):
        check([torch.rand(13, 5), torch.rand(1), torch.rand(2, chunk)], ratio)
    assert max(sizes) <= chunk


def test_layouts_that_are_not_contiguous() -> None:
    image = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
    strided = torch.rand(20, 20)[::2, ::3]
    assert check([image, strided.T], 0.2) == math.floor(0.2 * 370)


def test_scores_are_not_changed() -> None:
    scores = [torch.rand(100, requires_grad=True)]
    before = scores[0].detach().clone()
    exact_threshold(scores, 0.1)
    assert torch.equal(scores[0], before)


def test_many_random_cases() -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(60):
        sizes = torch.randint(1, 400, (int(torch.randint(1, 6, (), generator=generator)),), generator=generator)
        scores = [torch.randn(int(size), generator=generator).pow(4) for size in sizes]
        check(scores, float(torch.rand((), generator=generator).clamp(1e-4, 1 - 1e-4)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [-1.0, -1e-30, float("nan"), float("inf"), float("-inf")])
def test_bad_scores_raise(bad: float, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        exact_threshold([torch.rand(10, dtype=dtype), torch.tensor([0.5, bad], dtype=dtype)], 0.5)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_ratio_outside_zero_and_one_raises(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio"):
        exact_threshold([torch.rand(10)], ratio)


@pytest.mark.parametrize("scores", [[], [torch.empty(0)], [torch.empty(0), torch.empty(2, 0)]])
def test_nothing_to_rank_raises(scores: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="no scores"):
        exact_threshold(scores, 0.5)


@pytest.mark.parametrize(
    "scores",
    [[torch.rand(3).half()], [torch.arange(3)], [torch.rand(3), torch.rand(3).double()]],
    ids=["half", "int", "mixed"],
)
def test_unsupported_dtypes_raise(scores: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="dtype"):
        exact_threshold(scores, 0.5)
