"""Evaluations that would fail in the course of a run are refused before any weight is changed."""

from typing import Any

import pytest
import tiny_models
import torch
from tiny_data import examples, retain_and_forget
from transformers import EarlyStoppingCallback

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.trainer import likeliest_tokens


EVALUATED = {"eval_strategy": "epoch", "save_strategy": "epoch"}


def trainer_for(args: Any, **arguments: Any) -> ScissorhandsTrainer:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    sets = {"retain": retain, "forget": forget}
    arguments = {"eval_dataset": sets, **arguments}
    return ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget, **arguments)


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"load_best_model_at_end": True}, r"metric_for_best_model='loss'.*\(retain, forget\).*'eval_retain_loss'"),
        ({"metric_for_best_model": "eval_loss"}, r"'eval_loss' is a figure of none .*\(retain, forget\)"),
        ({"metric_for_best_model": "retain"}, r"\(retain, forget\)"),
        ({"metric_for_best_model": "test_loss", "load_best_model_at_end": True}, r"'eval_retain_test_loss'"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, r"metric_for_best_model='loss'.*\(retain, forget\)"),
        ({"metric_for_best_model": "retain_accuracy"}, r"needs a compute_metrics that gives 'accuracy'.*'eval_retain_loss'"),
    ],
)
def test_a_best_models_metric_that_no_set_has_is_refused_with_the_sets_names(settings: dict, message: str, config) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_for(config(**EVALUATED, **settings))


def test_without_a_compute_metrics_the_loss_is_all_there_is(config) -> None:
    args = config(**EVALUATED, metric_for_best_model="accuracy")
    with pytest.raises(ValueError, match=r"metric_for_best_model='accuracy' needs a compute_metrics.*'eval_loss'"):
        trainer_for(args, eval_dataset=examples(tiny_models.tiny_vit()[1], 4))


@pytest.mark.parametrize("metric", ["retain_accuracy", "eval_forget_loss", "forget_loss"])
def test_a_metric_of_a_set_runs_to_the_end(metric: str, config) -> None:
    args = config(**EVALUATED, num_train_epochs=2, load_best_model_at_end=True, metric_for_best_model=metric)
    trainer = trainer_for(args, compute_metrics=accuracy)
    trainer.train()
    assert trainer.state.best_metric is not None


def test_an_evaluation_of_ones_own_may_have_other_figures(config) -> None:
    class OwnFigure(ScissorhandsTrainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            return {**super().evaluate(*args, **kwargs), "eval_balance": 1.0}

    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    args = config(**EVALUATED, load_best_model_at_end=True, metric_for_best_model="balance")
    sets = {"retain": retain, "forget": forget}
    trainer = OwnFigure(model=model, args=args, train_dataset=retain, forget_dataset=forget, eval_dataset=sets)
    trainer.train()
    assert trainer.state.best_metric == 1.0


def test_early_stopping_without_a_figure_or_evaluations_is_refused_before_the_trim(config) -> None:
    stopping = EarlyStoppingCallback(1)
    with pytest.raises(ValueError, match="EarlyStoppingCallback needs metric_for_best_model"):
        trainer_for(config(**EVALUATED), callbacks=[stopping])
    with pytest.raises(ValueError, match="EarlyStoppingCallback needs evaluations: eval_strategy="):
        trainer_for(config(metric_for_best_model="retain_loss"), callbacks=[stopping])
    trainer = trainer_for(config(**EVALUATED))
    trainer.add_callback(stopping)
    with pytest.raises(ValueError, match="EarlyStoppingCallback needs metric_for_best_model"):
        trainer.train()
    assert trainer.trim_report is None


def test_evaluation_sets_that_are_given_later_are_looked_at_before_the_trim(config) -> None:
    _, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    trainer = trainer_for(config(**EVALUATED, metric_for_best_model="loss"), eval_dataset=retain)
    trainer.eval_dataset = {"retain": retain, "forget": forget}
    with pytest.raises(ValueError, match="is a figure of none of the evaluation sets"):
        trainer.train()
    assert trainer.trim_report is None


@pytest.mark.parametrize("build", [tiny_models.tiny_llama, tiny_models.tiny_gpt2])
def test_logits_of_whole_vocabularies_are_not_collected(build: Any, config) -> None:
    """Without a compute_metrics nothing but the loss is kept; with one, what its user says."""
    model, retain, forget = retain_and_forget(build)
    arguments = {"model": model, "args": config(), "train_dataset": retain, "forget_dataset": forget, "eval_dataset": forget}
    seen = []

    def token_accuracy(prediction: Any) -> dict[str, float]:
        seen.append(prediction.predictions)
        return {"accuracy": float((prediction.predictions[:, :-1] == prediction.label_ids[:, 1:]).mean())}

    plain = ScissorhandsTrainer(**arguments)
    collected = plain.evaluation_loop(plain.get_eval_dataloader(), "plain", prediction_loss_only=True)
    assert collected.predictions is None and "eval_loss" in plain.evaluate()
    with pytest.raises(
        ValueError, match=r"LMHeadModel|LlamaForCausalLM needs a preprocess_logits.*61 entries.*likeliest_tokens"
    ):
        ScissorhandsTrainer(**arguments, compute_metrics=token_accuracy)
    given = {"compute_metrics": token_accuracy, "preprocess_logits_for_metrics": likeliest_tokens}
    accuracy = ScissorhandsTrainer(**arguments, **given).evaluate()["eval_accuracy"]
    (predictions,) = seen
    assert predictions.shape == (6, 10) and predictions.dtype == "int64"
    ids = torch.stack([row["input_ids"] for row in forget])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits.argmax(-1)
    assert (torch.as_tensor(predictions) == expected).all()
    assert accuracy == pytest.approx(float((expected[:, :-1] == ids[:, 1:]).float().mean()))


def test_classifiers_are_handed_their_logits(config) -> None:
    assert "eval_retain_accuracy" in trainer_for(config(), compute_metrics=accuracy).evaluate()
