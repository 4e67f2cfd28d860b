"""Faithful mode: one step of the trainer equals the design's formulas, computed independently in float64."""

import copy

import pytest
import tiny_models
import torch
from tiny_data import examples
from torch import nn

from scissorhands_hf import ScissorhandsTrainer


LEARNING_RATE, WEIGHT_DECAY, LAMBDA, MARGIN, EPSILON, RATIO = 5e-3, 5e-4, 0.05, 0.5, 1e-3, 0.03


def gradients(model: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch)["loss"].backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def batch_of(dataset) -> dict[str, torch.Tensor]:
    rows = dataset[: len(dataset)]
    return {"pixel_values": rows["pixel_values"].double(), "labels": rows["labels"]}


@pytest.mark.parametrize("opposed", [False, True])
def test_one_step_with_the_reference_settings(opposed: bool, config) -> None:
    """``opposed``: the forget set is the retain set's own images, so descending on one descends on the other and the
    projection must act; otherwise the sets are unrelated."""
    torch.manual_seed(3)
    model = tiny_models.TinyCNN(channels=12)
    batch = tiny_models.tiny_cnn()[1]
    retain = examples(batch, 16, seed=1)
    forget = examples(batch, 16, seed=1).select(range(6)) if opposed else examples(batch, 6, seed=2)
    args = config(
        recipe="cifar10-random-10",
        learning_rate=LEARNING_RATE,
        max_steps=1,
        per_device_train_batch_size=16,
        per_device_forget_batch_size=6,
        reinit_target_modules=["grouped", "head"],
        max_grad_norm=0.0,
    )
    assert (args.forget_weight, args.projection_margin, args.projection_epsilon, args.trim_ratio) == (
        LAMBDA,
        MARGIN,
        EPSILON,
        RATIO,
    )
    original = copy.deepcopy(model).double()
    trainer = ScissorhandsTrainer(
        model=model, args=args, train_dataset=retain.remove_columns("id"), forget_dataset=forget.remove_columns("id")
    )
    trimmed = {}
    trim = trainer.trim

    def trim_and_look() -> dict:
        report = trim()
        trimmed.update({name: parameter.detach().clone().double() for name, parameter in model.named_parameters()})
        return report

    trainer.trim = trim_and_look
    trainer.train()

    # Which weights are cut: s = |θ|·Σ|∂L(D_f)/∂θ| in evaluation mode, top 3 % of all, within the scope; brute force by sorting.
    original.eval()
    sensitivity = {
        name: p.detach().abs() * g.abs()
        for (name, p), g in zip(original.named_parameters(), gradients(original, batch_of(forget)).values(), strict=True)
    }
    everything = torch.cat([s.flatten() for s in sensitivity.values()]).sort().values
    threshold = everything[len(everything) - int(RATIO * len(everything)) - 1]
    cut = 0
    for name, parameter in original.named_parameters():
        expected = (
            sensitivity[name] > threshold if name.startswith(("grouped", "head")) else torch.zeros_like(parameter, dtype=bool)
        )
        assert torch.equal(trimmed[name] != parameter, expected), name
        cut += int(expected.sum())
    assert cut == trainer.trim_report["trimmed"] > 0

    # The step: g = ∇L(D_r) - λ∇L(D_f); m = -∇L(D_f) at the epoch's start, batch statistics as in training; then SGD.
    def fresh() -> nn.Module:
        reference = copy.deepcopy(original).train()
        reference.load_state_dict({**reference.state_dict(), **trimmed})
        return reference

    retain_gradient, forget_gradient = gradients(fresh(), batch_of(retain)), gradients(fresh(), batch_of(forget))
    flat = {name: retain_gradient[name] - LAMBDA * forget_gradient[name] for name in trimmed}
    g = torch.cat([value.flatten() for value in flat.values()])
    m = -torch.cat([forget_gradient[name].flatten() for name in flat])
    dot = g @ m
    if opposed:
        assert dot < 0
    if dot < 0:
        g = g + max(MARGIN, float(-dot / (m @ m + EPSILON))) * m
    (log,) = [row for row in trainer.state.log_history if "retain_loss" in row]
    assert log["projected_share"] == float(dot < 0)
    assert log["memory_alignment"] == pytest.approx(float(dot), rel=1e-4)
    for name, step in zip(flat, g.split([value.numel() for value in flat.values()]), strict=True):
        decay = 0.0 if name.endswith("bias") or name.startswith("norm") else WEIGHT_DECAY  # as Trainer groups parameters
        expected = trimmed[name] - LEARNING_RATE * (step.view_as(trimmed[name]) + decay * trimmed[name])
        moved, expected_move = model.get_parameter(name).detach().double() - trimmed[name], expected - trimmed[name]
        assert (moved - expected_move).norm() <= 1e-5 * trimmed[name].norm() + 1e-5 * expected_move.norm(), name
        torch.testing.assert_close(model.get_parameter(name).detach().double(), expected, rtol=1e-5, atol=1e-7)
