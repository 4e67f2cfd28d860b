"""Connection sensitivity against plain autograd, and the promise that gradients are freed as they are folded."""

from collections.abc import Callable

import pytest
import torch
from tiny_models import tiny_cnn, tiny_llama, tiny_resnet, tiny_vit
from torch import Tensor, nn

from scissorhands_hf.core import connection_sensitivity, relative_sensitivity, stream_gradients


def candidates(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def halves(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    return [{key: value[part] for key, value in batch.items()} for part in (slice(None, None, 2), slice(1, None, 2))]


def losses_of(model: nn.Module, batches: list[dict[str, Tensor]]) -> list[Callable[[], Tensor]]:
    return [lambda batch=batch: model(**batch)["loss"] for batch in batches]


def by_autograd(model: nn.Module, batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """|theta| * sum_b |grad_b| in float64, one torch.autograd.grad call for each batch."""
    parameters = candidates(model)
    totals = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in parameters.items()}
    for batch in batches:
        gradients = torch.autograd.grad(model(**batch)["loss"], list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                totals[name] += gradient.double().abs()
    return {name: totals[name] * p.detach().double().abs() for name, p in parameters.items()}


def test_equals_autograd_on_every_architecture(build: Callable) -> None:
    model, batch = build()
    model.eval()
    batches = halves(batch)
    expected = by_autograd(model, batches)
    before = {name: p.detach().clone() for name, p in candidates(model).items()}

    measured = connection_sensitivity(losses_of(model, batches), candidates(model))

    assert measured.keys() == expected.keys()
    for name, parameter in candidates(model).items():
        assert measured[name].dtype == torch.float32 and measured[name].shape == parameter.shape
        torch.testing.assert_close(
            measured[name].double(), expected[name], rtol=1e-5, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert torch.equal(parameter.detach(), before[name])
        assert parameter.grad is None
        assert not parameter._post_accumulate_grad_hooks
    assert sum(float(s.sum()) for s in measured.values()) > 0


def test_relative_equals_the_formula_on_every_architecture(build: Callable) -> None:
    model, batch = build()
    model.eval()
    forget, retain = halves(batch)
    on_forget, on_retain = by_autograd(model, [forget]), by_autograd(model, [retain])
    everywhere = torch.cat([value.flatten() for value in on_retain.values()]).mean()

    measured = relative_sensitivity(losses_of(model, [forget]), losses_of(model, [retain]), candidates(model))

    assert measured.keys() == on_forget.keys()
    for name, parameter in candidates(model).items():
        floor = 0.01 * (on_retain[name].mean() or everywhere)
        assert measured[name].dtype == torch.float32 and measured[name].shape == parameter.shape
        torch.testing.assert_close(
            measured[name].double(),
            on_forget[name] / (on_retain[name] + floor),
            rtol=1e-3,
            atol=1e-6,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_relative_finds_the_weight_that_the_forget_set_alone_needs() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    forget, retain = torch.tensor([5.0, 1.0, 0.0]), torch.tensor([5.0, 0.0, 1.0])
    losses = [lambda: (forget * weight).sum()], [lambda: (retain * weight).sum()]
    alone = connection_sensitivity(losses[0], {"w": weight})["w"]
    measured = relative_sensitivity(*losses, {"w": weight})["w"]
    floor = 0.01 * 2  # of the mean
    assert alone.argmax() == 0 and measured.argmax() == 1
    assert measured.tolist() == pytest.approx([5 / (5 + floor), 1 / floor, 0])


def test_relative_where_no_retain_batch_reaches_a_tensor() -> None:
    reached, missed = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    forget = [lambda: reached.sum() + 3 * missed.sum()]
    measured = relative_sensitivity(forget, [lambda: reached.sum()], {"reached": reached, "missed": missed})
    assert measured["missed"].tolist() == pytest.approx([3 / (0.01 * 0.5)] * 2)  # of the mean over all four weights
    with pytest.raises(ValueError, match="retain loss depends on none"):
        relative_sensitivity(forget, [lambda: 0 * reached.sum()], {"reached": reached, "missed": missed})
    with pytest.raises(ValueError, match="at least one retain batch"):
        relative_sensitivity(forget, [], {"reached": reached})
    with pytest.raises(ValueError, match="retain loss of sensitivity batch 0 is nan"):
        relative_sensitivity(forget, [lambda: reached.sum() * float("nan")], {"reached": reached})


def test_absolute_values_are_summed_over_batches_not_the_gradients() -> None:
    weight = nn.Parameter(torch.tensor([2.0, -3.0]))
    slopes = [torch.tensor([1.0, 4.0]), torch.tensor([-1.0, 2.0])]
    measured = connection_sensitivity([lambda s=s: (s * weight).sum() for s in slopes], {"w": weight})
    assert measured["w"].tolist() == [2.0 * (1 + 1), 3.0 * (4 + 2)]


def test_a_tied_weight_is_counted_once_with_the_sum_of_its_uses() -> None:
    model, batch = tiny_llama()
    model.eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    names = [name for name in candidates(model) if "lm_head" in name or "embed_tokens" in name]
    assert names == ["model.embed_tokens.weight"]
    hidden = model.model(batch["input_ids"]).last_hidden_state
    as_head, as_embedding = model.lm_head.weight.detach().clone().requires_grad_(), model.model.embed_tokens.weight
    loss = nn.functional.cross_entropy(
        (hidden @ as_head.T)[:, :-1].reshape(-1, as_head.shape[0]), batch["labels"][:, 1:].reshape(-1)
    )
    one, other = torch.autograd.grad(loss, [as_head, as_embedding])
    assert one.abs().max() > 0 and other.abs().max() > 0
    expected = (one + other).double().abs() * as_embedding.detach().double().abs()

    measured = connection_sensitivity(losses_of(model, [batch]), candidates(model))[names[0]]

    torch.testing.assert_close(measured.double(), expected, rtol=1e-4, atol=1e-9)


def test_only_one_gradient_lives_at_a_time(build: Callable) -> None:
    model, batch = build()
    model.eval()
    parameters = candidates(model)
    alive, calls = [], []

    def consume(name: str, gradient: Tensor) -> None:
        assert gradient.shape == parameters[name].shape
        calls.append(name)
        alive.append([other for other, p in parameters.items() if p.grad is not None])

    loss = stream_gradients(lambda: model(**batch)["loss"], parameters, consume)

    assert sorted(calls) == sorted(set(calls)) and len(calls) > 4
    assert not any(alive), "a gradient was still held when another one was handed over"
    assert not loss.requires_grad


def test_gradients_are_dropped_after_the_hand_over() -> None:
    """Counts the gradient tensors that something still refers to, which `.grad` alone would not show."""
    import weakref

    model, batch = tiny_vit()
    parameters = candidates(model)
    seen: list[tuple[int, weakref.ref]] = []
    living_bytes = []

    def consume(name: str, gradient: Tensor) -> None:
        storage = gradient.untyped_storage()
        seen.append((storage.nbytes(), weakref.ref(gradient)))
        living_bytes.append(sum(size for size, reference in seen if reference() is not None))

    stream_gradients(lambda: model(**batch)["loss"], parameters, consume)

    largest = max(p.numel() * p.element_size() for p in parameters.values())
    total = sum(p.numel() * p.element_size() for p in parameters.values())
    assert len(seen) > 20 and max(living_bytes) <= 2 * largest < total


def test_other_parameters_get_no_gradient_and_keep_the_one_they_have() -> None:
    model, batch = tiny_cnn()
    kept = torch.full_like(model.stem.weight, 7.0)
    model.stem.weight.grad = kept.clone()
    model.head.weight.grad = torch.ones_like(model.head.weight)

    measured = connection_sensitivity(losses_of(model, [batch]), {"head.weight": model.head.weight})

    assert measured.keys() == {"head.weight"}
    assert torch.equal(model.stem.weight.grad, kept)
    assert model.stem.bias.grad is None and model.grouped.weight.grad is None
    assert model.head.weight.grad is None, "a stale gradient of a candidate must not enter the sensitivity"


def test_a_stale_gradient_does_not_change_the_result() -> None:
    model, batch = tiny_cnn()
    model.eval()
    clean = connection_sensitivity(losses_of(model, [batch]), candidates(model))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    again = connection_sensitivity(losses_of(model, [batch]), candidates(model))
    assert all(torch.equal(clean[name], again[name]) for name in clean)


def test_a_weight_the_loss_misses_has_zero_sensitivity() -> None:
    model, batch = tiny_cnn()
    unused = nn.Parameter(torch.ones(3))
    measured = connection_sensitivity(losses_of(model, [batch]), {"unused": unused, "head.bias": model.head.bias})
    assert not measured["unused"].any() and measured["head.bias"].any()


def test_two_processes_with_reduce_equal_one_process() -> None:
    model, batch = tiny_resnet()
    model.eval()
    batches = halves(batch)
    whole = connection_sensitivity(losses_of(model, batches), candidates(model))
    raw = []  # what each process accumulates: sum_b |grad_b| of its own batches, recorded through reduce
    for part in batches:
        own: list[Tensor] = []
        connection_sensitivity(
            losses_of(model, [part]), candidates(model), reduce=lambda t, own=own: own.append(t.clone()) or t
        )
        raw.append(own)
    assert len(raw[0]) == len(whole), "reduce must be called once for each weight"
    totals = iter([first + second for first, second in zip(*raw, strict=True)])

    reduced = connection_sensitivity(losses_of(model, batches[:1]), candidates(model), reduce=lambda t: next(totals))

    for name in whole:
        torch.testing.assert_close(reduced[name], whole[name], rtol=1e-6, atol=0)


def test_half_precision_weights_accumulate_in_float32() -> None:
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    tiny = 2.0**-12  # 1 + 2^-12 is 1 in bfloat16: an accumulator in the weights' dtype would lose these batches
    losses = [lambda: weight.float().sum()] + [lambda: (weight.float() * tiny).sum()] * 16
    measured = connection_sensitivity(losses, {"w": weight})["w"]
    assert measured.dtype == torch.float32 and measured.tolist() == [1 + 16 * tiny] * 4


def test_channels_last_weights() -> None:
    model, batch = tiny_cnn()
    model.eval()
    expected = by_autograd(model, [batch])
    model.to(memory_format=torch.channels_last)
    measured = connection_sensitivity(losses_of(model, [batch]), candidates(model))
    for name in expected:
        torch.testing.assert_close(measured[name].double(), expected[name], rtol=1e-4, atol=1e-8)


def test_a_sparse_gradient_counts_repeated_rows_once() -> None:
    """An embedding with sparse gradients hands over one entry for each use: they add up before the absolute value."""
    embedding = nn.Embedding(4, 1, sparse=True)
    nn.init.ones_(embedding.weight)
    signs = torch.tensor([[1.0], [-1.0], [3.0]])
    loss = lambda: (embedding(torch.tensor([2, 2, 1])) * signs).sum()  # noqa: E731
    measured = connection_sensitivity([loss], {"weight": embedding.weight})["weight"]
    assert measured.flatten().tolist() == [0.0, 3.0, 0.0, 0.0]


def test_no_batch_is_an_error() -> None:
    model, _ = tiny_cnn()
    with pytest.raises(ValueError, match="at least one forget batch"):
        connection_sensitivity([], candidates(model))


def test_a_loss_that_is_not_finite_is_an_error_and_leaves_nothing_behind() -> None:
    model, batch = tiny_cnn()
    model.eval()
    fine, broken = lambda: model(**batch)["loss"], lambda: model(**batch)["loss"] * float("inf")
    with pytest.raises(ValueError, match="batch 1"):
        connection_sensitivity([fine, broken], candidates(model))
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in model.parameters())


def test_an_error_in_the_model_leaves_nothing_behind() -> None:
    model, _ = tiny_cnn()
    with pytest.raises(RuntimeError):
        connection_sensitivity([lambda: model(torch.zeros(1, 3, 8, 8), torch.zeros(1).long())["loss"]], candidates(model))
    assert all(p.grad is None and not p._post_accumulate_grad_hooks for p in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_weights_are_named(value: float) -> None:
    model, batch = tiny_cnn()
    model.eval()
    with torch.no_grad():
        model.grouped.weight[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="grouped.weight"):
        connection_sensitivity(losses_of(model, [batch]), candidates(model))


def test_bad_weights_that_do_not_reach_the_loss_are_named() -> None:
    model, batch = tiny_cnn()
    unused = nn.Parameter(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="weights of 'unused'"):
        connection_sensitivity(losses_of(model, [batch]), {**candidates(model), "unused": unused})


def test_a_bad_gradient_of_a_finite_loss_is_named() -> None:
    good, bad = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="gradient.*'bad'"):  # the slope of the square root at zero is infinite
        connection_sensitivity([lambda: good.sum() + bad.sqrt().sum()], {"good": good, "bad": bad})
