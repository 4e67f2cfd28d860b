"""Repair at weights moved towards relearning: one step against the formula computed by hand, and when memories are renewed."""

import copy
import math

import pytest
import torch
from tiny_data import retain_and_forget
from tiny_models import tiny_vit
from torch import nn

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.core import GradientMemory
from scissorhands_hf.core.projection import relearned_weights, renew_memories


RADIUS, RATE, LAMBDA = 0.3, 0.1, 0.4


def gradients(model: nn.Module, batch: dict) -> list[torch.Tensor]:
    model.zero_grad()
    model(**batch)["loss"].backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_inside_the_weights_are_a_step_of_the_given_length_down_the_forget_loss() -> None:
    model, batch = tiny_vit()
    parameters = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    memory = GradientMemory(size=2)
    memory.allocate([p.detach() for p in parameters.values()])
    halves = [{k: v[:3] for k, v in batch.items()}, {k: v[3:] for k, v in batch.items()}]
    renew_memories(memory, parameters, [[lambda half=half: model(**half)["loss"]] for half in halves])
    loss = model(**batch)["loss"].item()
    with relearned_weights(memory, parameters.values(), RADIUS):
        moved = torch.cat([(p - before[name]).flatten() for name, p in parameters.items()])
        assert moved.norm().item() == pytest.approx(RADIUS, rel=1e-4)
        total = [-sum(pair) for pair in zip(*(_at(before, model, half) for half in halves), strict=True)]
        direction = torch.cat([g.flatten() for g in total])
        assert torch.nn.functional.cosine_similarity(moved, direction, dim=0).item() == pytest.approx(1, abs=1e-4)
        assert model(**batch)["loss"].item() < loss
    for name, parameter in parameters.items():
        assert torch.allclose(parameter, before[name], atol=1e-6)


def _at(weights: dict[str, torch.Tensor], model: nn.Module, batch: dict) -> list[torch.Tensor]:
    copied = copy.deepcopy(model)
    copied.load_state_dict(weights, strict=False)
    return gradients(copied.eval(), batch)


def test_one_step_takes_the_forget_gradient_there_and_the_retain_gradient_here(config) -> None:
    model, retain, forget = retain_and_forget(tiny_vit, retain=4, forget=2)
    args = config(
        trim_ratio=0, projection=False, sharpness_radius=RADIUS, forget_weight=LAMBDA, forget_loss_ceiling=1e9,
        optim="sgd", learning_rate=RATE, lr_scheduler_type="constant", max_steps=1, max_grad_norm=0.0,
        per_device_train_batch_size=4, per_device_forget_batch_size=2,
    )  # fmt: skip
    original = copy.deepcopy(model).eval()
    trainer = ScissorhandsTrainer(
        model=model, args=args, train_dataset=retain.remove_columns("id"), forget_dataset=forget.remove_columns("id")
    )
    trainer.train()

    kept, forgotten = ({k: rows[k] for k in ("pixel_values", "labels")} for rows in (retain[:], forget[:]))
    at_retain, at_forget = gradients(original, kept), gradients(original, forgotten)
    length = torch.cat([g.flatten() for g in at_forget]).norm()
    moved = copy.deepcopy(original)
    with torch.no_grad():
        for parameter, g in zip(moved.parameters(), at_forget, strict=True):
            parameter -= RADIUS * g / length
    there = gradients(moved, forgotten)
    for (name, result), start, r, f in zip(model.named_parameters(), original.parameters(), at_retain, there, strict=True):
        expected = start - RATE * (r - LAMBDA * f)
        assert torch.allclose(result, expected, atol=2e-5), name


@pytest.mark.parametrize(("every", "expected"), [(None, [0, 5]), (2, [0, 2, 4, 5, 6, 8])])
def test_memories_are_renewed_when_asked_for(every, expected, config) -> None:
    model, retain, forget = retain_and_forget(tiny_vit, retain=20, forget=6)  # 5 steps of 4 an epoch
    args = config(trim_ratio=0, sharpness_radius=0.1, projection=False, memory_every=every, num_train_epochs=2)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    renewed, stock = [], trainer.renew_memories

    def listen(*values: int) -> None:
        renewed.append(trainer.state.global_step)
        stock(*values)

    trainer.renew_memories = listen
    trainer.train()
    assert renewed == expected


@pytest.mark.parametrize(("name", "value"), [("sharpness_radius", -0.1), ("sharpness_radius", math.inf), ("memory_every", 0)])
def test_values_outside_their_range_are_refused(name, value, config) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        config(**{name: value})
