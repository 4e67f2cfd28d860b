"""What a trainer is given, and what of it reaches the model: Trainer's own order of arguments, columns, collators made once."""

import inspect
import logging
from typing import Any

import pytest
import tiny_models
from datasets import Dataset
from tiny_data import retain_and_forget
from transformers import Trainer, default_data_collator

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.trainer import scissorhands_trainer
from scissorhands_hf.trainer.training_sets import model_columns, training_set


def test_positional_arguments_are_those_of_trainer(config) -> None:
    """A further one of a new transformers fails here and is to be passed on."""
    ours, stock = (inspect.signature(one.__init__).parameters for one in (ScissorhandsTrainer, Trainer))
    assert list(ours) == [*stock, "forget_dataset"]
    assert ours["forget_dataset"].kind is inspect.Parameter.KEYWORD_ONLY
    assert [p.default for name, p in ours.items() if name in stock] == [p.default for p in stock.values()]
    model, retain, forget = retain_and_forget(tiny_models.tiny_bert)
    trainer = ScissorhandsTrainer(model, config(), default_data_collator, retain, {"forget": forget}, forget_dataset=forget)
    assert trainer.eval_dataset == {"forget": forget}


@pytest.mark.parametrize("kind", ["datasets", "list"])
def test_columns_are_stripped_once(kind: str, config, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def count(*args: Any) -> Any:
        made.append(args[-1])
        return training_set(*args)

    monkeypatch.setattr(scissorhands_trainer, "training_set", count)
    model, retain, forget = retain_and_forget(tiny_models.tiny_bert)
    retain, forget = (data.add_column("note", ["text"] * len(data)) for data in (retain, forget))
    if kind == "list":
        retain, forget = list(retain), list(forget)
    args = config(memory_batches=3, num_train_epochs=3, trim_ratio=0.1)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    trainer.train()
    trainer.evaluate(retain)
    assert made == ["retain", "forget"]
    assert trainer.sets is trainer.sets

    trainer.train_dataset = retain.select(range(8)) if kind == "datasets" else retain[:8]
    assert len(trainer.sets["retain"]) == 8
    assert made == ["retain", "forget"] * 2


def test_unused_columns_are_kept_when_asked_for() -> None:
    data = Dataset.from_dict({"a": [1, 2], "note": ["x", "y"]})
    assert training_set(data, list, None, "Model", "retain").batch([1]) == [{"a": 2, "note": "y"}]
    assert training_set(data, list, ["a"], "Model", "retain").batch([1]) == [{"a": 2}]
    assert training_set(list(data), list, ["a"], "Model", "retain").batch([0]) == [{"a": 1}]


def test_a_set_without_any_column_of_the_model_is_refused() -> None:
    data = Dataset.from_dict({"picture": [1], "note": ["x"]})
    with pytest.raises(ValueError, match=r"the forget set has none of the columns.*picture, note.*remove_unused_columns=False"):
        training_set(data, list, ["pixel_values", "labels"], "ViT", "forget")


def test_the_columns_are_those_that_stock_trainer_keeps(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget)
    trainer._set_signature_columns_if_needed()
    assert set(model_columns(model, trainer.label_names)) == set(trainer._signature_columns)


def test_the_log_says_what_the_recipe_filled_in(config, caplog: pytest.LogCaptureFixture) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
    with caplog.at_level(logging.INFO, logger="scissorhands_hf"):
        args = config(recipe="svhn-class", forget_weight=0.7)
        ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    (line,) = [record.getMessage() for record in caplog.records if "filled in" in record.getMessage()]
    assert line.startswith("The recipe 'svhn-class' filled in: ")
    assert '"trim_ratio": 0.1' in line and "forget_weight" not in line
