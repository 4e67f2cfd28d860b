"""Fresh weights are distributed as the module's own initial ones, written here from the libraries' definitions."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_bert, tiny_cnn, tiny_gpt2, tiny_llama, tiny_resnet, tiny_sequence, tiny_vit
from torch import Tensor, nn

from scissorhands_hf.core import trim_weights


Spread = tuple[str, float]  # ("normal", standard deviation), ("uniform", bound) or ("zero", 0)


def resnet(name: str, weight: Tensor) -> Spread:
    if weight.dim() == 4:  # Kaiming normal, fan-out
        return "normal", math.sqrt(2.0 / (weight.shape[0] * weight[0, 0].numel()))
    return "uniform", 1.0 / math.sqrt(weight.shape[1])


def gpt2(name: str, weight: Tensor) -> Spread:
    return "normal", 0.02 / math.sqrt(2 * 2) if name.endswith("c_proj.weight") else 0.02


def transformer(name: str, weight: Tensor) -> Spread:
    return "normal", 0.02


def cnn(name: str, weight: Tensor) -> Spread:
    return "uniform", 1.0 / math.sqrt(weight[0].numel())  # weight[0] is what one output sees, also of a group


def sequence(name: str, weight: Tensor) -> Spread:
    if name == "embed.weight":
        return "normal", 1.0
    if name == "attention.in_proj_weight":  # Xavier uniform of the fused matrix
        return "uniform", math.sqrt(6.0 / sum(weight.shape))
    return "uniform", 1.0 / math.sqrt(16 if name.startswith("lstm") else weight.shape[1])


CASES = [
    (tiny_resnet, resnet),
    (tiny_gpt2, gpt2),
    (tiny_llama, transformer),
    (tiny_vit, transformer),
    (tiny_bert, transformer),
    (tiny_cnn, cnn),
    (tiny_sequence, sequence),
]


def cut_everything(model: nn.Module, fill: float = 5.0) -> dict[str, nn.Parameter]:
    """Overwrite all weights, then re-initialise all but the normalisation layers; returns the re-initialised ones."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.fill_(fill)
    everything = {name: torch.ones_like(p) for name, p in parameters.items()}
    counts = trim_weights(model, everything, 0.5, parameters, seed=11, initialize=getattr(model, "_init_weights", None))
    assert all(counts[name] == parameters[name].numel() for name in counts)
    return {name: parameters[name] for name in counts}


def assert_spread(name: str, weight: Tensor, kind: str, size: float) -> None:
    """Mean zero, the right standard deviation (both within five standard errors) and the right tails."""
    count, expected = weight.numel(), size / math.sqrt(3) if kind == "uniform" else size
    assert abs(weight.mean().item()) < 5 * expected / math.sqrt(count), name
    assert weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * count)), name
    if kind == "uniform":
        assert size * (1 - 20 / count) < weight.abs().max() <= size, name
    elif count > 1000:
        assert weight.abs().max() > 2.5 * size, name


def check(model: nn.Module, spread: Callable[[str, Tensor], Spread]) -> None:
    fresh = cut_everything(model)
    assert len(fresh) > 4
    for name, parameter in fresh.items():
        weight = parameter.detach()
        if "bias" in name.rpartition(".")[2]:
            assert not weight.any(), name
        elif (module := model.get_submodule(name.rpartition(".")[0])) and getattr(module, "padding_idx", None) is not None:
            assert not weight[0].any() and module.padding_idx == 0
            assert_spread(name, weight[1:], *spread(name, weight))
        else:
            assert_spread(name, weight, *spread(name, weight))


@pytest.mark.parametrize(("builder", "spread"), CASES, ids=lambda f: f.__name__)
def test_distribution_of_a_model_made_from_its_configuration(builder: Callable, spread: Callable) -> None:
    check(builder()[0], spread)


@pytest.mark.parametrize(("builder", "spread"), CASES[:5], ids=lambda f: f.__name__)
def test_distribution_of_a_model_that_was_loaded(builder: Callable, spread: Callable, tmp_path: Path) -> None:
    """transformers flags loaded tensors and then skips them when it initialises."""
    model, batch = builder()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    flagged = [p for p in loaded.parameters() if getattr(p, "_is_hf_initialized", False)]
    assert len(flagged) > 4, "the premise of this test: loaded weights carry the flag"
    check(loaded, spread)
    assert all(getattr(p, "_is_hf_initialized", False) for p in flagged)
    assert torch.isfinite(loaded(**batch)["loss"])


@pytest.mark.parametrize("builder", [tiny_bert, tiny_sequence], ids=lambda f: f.__name__)
def test_a_cut_entry_of_the_padding_row_becomes_zero_and_an_uncut_one_stays(builder: Callable) -> None:
    model, _ = builder()
    name, module = next((n, m) for n, m in model.named_modules() if getattr(m, "padding_idx", None) is not None)
    with torch.no_grad():
        module.weight.fill_(5.0)
    sensitivity = torch.zeros_like(module.weight)
    sensitivity[0, ::2], sensitivity[3] = 1.0, 1.0
    scheme = getattr(model, "_init_weights", None)
    trim_weights(model, {f"{name}.weight": sensitivity}, 0.5, {f"{name}.weight": module.weight}, 0, scheme)
    assert not module.weight[0, ::2].any() and (module.weight[0, 1::2] == 5).all()
    assert (module.weight[3] != 5).all() and module.weight[3].all() and (module.weight[1] == 5).all()


def test_an_uncut_entry_is_kept_whatever_the_fresh_layer_looks_like() -> None:
    """A scheme may depend on the whole layer (an orthogonal matrix); the chosen entries are taken from a whole draw."""
    model = nn.Sequential(nn.Linear(6, 6))
    weight = model[0].weight
    with torch.no_grad():
        weight.fill_(5.0)
    seen: list[Tensor] = []

    def orthogonal(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
            seen.append(module.weight.detach().clone())

    cut = torch.rand(6, 6) > 0.5
    trim_weights(model, {"0.weight": cut.float()}, 0.5, {"0.weight": weight}, seed=0, initialize=orthogonal)
    torch.testing.assert_close(seen[-1] @ seen[-1].T, torch.eye(6))
    assert torch.equal(weight.detach(), torch.where(cut, seen[-1], torch.tensor(5.0)))
