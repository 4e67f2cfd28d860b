"""No run ruins a model in silence: what a trim may cost, what stops a run, and what its end says."""

import copy
import math
from functools import cache

import pytest
import tiny_models
import torch
from tiny_data import retain_and_forget
from torch import nn
from transformers import TrainerCallback

from scissorhands_hf import ScissorhandsTrainer, UnlearningDivergedError
from scissorhands_hf.trainer.damage import loss_limit


@cache
def learned(build):
    """A model that knows its retain set, so that there is something to ruin."""
    torch.manual_seed(0)
    model, retain, forget = retain_and_forget(build)
    batch = {key: value for key, value in retain[:].items() if key != "id"}
    other = {key: value for key, value in forget[:].items() if key != "id"}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(150):
        optimizer.zero_grad()
        (model(**batch).loss + model(**other).loss).backward()
        optimizer.step()
    return model.eval(), retain, forget


def trainer_for(build, args, **arguments) -> ScissorhandsTrainer:
    model, retain, forget = learned(build)
    return ScissorhandsTrainer(model=copy.deepcopy(model), args=args, train_dataset=retain, forget_dataset=forget, **arguments)


BUILDERS = [tiny_models.tiny_llama, tiny_models.tiny_vit]


def test_a_limit_means_something_for_losses_near_zero() -> None:
    assert loss_limit(1.0, 2.0, 0.0) == 2.0
    assert loss_limit(0.01, 2.0, 0.1) == pytest.approx(0.12)  # (0.01 + 0.1) * 2 - 0.1
    assert loss_limit(0.0, 1.5, 0.1) == pytest.approx(0.05)
    assert loss_limit(-1.0, 2.0, 0.0) == 0.0  # a loss may be negative; the limit still lies above it


@pytest.mark.parametrize("build", BUILDERS)
def test_a_trim_that_costs_too_much_is_undone_until_it_fits(build, config, caplog) -> None:
    free = trainer_for(build, config(trim_ratio=0.5, threshold_scope="reinit", trim_damage_limit=math.inf))
    free.begin_repair()
    bound = trainer_for(build, config(trim_ratio=0.5, threshold_scope="reinit", trim_damage_limit=1.5))
    before = {name: p.detach().clone() for name, p in bound.model.named_parameters()}
    caplog.clear()
    bound.begin_repair()

    given, floor = bound.record.given_retain_loss, bound.record.loss_floor
    allowed = loss_limit(given, 1.5, floor)
    loose, fitted = free.trim_report, bound.trim_report
    assert loose["retain_loss_before"] == fitted["retain_loss_before"] == given
    assert loose["retain_loss_after"] > allowed and "put_back" not in loose
    assert given < fitted["retain_loss_after"] <= allowed
    assert 0 < fitted["trimmed"] < loose["trimmed"] and fitted["put_back"] == loose["trimmed"] - fitted["trimmed"]
    changed = sum(int((p != before[name]).sum()) for name, p in bound.model.named_parameters())
    assert changed == fitted["trimmed"] == sum(row["trimmed"] for row in fitted["per_module"].values())
    assert "trim_damage_limit=1.5" in caplog.text and f"{fitted['put_back']:,} most harmful" in caplog.text
    assert bound.measure_retain_loss() == pytest.approx(fitted["retain_loss_after"])


def test_a_trim_within_the_limit_is_left_alone(config) -> None:
    trims = []
    for limit in (math.inf, 1e6):
        trainer = trainer_for(tiny_models.tiny_vit, config(trim_ratio=0.2, trim_damage_limit=limit))
        trainer.begin_repair()
        trims.append((trainer.trim_report, [p.detach().clone() for p in trainer.model.parameters()]))
    assert trims[0][0] == trims[1][0]
    assert all(torch.equal(one, other) for one, other in zip(trims[0][1], trims[1][1], strict=True))


def test_a_ruined_model_is_told_of_at_the_end_and_in_the_report(config, caplog) -> None:
    # So small a learning rate brings nothing back.
    settings = {"trim_ratio": 0.5, "threshold_scope": "reinit", "trim_damage_limit": math.inf, "learning_rate": 1e-9}
    trainer = trainer_for(tiny_models.tiny_llama, config(**settings))
    trainer.train()
    loss = trainer.measure_retain_loss()
    assert loss > 2 * trainer.record.given_retain_loss and trainer.record.last_retain_loss == pytest.approx(loss)
    (note,) = trainer.report().notes
    assert note.startswith("The model is damaged") and f"{loss:.3g}" in note
    assert note in caplog.text


def test_a_sound_model_is_not_warned_of(config, caplog) -> None:
    trainer = trainer_for(tiny_models.tiny_llama, config(trim_ratio=0, learning_rate=1e-9))
    trainer.train()
    assert not trainer.report().notes and "damaged" not in caplog.text
    assert trainer.record.last_retain_loss == pytest.approx(trainer.record.given_retain_loss, rel=1e-3)


