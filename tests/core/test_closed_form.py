"""The closed-form edit against the least squares problem that it solves, stacked and given to a general solver."""

import math

import pytest
import torch

from scissorhands_hf.core import ClosedFormEdit


WIDTH, OUTPUTS = 12, 7


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("overshoot", [0.0, 1.0, 2.5])
def test_it_is_the_least_squares_solution(overshoot):
    keep_weight, ridge = 3.0, 0.1
    weight, old, new, kept = (random(n, WIDTH, seed=s) for n, s in ((OUTPUTS, 0), (5, 1), (5, 2), (40, 3)))
    edit = ClosedFormEdit(WIDTH, overshoot, keep_weight, ridge)
    for start in (0, 2):  # in parts, of unequal size
        edit.add_edit(old[start : start + 2 + start], new[start : start + 2 + start])
    for part in kept.split(7):
        edit.add_kept(part)
    old, new = old[[0, 1, 2, 3, 4]], new[[0, 1, 2, 3, 4]]

    # Rows of the stacked problem, each with the square root of its weight.
    held = math.sqrt(ridge * old.square().mean())
    rows = torch.cat([old / math.sqrt(5), kept * math.sqrt(keep_weight / 40), held * torch.eye(WIDTH, dtype=torch.float64)])
    beyond = new + overshoot * (new - old)
    answers = torch.cat([beyond @ weight.T / math.sqrt(5), kept @ weight.T * math.sqrt(keep_weight / 40), held * weight.T])
    expected = torch.linalg.lstsq(rows, answers).solution.T
    torch.testing.assert_close(edit.solve(weight), expected)


def test_few_inputs_get_exactly_what_is_asked_and_the_kept_ones_keep_it():
    weight, old, new, kept = (random(n, WIDTH, seed=s).float() for n, s in ((OUTPUTS, 0), (2, 1), (2, 2), (4, 3)))
    edit = ClosedFormEdit(WIDTH, overshoot=1.0, keep_weight=1.0, ridge=1e-9)
    edit.add_edit(old, new)
    edit.add_kept(kept)
    before = weight.clone()
    edited = edit.solve(weight)
    assert torch.equal(weight, before) and edited.dtype == weight.dtype
    torch.testing.assert_close(old @ edited.T, (2 * new - old) @ weight.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept @ edited.T, kept @ weight.T, atol=1e-4, rtol=1e-4)
    # What no input reaches is held by the ridge.
    other = torch.linalg.svd(torch.cat([old, kept])).Vh[6:]
    torch.testing.assert_close(other @ edited.T, other @ weight.T, atol=1e-4, rtol=1e-4)


def test_it_does_not_depend_on_how_often_prompts_are_repeated():
    weight, old, new, kept = (random(n, WIDTH, seed=s) for n, s in ((OUTPUTS, 0), (3, 1), (3, 2), (20, 3)))
    once, often = (ClosedFormEdit(WIDTH, 1.0, 2.0, 0.01) for _ in range(2))
    once.add_edit(old, new), once.add_kept(kept)
    for _ in range(3):
        often.add_edit(old, new)
    often.add_kept(kept.repeat(5, 1))
    torch.testing.assert_close(once.solve(weight), often.solve(weight))


def test_half_precision_weights_keep_their_dtype():
    edit = ClosedFormEdit(WIDTH, 1.0, 1.0, 0.01)
    edit.add_edit(random(2, WIDTH, seed=1).half(), random(2, WIDTH, seed=2).half())
    assert edit.solve(random(OUTPUTS, WIDTH, seed=0).bfloat16()).dtype == torch.bfloat16


def test_an_edit_of_nothing_is_refused():
    edit = ClosedFormEdit(WIDTH, 1.0, 1.0, 0.01)
    edit.add_kept(random(3, WIDTH, seed=0))
    with pytest.raises(ValueError, match="nothing to edit"):
        edit.solve(random(OUTPUTS, WIDTH, seed=1))


def test_layers_of_the_same_inputs_are_solved_for_once_and_again_when_more_is_added(monkeypatch):
    solve, solved = torch.linalg.solve, []
    monkeypatch.setattr(torch.linalg, "solve", lambda *args: solved.append(args) or solve(*args))
    edit = ClosedFormEdit(WIDTH, 1.0, 2.0, 0.01)
    edit.add_edit(random(3, WIDTH, seed=1), random(3, WIDTH, seed=2))
    first, second, first_again = (edit.solve(random(OUTPUTS, WIDTH, seed=seed)) for seed in (0, 5, 0))
    assert len(solved) == 1 and torch.equal(first, first_again) and not torch.equal(first, second)
    for number, add in enumerate(
        (lambda: edit.add_kept(random(9, WIDTH, seed=3)), lambda: edit.add_edit(*random(2, 1, WIDTH, seed=4))), 2
    ):
        add()
        again = edit.solve(random(OUTPUTS, WIDTH, seed=0))
        assert len(solved) == number and not torch.allclose(again, first)
        first = again
