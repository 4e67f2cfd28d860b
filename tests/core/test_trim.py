"""Which weights trimming changes: exactly the chosen ones, in place, and nothing else of the model."""

from collections.abc import Callable

import pytest
import torch
from tiny_models import tiny_cnn, tiny_gpt2, tiny_llama, tiny_resnet, tiny_sequence
from torch import Tensor, nn

from scissorhands_hf.core import NoInitialDistributionError, trim_weights


NORM_TYPES = (nn.BatchNorm2d, nn.LayerNorm)


def as_if_trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Shift every weight by 5, so that no fresh value and no zero equals an old one; returns the named parameters."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(5.0)
    return dict(model.named_parameters())


def own_scheme(model: nn.Module) -> Callable[[nn.Module], object] | None:
    return getattr(model, "_init_weights", None)


def norm_names(model: nn.Module) -> set[str]:
    names = set()
    for path, module in model.named_modules():
        if isinstance(module, NORM_TYPES) or type(module).__name__ == "LlamaRMSNorm":
            names |= {f"{path}.{leaf}" for leaf, _ in module.named_parameters()}
    return names


def random_sensitivity(parameters: dict[str, nn.Parameter], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=generator) for name, p in parameters.items()}


def test_changed_weights_are_exactly_those_above_the_threshold(build: Callable) -> None:
    model, batch = build()
    model.eval()
    parameters = as_if_trained(model)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    addresses = {name: (id(p), p.data_ptr()) for name, p in parameters.items()}
    loss_before = model(**batch)["loss"].item()
    targets = dict(list(parameters.items())[2:])
    assert set(targets) != set(parameters)
    sensitivity = random_sensitivity(parameters)
    scores = torch.cat([s.reshape(-1) for s in sensitivity.values()])
    tau = scores.sort().values[int(0.7 * len(scores))].item()

    counts = trim_weights(model, sensitivity, tau, targets, seed=1, initialize=own_scheme(model))

    norms = norm_names(model)
    assert norms or "embed.weight" in parameters
    for name, parameter in parameters.items():
        cut = sensitivity[name] > tau
        if name not in targets or name in norms:
            cut = torch.zeros_like(cut)
            assert name not in counts
        else:
            assert counts[name] == int(cut.sum())
            assert name.endswith("bias") or 0 < counts[name] < cut.numel() or cut.numel() < 20
        assert torch.equal(parameter != before[name], cut), name
        assert torch.equal(parameter[~cut], before[name][~cut])
        if "bias" in name.rpartition(".")[2]:
            assert not parameter[cut].any()
        assert (id(parameter), parameter.data_ptr()) == addresses[name]
    assert {name: id(p) for name, p in model.named_parameters()} == {name: a[0] for name, a in addresses.items()}
    assert set(dict(model.named_buffers())) == set(buffers)
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())
    assert sum(counts.values()) > 0
    loss = model(**batch)["loss"]
    assert torch.isfinite(loss) and loss.item() != loss_before


def test_a_tie_with_the_threshold_is_kept() -> None:
    model, _ = tiny_cnn()
    weight = as_if_trained(model)["head.weight"]
    before = weight.detach().clone()
    sensitivity = torch.full_like(weight, 0.25)
    sensitivity[0, 0] = torch.tensor(0.25).nextafter(torch.tensor(1.0))
    assert trim_weights(model, {"head.weight": sensitivity}, 0.25, {"head.weight": weight}, seed=0) == {"head.weight": 1}
    assert (weight != before).nonzero().tolist() == [[0, 0]]


def test_flags_hooks_ties_and_modes_survive() -> None:
    model, batch = tiny_llama()
    parameters = as_if_trained(model)
    frozen = "model.layers.0.mlp.up_proj.weight"
    parameters[frozen].requires_grad_(False)
    calls: list[str] = []
    model.lm_head.register_forward_hook(lambda *_: calls.append("forward"))
    parameters["model.embed_tokens.weight"].register_hook(lambda g: calls.append("gradient"))
    parameters["model.embed_tokens.weight"].register_post_accumulate_grad_hook(lambda p: calls.append("accumulated"))
    parameters["model.norm.weight"].grad = torch.ones(32)

    trim_weights(model, random_sensitivity(parameters), 0.5, parameters, seed=0, initialize=own_scheme(model))

    assert model.lm_head.weight is model.model.embed_tokens.weight is parameters["model.embed_tokens.weight"]
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == [frozen]
    assert model.training and parameters["model.norm.weight"].grad.tolist() == [1.0] * 32
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])
    model(**batch)["loss"].backward()
    assert calls == ["forward", "gradient", "accumulated"]


def test_a_tied_weight_may_be_named_after_either_use() -> None:
    model, _ = tiny_llama()
    weight = model.lm_head.weight
    with torch.no_grad():
        weight.fill_(5.0)
    counts = trim_weights(
        model, {"lm_head.weight": torch.ones_like(weight)}, 0.5, {"lm_head.weight": weight}, 0, own_scheme(model)
    )
    assert counts == {"lm_head.weight": weight.numel()}
    assert model.model.embed_tokens.weight is weight and weight.abs().max() < 0.2


def test_flattened_lstm_weights_are_those_that_the_forward_pass_uses() -> None:
    model, batch = tiny_sequence()
    parameters = dict(model.named_parameters())
    trim_weights(model, random_sensitivity(parameters), 0.5, parameters, seed=0)
    other, _ = tiny_sequence(seed=9)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(**batch)["logits"], other(**batch)["logits"])
    assert model.lstm._flat_weights[0] is model.lstm.weight_ih_l0


