"""Each forget objective's formula against the published one, computed example by example and token by token in float64."""

import math

import pytest
import torch
from torch import Tensor

from scissorhands_hf.trainer import forget_objectives as formulas
from scissorhands_hf.trainer.token_scores import labelled_tokens, top_entries


N, T, V = 4, 6, 11


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def labels_of_uneven_length() -> Tensor:
    labels = torch.randint(0, V, (N, T), generator=torch.Generator().manual_seed(3))
    for row, (start, stop) in enumerate([(2, 6), (1, 3), (0, 5), (4, 5)]):
        labels[row, :start] = labels[row, stop:] = -100
    return labels


def brute_log_probs(logits: Tensor, labels: Tensor, shift: int) -> list[list[float]]:
    """Of each labelled token of each example, from the softmax's definition."""
    rows = []
    for row in range(len(labels)):
        rows.append([])
        for place in range(shift, labels.shape[1]):
            label = int(labels[row, place])
            if label != -100:
                scores = [math.exp(float(score)) for score in logits[row, place - shift].double()]
                rows[-1].append(math.log(scores[label] / sum(scores)))
    return rows


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probabilities_are_those_of_the_labels_whatever_is_padding(shift: int, dtype: torch.dtype) -> None:
    logits, labels = drawn(N, T, V).to(dtype), labels_of_uneven_length()
    tokens = labelled_tokens(logits, labels, shifted=bool(shift))
    expected = brute_log_probs(logits.float(), labels, shift)
    assert (-tokens.losses()).tolist() == pytest.approx([value for row in expected for value in row], rel=1e-5)
    assert tokens.per_example(-tokens.losses()).tolist() == pytest.approx([sum(row) for row in expected], rel=1e-5)
    assert tokens.lengths.tolist() == [len(row) for row in expected]


def test_logits_of_another_length_than_the_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"logits of shape \(4, 7, 11\) do not belong to labels of shape \(4, 6\)"):
        labelled_tokens(drawn(N, 7, V), labels_of_uneven_length(), shifted=True)


def test_npo() -> None:
    ours, original, beta = drawn(N), drawn(N, seed=1), 0.3
    expected = [-(2 / beta) * math.log(sigmoid(-beta * (a - b))) for a, b in zip(ours.tolist(), original.tolist(), strict=True)]
    assert formulas.npo(ours, original, beta).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_npo_goes_to_that_of_ascent_as_beta_goes_to_zero() -> None:
    ours = drawn(N).double().requires_grad_()
    formulas.npo(ours, drawn(N, seed=1).double(), 1e-6).sum().backward()
    assert torch.allclose(ours.grad, torch.ones(N, dtype=torch.float64), atol=1e-5)


def test_simnpo() -> None:
    ours, lengths, beta, gamma = -5 * drawn(N).abs(), torch.tensor([1.0, 3, 7, 2]), 2.5, 0.4
    pairs = zip(ours.tolist(), lengths.tolist(), strict=True)
    expected = [-(2 / beta) * math.log(sigmoid(-beta / length * value - gamma)) for value, length in pairs]
    assert formulas.simnpo(ours, lengths, beta, gamma).tolist() == pytest.approx(expected, rel=1e-5)


def test_dpo() -> None:
    parts = [drawn(N, seed=seed) for seed in range(4)]
    expected = [
        -math.log(sigmoid(0.7 * (wanted - wanted_before) - 0.7 * (forgotten - before)))
        for wanted, wanted_before, forgotten, before in zip(*(part.tolist() for part in parts), strict=True)
    ]
    assert formulas.dpo(*parts, beta=0.7).tolist() == pytest.approx(expected, rel=1e-5)


def test_ascent_is_bounded_for_each_example_and_else_the_mean_over_tokens() -> None:
    losses, lengths = torch.tensor([0.5, 4.0, 1.5]), torch.tensor([2.0, 5, 3])
    assert formulas.bounded_ascent(losses, lengths, math.inf).item() == pytest.approx(-(1 + 20 + 4.5) / 10)
    losses.requires_grad_()
    value = formulas.bounded_ascent(losses, lengths, 2.0)
    value.backward()
    assert value.item() == pytest.approx(-(2 * 0.5 + 5 * 2.0 + 3 * 1.5) / 10)
    assert losses.grad.tolist() == pytest.approx([-0.2, 0.0, -0.3])


def test_rmu() -> None:
    hidden, direction = drawn(3, 5), drawn(5, seed=1)
    expected = [sum((h - 6.5 * u) ** 2 for h, u in zip(row, direction.tolist(), strict=True)) / 5 for row in hidden.tolist()]
    assert formulas.rmu(hidden, direction, 6.5).tolist() == pytest.approx(expected, rel=1e-5)


def test_undial_over_the_whole_vocabulary_is_the_published_loss() -> None:
    """With all but one entry kept the last stands for itself, so nothing is lumped together."""
    student, teacher, labels = drawn(3, V), drawn(3, V, seed=1), torch.tensor([2, 0, 10])
    tokens = labelled_tokens(teacher.unsqueeze(0), labels.unsqueeze(0), shifted=False)
    ids = top_entries(tokens, V)
    place = (ids == labels.unsqueeze(1)).long().argmax(1)
    target = formulas.suppressed(formulas.lumped(teacher, ids), place, 4.0)
    ours = formulas.distillation(target, formulas.lumped(student, ids))
    for row in range(3):
        adjusted = [math.exp(score - 4.0 * (entry == labels[row])) for entry, score in enumerate(teacher[row].tolist())]
        own = [math.exp(score) for score in student[row].tolist()]
        expected = -sum(a / sum(adjusted) * math.log(b / sum(own)) for a, b in zip(adjusted, own, strict=True))
        assert ours[row].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("count", [1, 4, V - 1])
def test_lumped_entries_are_probabilities_and_their_divergence_a_lower_bound(count: int) -> None:
    student, teacher, labels = 3 * drawn(3, V), 3 * drawn(3, V, seed=1), torch.tensor([2, 0, 10])
    ids = top_entries(labelled_tokens(teacher.unsqueeze(0), labels.unsqueeze(0), shifted=False), count)
    assert (ids == labels.unsqueeze(1)).any(1).all() and ids.shape == (3, count)
    entries = formulas.lumped(teacher, ids)
    exact = teacher.double().softmax(1)
    for row in range(3):
        chosen = exact[row, ids[row]].tolist()
        assert entries[row].exp().tolist() == pytest.approx([*chosen, 1 - sum(chosen)], rel=1e-4, abs=1e-9)
    lower = formulas.divergence(entries, formulas.lumped(student, ids))
    whole = (exact * (exact.log() - student.double().log_softmax(1))).sum(1)
    assert (lower >= -1e-6).all() and (lower <= whole + 1e-5).all()
    if count == V - 1:
        assert lower.tolist() == pytest.approx(whole.tolist(), rel=1e-4)


def test_a_certain_model_leaves_finite_gradients_for_what_is_lumped_together() -> None:
    logits = torch.tensor([[200.0, 0, 0, 0]]).requires_grad_()
    teacher = torch.tensor([[0.25, 0.75]]).log()
    formulas.divergence(teacher, formulas.lumped(logits, torch.tensor([[0]]))).sum().backward()
    assert torch.isfinite(logits.grad).all() and logits.grad[0, 0].item() == pytest.approx(0.75, rel=1e-4)
