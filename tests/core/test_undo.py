"""Taking a trim back: bit by bit, the most harmful weights first; and the other ways to cut and to replace."""

import copy
from collections.abc import Callable

import pytest
import torch
from tiny_models import tiny_cnn, tiny_llama
from torch import Tensor, nn

from scissorhands_hf.core import Cut, apply_cuts, cut_harm, fit_trim, trim_model, trim_weights
from scissorhands_hf.core.trim import is_normalization


def trimmed(
    build: Callable, ratio: float = 0.2, memory_format: torch.memory_format | None = None
) -> tuple[nn.Module, dict[str, nn.Parameter], dict[str, Tensor], dict[str, Cut], Callable[[], Tensor]]:
    """A model that was cut, its weights before, and what was cut."""
    model, batch = build()
    model.eval()
    with torch.no_grad():  # no fresh value equals an old one
        for parameter in model.parameters():
            parameter.add_(0.3)
    if memory_format is not None:
        model.to(memory_format=memory_format)
    parameters = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    cuts: dict[str, Cut] = {}
    loss = lambda: model(**batch)["loss"]  # noqa: E731
    initialize = getattr(model, "_init_weights", None)
    trim_model(model, [loss], parameters, parameters, ratio, seed=3, initialize=initialize, cuts=cuts)
    return model, parameters, before, cuts, loss


@pytest.mark.parametrize(
    ("build", "memory_format"),
    [(tiny_cnn, None), (tiny_cnn, torch.channels_last), (tiny_llama, None)],
    ids=["cnn", "cnn, channels last", "llama"],
)
def test_a_cut_is_undone_and_done_again_to_the_bit(build: Callable, memory_format: torch.memory_format | None) -> None:
    _, parameters, before, cuts, _ = trimmed(build, memory_format=memory_format)
    after = {name: p.detach().clone() for name, p in parameters.items()}
    assert any(not torch.equal(before[name], after[name]) for name in cuts)

    counts = apply_cuts(parameters, cuts, False)
    assert all(torch.equal(p, before[name]) for name, p in parameters.items()) and not any(counts.values())

    counts = apply_cuts(parameters, cuts, True)
    assert all(torch.equal(p, after[name]) for name, p in parameters.items())
    assert counts == {name: int((after[name] != before[name]).sum()) for name in cuts}


def test_a_weight_without_axes_is_undone() -> None:
    parameter = nn.Parameter(torch.tensor(2.0))
    cut = Cut(torch.tensor([0]), torch.tensor([2.0]), torch.tensor([5.0]))
    assert apply_cuts({"w": parameter}, {"w": cut}, True) == {"w": 1} and parameter.item() == 5
    assert apply_cuts({"w": parameter}, {"w": cut}, {"w": torch.tensor([False])}) == {"w": 0} and parameter.item() == 2


def test_harm_is_the_first_order_estimate_of_what_a_cut_costs() -> None:
    _, parameters, before, cuts, loss = trimmed(tiny_cnn)
    apply_cuts(parameters, cuts, False)
    gradients = torch.autograd.grad(loss(), list(parameters.values()))
    expected = {}
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        if name in cuts:
            whole = torch.zeros(parameter.numel())
            whole[cuts[name].index] = cuts[name].fresh
            change = (whole - before[name].flatten())[cuts[name].index]
            expected[name] = 2 * (change * gradient.flatten()[cuts[name].index]).abs()

    harm = cut_harm([loss, loss], parameters, cuts)

    assert harm.keys() == expected.keys() == cuts.keys()
    for name, values in harm.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-9)
    assert all(p.grad is None for p in parameters.values())


def test_the_most_harmful_weights_go_back_until_the_model_fits() -> None:
    """The loss is a sum of squares of what was cut, so what each weight costs is known."""
    parameter = nn.Parameter(torch.zeros(1000))
    fresh = torch.linspace(0.01, 1, 1000)
    cuts = {"w": Cut(torch.arange(1000), torch.zeros(1000), fresh)}
    apply_cuts({"w": parameter}, cuts, True)
    limit = 20.0
    kept = fit_trim({"w": parameter}, cuts, {"w": fresh**2}, lambda: float((parameter.detach() ** 2).sum()) <= limit)["w"]
    best = int((torch.cumsum(fresh**2, 0) <= limit).sum())
    assert 0.9 * best <= kept <= best
    assert torch.equal(parameter != 0, torch.arange(1000) < kept) and float((parameter.detach() ** 2).sum()) <= limit


@pytest.mark.parametrize("loss", [1.0, float("nan")])
def test_where_nothing_fits_all_goes_back(loss: float) -> None:
    parameter = nn.Parameter(torch.zeros(50))
    cuts = {"w": Cut(torch.arange(50), torch.zeros(50), torch.ones(50)), "empty": Cut(*[torch.zeros(0).long()] * 3)}
    parameters = {"w": parameter, "empty": nn.Parameter(torch.zeros(2).long(), requires_grad=False)}
    apply_cuts(parameters, cuts, True)
    harm = {"w": torch.rand(50), "empty": torch.zeros(0)}
    assert fit_trim(parameters, cuts, harm, lambda: loss <= 0.5) == {"w": 0, "empty": 0}
    assert not parameter.any()


def test_fresh_weights_at_the_tensors_own_scale() -> None:
    model, _ = tiny_llama()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("proj.weight"):
                parameter.mul_(7)
    parameters = {
        name: p for name, p in model.named_parameters() if not is_normalization(model.get_submodule(name.rpartition(".")[0]))
    }
    everything = {name: torch.ones_like(p) for name, p in parameters.items()}
    scales = {name: p.std().item() for name, p in parameters.items()}
    other = copy.deepcopy(model)
    trim_weights(model, everything, 0.5, parameters, 0, model._init_weights, own_scale=True)
    trim_weights(other, everything, 0.5, dict(other.named_parameters()), 0, other._init_weights)
    for name, parameter in parameters.items():
        assert parameter.std().item() == pytest.approx(scales[name], rel=1e-4), name
        assert other.get_parameter(name).std().item() == pytest.approx(other.config.initializer_range, rel=0.2), name


def test_the_top_share_of_each_tensor() -> None:
    model, batch = tiny_cnn()
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    targets = {name: p for name, p in model.named_parameters() if name.endswith("weight") and p.ndim > 1}
    before = {name: p.detach().clone() for name, p in targets.items()}
    account = trim_model(model, [lambda: model(**batch)["loss"]], targets, targets, 0.1, seed=0, per_tensor=True)
    changed = {name: int((p != before[name]).sum()) for name, p in targets.items()}
    # Fewer than a tenth where sensitivities tie.
    assert all(0.5 * int(0.1 * p.numel()) <= changed[name] <= int(0.1 * p.numel()) for name, p in targets.items()), changed
    assert account.threshold is None and account.trimmed == sum(changed.values())
    assert account.above_threshold == sum(int(0.1 * p.numel()) for p in targets.values())
