"""Relearning and rounding: what they do, against plain formulas, and that nothing of it stays, not after errors either."""

import math

import pytest
import torch
from tiny_language import byte_tokenizer, encoded, pairs, tiny_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from scissorhands_hf.audit.language.relearning import relearned, split_for_relearning
from scissorhands_hf.audit.language.rounded_weights import linear_weights, weights_rounded
from scissorhands_hf.audit.rounding import round_to_nearest
from scissorhands_hf.audit.untouched import weights_kept


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def texts(numbers=range(3)):
    return encoded(byte_tokenizer(), pairs(numbers))


def test_relearning_against_one_text_at_a_time():
    """Three steps of AdamW on the mean over all answer tokens, written out."""
    model, other, rate = tiny_model(), tiny_model(), 1e-3
    weights = dict(other.named_parameters())
    moments = {name: (torch.zeros_like(weight), torch.zeros_like(weight)) for name, weight in weights.items()}
    expected = []
    for step in range(1, 4):
        losses, count = [], 0
        for text in texts():
            log_p = other(input_ids=torch.tensor([text.input_ids])).logits[0].log_softmax(-1)
            places = range(text.prompt_length, len(text.input_ids))
            losses += [-log_p[place - 1, text.input_ids[place]] for place in places]
            count += len(places)
        loss = sum(losses) / count
        expected.append(float(loss.detach()))
        for (name, weight), gradient in zip(weights.items(), torch.autograd.grad(loss, list(weights.values())), strict=True):
            first, second = moments[name]
            first.mul_(0.9).add_(gradient, alpha=0.1)
            second.mul_(0.999).add_(gradient**2, alpha=0.001)
            update = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            with torch.no_grad():
                weight -= rate * update
    with torch.no_grad(), relearned(model, texts(), steps=3, learning_rate=rate, batch_size=2) as losses:
        assert losses == pytest.approx(expected, abs=1e-5)
        for name, weight in model.named_parameters():
            assert (weight - weights[name]).abs().max() < 2e-4, name
    assert losses[0] > losses[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fails", [False, True])
def test_after_relearning_all_is_as_before(dtype, fails):
    model = tiny_model().to(dtype)
    first, *_, last = model.parameters()
    first.requires_grad_(False)
    last.grad = gradient = torch.ones_like(last)
    before = state(model)

    def run():
        with relearned(model, texts(), steps=2, learning_rate=1e-3):
            assert not same(model, before)
            if fails:
                raise RuntimeError("enough")

    if fails:
        with pytest.raises(RuntimeError, match="enough"):
            run()
    else:
        run()
    assert same(model, before)
    assert (
        not first.requires_grad
        and last.requires_grad
        and last.grad is gradient
        and torch.equal(gradient, torch.ones_like(last))
    )
    assert all(weight.grad is None for weight in model.parameters() if weight is not last)


def test_small_steps_are_not_lost_in_bf16():
    """A step of 1e-6 is far below what a weight of bf16 can move by; two thousand of them are not."""
    model = tiny_model().to(torch.bfloat16)
    with relearned(model, texts([0]), steps=30, learning_rate=3e-5) as losses:
        pass
    plain = tiny_model()
    with relearned(plain, texts([0]), steps=30, learning_rate=3e-5) as expected:
        pass
    assert losses[0] - losses[-1] == pytest.approx(expected[0] - expected[-1], rel=0.2)


def test_buffers_are_restored():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = state(model)
    with weights_kept(model):
        model(torch.randn(4, 2))
        nn.init.ones_(model[0].weight)
    assert same(model, before)


def test_what_is_taught_and_what_is_asked_for():
    taught, others = split_for_relearning(20, None, seed=3)
    assert len(taught) == 5 and sorted([*taught, *others]) == list(range(20))
    assert split_for_relearning(20, None, seed=3) == (taught, others) != split_for_relearning(20, None, seed=4)
    for count, size in ((1, None), (4, 4)):
        with pytest.raises(ValueError, match="relearn_examples"):
            split_for_relearning(count, size, seed=0)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_rounding_value_by_value(bits, axis):
    torch.manual_seed(0)
    weight = torch.randn(5, 7)
    weight.select(axis, 2).zero_()
    rounded = round_to_nearest(weight, bits, axis)
    most = 2 ** (bits - 1) - 1
    for channel in range(weight.shape[axis]):
        values = weight.select(axis, channel).tolist()
        step = max(map(abs, values)) / most
        expected = [math.floor(value / step + 0.5) * step if step else 0.0 for value in values]
        assert rounded.select(axis, channel).tolist() == pytest.approx(expected, abs=1e-6)
        assert len(set(rounded.select(axis, channel).tolist())) <= 2 * most + 1


def test_linear_layers_are_rounded_and_no_others():
    model = tiny_model()
    layer, before = model.model.layers[0].mlp.up_proj, state(model)
    with weights_rounded(model, 4):
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert torch.equal(layer.weight, round_to_nearest(before["model.layers.0.mlp.up_proj.weight"], 4))
    assert changed == {name for name in before if "_proj" in name}
    assert same(model, before)
    with pytest.raises(RuntimeError, match="enough"), weights_rounded(model, 8):
        raise RuntimeError("enough")
    assert same(model, before)


def test_the_layers_of_gpt2_number_their_outputs_by_columns():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    weights = linear_weights(model)
    assert len(weights) == 4 and {axis for _, axis in weights} == {1}


def test_models_without_linear_layers_cannot_be_rounded():
    with pytest.raises(ValueError, match="no linear layers"):
        linear_weights(nn.Embedding(2, 2))