def test_the_guard_compares_with_the_model_as_it_was_given(config) -> None:
    """Nothing is trimmed and the first epoch already ruins the model: no later epoch need be worse than it."""
    args = config(trim_ratio=0, num_train_epochs=2, learning_rate=0.5, optim="sgd", max_grad_norm=0, forget_weight=1.0)
    trainer = trainer_for(tiny_models.tiny_llama, args)
    with pytest.raises(UnlearningDivergedError, match=r"retain loss, 0\.\d+ of the model as it was given.*divergence_factor=2"):
        trainer.train()
    assert trainer.state.global_step == 5  # at the first epoch's end


def test_repair_of_a_trim_is_not_taken_for_divergence(config) -> None:
    settings = {"trim_ratio": 0.5, "threshold_scope": "reinit", "trim_damage_limit": math.inf, "num_train_epochs": 3}
    trainer = trainer_for(tiny_models.tiny_llama, config(**settings, learning_rate=1e-3))
    trainer.train()
    checks = [row["retain_check_loss"] for row in trainer.state.log_history if "retain_check_loss" in row]
    given = trainer.record.given_retain_loss
    assert len(checks) == 3 and checks[0] > loss_limit(given, 2, trainer.record.loss_floor)
    assert trainer.trim_report["retain_loss_after"] > checks[0] > checks[-1]


def test_evaluations_are_checks_too(config) -> None:
    model, retain, _ = learned(tiny_models.tiny_llama)
    args = config(trim_ratio=0, eval_strategy="steps", eval_steps=2, learning_rate=1e-6)
    trainer = trainer_for(tiny_models.tiny_llama, args, eval_dataset=retain)
    trainer.train()
    assert [row["step"] for row in trainer.state.log_history if "retain_check_loss" in row] == [2, 4, 5]


def test_without_a_guard_and_a_limit_nothing_is_measured(config) -> None:
    trainer = trainer_for(tiny_models.tiny_llama, config(divergence_factor=math.inf, trim_damage_limit=math.inf))
    trainer.train()
    assert trainer.record.given_retain_loss is None and "retain_loss_before" not in trainer.trim_report
    assert not any("retain_check_loss" in row for row in trainer.state.log_history)


class NoisyEvaluation(tiny_models.TinyCNN):
    """Draws random numbers in evaluation too, as models that mask their input do."""

    def forward(self, pixel_values, labels=None):
        return super().forward(pixel_values + torch.randn_like(pixel_values), labels)


def test_measuring_disturbs_neither_modes_nor_random_numbers_and_is_repeatable(config) -> None:
    _, retain, forget = retain_and_forget(tiny_models.tiny_cnn)
    trainer = ScissorhandsTrainer(
        model=NoisyEvaluation(), args=config(reinit_target_modules=["head"]), train_dataset=retain, forget_dataset=forget
    )
    trainer.model.train()
    state = torch.get_rng_state()
    first = trainer.measure_retain_loss()
    assert torch.equal(state, torch.get_rng_state()) and trainer.model.training
    assert trainer.measure_retain_loss() == first
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_the_floor_is_a_hundredth_of_the_loss_of_knowing_nothing(config) -> None:
    classifier = trainer_for(tiny_models.tiny_vit, config())
    assert classifier.loss_floor() == pytest.approx(0.01 * math.log(tiny_models.CLASSES), rel=1e-5)
    language = trainer_for(tiny_models.tiny_llama, config())
    assert language.loss_floor() == pytest.approx(0.01 * math.log(tiny_models.VOCABULARY), rel=1e-5)


def test_the_floor_of_another_loss_is_that_with_labels_of_others(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_cnn)

    class Regression(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, pixel_values, labels=None):
            return {"loss": (self.inner.head.bias[0] + pixel_values.mean((1, 2, 3)) - labels).square().mean()}

    trainer = ScissorhandsTrainer(
        model=Regression(),
        args=config(reinit_target_modules=["head"], forget_loss_ceiling=50.0),
        train_dataset=retain,
        forget_dataset=forget,
    )
    batch = trainer._checked_batches()[0]
    batch = {"pixel_values": batch["pixel_values"], "labels": batch["labels"].roll(1)}
    assert trainer.loss_floor() == pytest.approx(0.01 * trainer.model(**batch)["loss"].item(), rel=1e-5)


def test_a_resumed_run_knows_what_the_model_was_given_with(config) -> None:
    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 3, "trim_ratio": 0.3}
    first = trainer_for(tiny_models.tiny_llama, config(**settings), callbacks=[Stop()])
    first.train()
    second = trainer_for(tiny_models.tiny_llama, config(**settings))
    second.train(resume_from_checkpoint=True)
    assert second.record.given_retain_loss == first.record.given_retain_loss
    assert second.trim_report == first.trim_report
    assert second.record.last_retain_loss == pytest.approx(second.measure_retain_loss())