@pytest.mark.parametrize("builder", [tiny_cnn, tiny_resnet, tiny_gpt2])
def test_seed_decides_and_the_global_generator_is_left_alone(builder: Callable) -> None:
    def trimmed(seed: int, noise: int) -> list[Tensor]:
        model, _ = builder()
        parameters = as_if_trained(model)
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        trim_weights(model, random_sensitivity(parameters), 0.5, parameters, seed, own_scheme(model))
        assert torch.equal(torch.get_rng_state(), state)
        return [p.detach().clone() for p in parameters.values()]

    one, same, other = trimmed(3, noise=1), trimmed(3, noise=2), trimmed(4, noise=1)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_layers_of_one_shape_get_different_draws() -> None:
    model, _ = tiny_llama()
    parameters = as_if_trained(model)
    names = [f"model.layers.{layer}.mlp.{one}_proj.weight" for layer in (0, 1) for one in ("up", "gate")]
    everything = {name: torch.ones_like(parameters[name]) for name in names}
    trim_weights(model, everything, 0.5, {name: parameters[name] for name in names}, 0, own_scheme(model))
    assert len({parameters[name].detach().numpy().tobytes() for name in names}) == len(names)


def test_an_initializer_sees_one_weight_and_the_shapes_of_all_others() -> None:
    """It cannot touch a weight that stays, and the fresh weights of only one layer exist at a time."""
    model, _ = tiny_gpt2()
    parameters = as_if_trained(model)
    real: list[int] = []

    def initialize(module: nn.Module) -> None:
        real.append(sum(not tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]))
        model._init_weights(module)

    trim_weights(model, random_sensitivity(parameters), 0.5, parameters, seed=0, initialize=initialize)
    assert len(real) > 50 and set(real) == {1}


def test_half_precision_and_channels_last_keep_dtype_and_layout() -> None:
    model, _ = tiny_resnet()
    model.to(torch.bfloat16, memory_format=torch.channels_last)
    parameters = as_if_trained(model)
    strides = {name: p.stride() for name, p in parameters.items()}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    sensitivity = random_sensitivity(parameters)
    trim_weights(model, sensitivity, 0.5, parameters, seed=0, initialize=own_scheme(model))
    for name in set(parameters) - norm_names(model):
        assert parameters[name].dtype == torch.bfloat16 and parameters[name].stride() == strides[name]
        assert torch.equal(parameters[name] != before[name], sensitivity[name] > 0.5)


# ------------------------------------------------------------------------------------------------ no known distribution


class Mystery(nn.Module):
    """Holds a bare parameter and does not say how it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((4,), 5.0))


class Filler(nn.Module):
    """A parent that knows how its child is made, so that the child's kind alone does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.child = Mystery()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.child.table, -1, 1)


def raises_and_changes_nothing(model: nn.Module, match: str, initialize: Callable | None = None) -> None:
    parameters = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    state = torch.get_rng_state()
    everything = {name: torch.ones_like(p) for name, p in parameters.items()}
    with pytest.raises(NoInitialDistributionError, match=match):
        trim_weights(model, everything, 0.5, parameters, seed=0, initialize=initialize)
    after = dict(model.named_parameters())
    assert all(after[name] is p and torch.equal(p, before[name]) for name, p in parameters.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_module_is_an_error_before_any_weight_changed() -> None:
    raises_and_changes_nothing(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), Mystery()), r"'2\.table'.*Mystery")


def test_an_initializer_that_does_not_know_the_module_is_an_error() -> None:
    raises_and_changes_nothing(nn.Sequential(nn.Linear(3, 3), Mystery()), r"'1\.table'", initialize=lambda module: None)


@pytest.mark.parametrize("unknown_first", [True, False])
def test_an_unknown_module_is_found_although_another_of_its_kind_is_known(unknown_first: bool) -> None:
    tables = [Mystery(), Filler()] if unknown_first else [Filler(), Mystery()]
    raises_and_changes_nothing(nn.Sequential(nn.Linear(3, 3), *tables), rf"'{1 if unknown_first else 2}\.table'")


def test_an_error_inside_an_initializer_leaves_the_model_whole() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    parameters = dict(model.named_parameters())

    def broken(module: nn.Module) -> None:
        raise RuntimeError("broken initializer")

    with pytest.raises(RuntimeError, match="broken initializer"):
        trim_weights(model, random_sensitivity(parameters), 0.5, parameters, seed=0, initialize=broken)
    assert {name: id(p) for name, p in model.named_parameters()} == {name: id(p) for name, p in parameters.items()}
    assert model(torch.ones(2, 3)).shape == (2, 3)


def test_a_parent_may_fill_its_child() -> None:
    model = nn.Sequential(Filler())
    parameters = dict(model.named_parameters())
    counts = trim_weights(model, {"0.child.table": torch.ones(4)}, 0.5, parameters, seed=0)
    assert counts == {"0.child.table": 4} and model[0].child.table.abs().max() <= 1


def test_nothing_above_the_threshold_changes_nothing(build: Callable) -> None:
    model, _ = build()
    parameters = as_if_trained(model)
    before = {name: p.detach().clone() for name, p in parameters.items()}
    counts = trim_weights(model, random_sensitivity(parameters), 1.0, parameters, 0, own_scheme(model))
    assert set(counts.values()) == {0}
    assert all(torch.equal(p, before[name]) for name, p in parameters.items())
