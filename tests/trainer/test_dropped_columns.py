"""A column that was dropped as unused and is needed after all is an error that says which argument keeps it."""

from typing import Any

import pytest
import tiny_models
import torch
from datasets import Dataset
from tiny_data import retain_and_forget

from scissorhands_hf import ScissorhandsTrainer


def transformed(count: int) -> Dataset:
    """Pictures that become `pixel_values` when they are read."""
    pictures = torch.randn(count, 1, 16, 16).tolist()

    def transform(rows: dict[str, list]) -> dict[str, list]:
        return {"pixel_values": [torch.tensor(image) for image in rows["image"]], "labels": rows["label"]}

    return Dataset.from_dict({"image": pictures, "label": [index % 5 for index in range(count)]}).with_transform(transform)


class Pictures(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.ones(1, 16, 16) * index, "label": index % 5}


def pictures_to_pixels(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    labels = torch.tensor([example["label"] for example in examples])
    return {"pixel_values": torch.stack([example["image"] for example in examples]), "labels": labels}


MESSAGE = r"the column 'image' is asked for .*remove_unused_columns=False"


def test_a_transform_that_misses_its_column(config) -> None:
    model, _ = tiny_models.tiny_vit()
    sets = {"train_dataset": transformed(8), "forget_dataset": transformed(4)}
    with pytest.raises(ValueError, match=MESSAGE):
        ScissorhandsTrainer(model=model, args=config(), **sets)
    trainer = ScissorhandsTrainer(model=model, args=config(remove_unused_columns=False), **sets)
    trainer.train()
    assert trainer.state.global_step == 2


def test_a_collator_that_misses_a_column(config) -> None:
    model, _ = tiny_models.tiny_vit()
    sets = {"train_dataset": Pictures(), "forget_dataset": Pictures(), "data_collator": pictures_to_pixels}
    with pytest.raises(ValueError, match=MESSAGE):
        ScissorhandsTrainer(model=model, args=config(), **sets)
    ScissorhandsTrainer(model=model, args=config(remove_unused_columns=False), **sets).train()


@pytest.mark.parametrize("named", [False, True])
def test_an_evaluation_set_is_looked_at_before_the_run(named: bool, config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    evaluated = {"test": transformed(4)} if named else transformed(4)
    with pytest.raises(ValueError, match=MESSAGE):
        ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget, eval_dataset=evaluated)


def test_a_key_that_was_never_there_stays_a_key_error(config) -> None:
    def broken(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {"pixel_values": examples[0]["no_such_column"]}

    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    with pytest.raises(KeyError, match="no_such_column"):
        ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget, data_collator=broken)


@pytest.mark.parametrize("setting", [{"predict_with_generate": True}, {"generation_max_length": 20}, {"sortish_sampler": True}])
def test_settings_of_generating_evaluations_are_refused_with_what_to_use(setting: dict, config) -> None:
    with pytest.raises(TypeError, match=rf"{next(iter(setting))}: evaluations do not generate.*model\.generate"):
        config(**setting)
