"""Bad input gets an error that names argument, value and way out, before any weight is touched."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tiny_data import examples, retain_and_forget
from torch import nn
from transformers import BitsAndBytesConfig, TrainingArguments
from transformers.utils.quantization_config import QuantizationMethod

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.hub import UploadRefusedError
from scissorhands_hf.trainer import checks


def refused(error: type[Exception], match: str, config: Any, settings: dict | None = None, **changes: Any) -> None:
    """The trainer refuses, or refuses to train, and every weight is as it was."""
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    model = changes.pop("model", model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = {"train_dataset": retain, "forget_dataset": forget, **changes}
    args = arguments.pop("args", None) or config(**(settings or {}))
    with pytest.raises(error, match=match):
        ScissorhandsTrainer(model=model, args=args, **arguments)
    assert all(torch.equal(tensor.nan_to_num(), before[name].nan_to_num()) for name, tensor in model.state_dict().items())


def test_datasets(config) -> None:
    _, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    refused(ValueError, "forget_dataset=None: give what the model must forget", config, forget_dataset=None)
    refused(ValueError, "train_dataset=None", config, train_dataset=None)
    refused(ValueError, "forget_dataset is empty", config, forget_dataset=forget.select([]))
    refused(ValueError, "train_dataset is empty", config, train_dataset=[])
    refused(ValueError, "same object", config, train_dataset=retain, forget_dataset=retain)
    refused(ValueError, "without a length.*streaming=True", config, train_dataset=retain.to_iterable_dataset())


def test_labels_out_of_range_in_a_list_of_examples(config) -> None:
    """Torch says "Target 7 is out of bounds"."""
    _, _, forget = retain_and_forget(tiny_models.tiny_vit)
    broken = [{**forget[0], "labels": torch.tensor(7)}]
    refused(ValueError, r"forget_dataset gives labels \[7\] outside 0 … 4.*num_labels=5", config, forget_dataset=broken)


@pytest.mark.parametrize(("wrong", "shown"), [(5, r"\[5\]"), (-1, r"\[-1\]")])
def test_labels_out_of_range(wrong: int, shown: str, config) -> None:
    _, retain, _ = retain_and_forget(tiny_models.tiny_vit)
    labels = [*retain.with_format(None)["labels"][:-1], wrong]
    broken: Dataset = retain.remove_columns("labels").add_column("labels", labels).with_format("torch")
    refused(
        ValueError,
        rf"train_dataset: the column 'labels' holds labels {shown} outside 0 … 4.*num_labels=5",
        config,
        train_dataset=broken,
    )
    refused(ValueError, r"forget_dataset: the column 'labels'", config, forget_dataset=broken)


def test_overlap_of_ids_is_warned_of_without_naming_them(config, caplog) -> None:
    model, retain, _ = retain_and_forget(tiny_models.tiny_vit)
    with caplog.at_level(logging.WARNING, logger="scissorhands_hf"):
        ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=retain.select(range(3)))
    assert "3 of 3 forget examples are also in the retain set" in caplog.text
    assert "1-0" not in caplog.text


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"forget_objective": "redirect"}, "forget_objective='redirect' needs a diffusion pipeline"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy='group_by_length' is not supported"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches=True"),
        ({"reinit_target_modules": "encoder.layer.9"}, "the pattern 'encoder.layer.9' matches no parameter"),
    ],
)
def test_settings(settings: dict, match: str, config) -> None:
    refused(ValueError, match, config, settings)


def test_fp16_deepspeed_and_fsdp(config) -> None:
    for name, value, match in (
        ("fp16", True, "fp16=True.*bf16=True"),
        ("deepspeed", {"zero_optimization": {"stage": 2}}, "deepspeed is set"),
        ("fsdp", "full_shard", "fsdp='full_shard' is not supported"),
    ):
        args = config()
        setattr(args, name, value)  # constructing TrainingArguments with these needs a GPU or another package
        refused(ValueError, match, config, args=args)


def test_stock_training_arguments(config, tmp_path) -> None:
    refused(
        TypeError, "args is a TrainingArguments; .* needs a ScissorhandsConfig", config, args=TrainingArguments(str(tmp_path))
    )


def test_quantised_weights(config) -> None:
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    model.is_quantized = True
    model.quantization_method = BitsAndBytesConfig(load_in_8bit=True).quant_method
    refused(ValueError, r"quantised \(bitsandbytes\)|quantised \(llm_int8\)", config, model=model)


def test_peft_model_with_a_frozen_base(config) -> None:
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "query"], r=2))
    refused(ValueError, "PEFT model with a frozen base.*merge_and_unload", config, model=adapted)


def test_peft_model_with_a_trainable_base_whose_checkpoints_would_lack_it(config) -> None:
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "query"], r=2)).requires_grad_(True)
    refused(ValueError, "checkpoints hold the adapter alone.*merge_and_unload", config, model=adapted)


def test_compiled_model_whose_checkpoints_could_not_be_loaded(config) -> None:
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    compiled = torch.compile(model, backend="eager")
    refused(ValueError, r"is compiled.*model\._orig_mod.*torch_compile=True", config, model=compiled)


def test_merged_peft_model_is_welcome(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    merged = get_peft_model(model, LoraConfig(target_modules=["q_proj", "query"], r=2)).merge_and_unload()
    merged.requires_grad_(True)
    trainer = ScissorhandsTrainer(model=merged, args=config(), train_dataset=retain, forget_dataset=forget)
    trainer.train()
    assert trainer.trim_report["trimmed"] > 0


def test_small_steps_are_lost_in_bfloat16_and_kept_in_float32() -> None:
    """What the refusal of half precision says."""
    for dtype, moved in ((torch.bfloat16, 0), (torch.float32, 1000)):
        weight = torch.nn.Parameter(torch.ones(1000, dtype=dtype))
        optimizer = torch.optim.SGD([weight], lr=1e-3)
        for _ in range(5):  # each step is a thousandth of the weight
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        assert int((weight != 1).sum()) == moved


def test_frozen_weights_may_be_bfloat16_where_the_trained_ones_are_float32(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_llama)
    model.bfloat16()
    model.model.layers[1].mlp.float()
    args = config(trainable_target_modules=["layers.1.mlp"], bf16=True, trim_ratio=0.05)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    trainer.train()
    assert trainer.trim_report["trimmed"] > 0
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)


def test_a_model_from_a_gguf_file_is_told_how_to_become_a_plain_one(config) -> None:
    model, *_ = retain_and_forget(tiny_models.tiny_llama)
    model.hf_quantizer, model.quantization_method = object(), QuantizationMethod.GGUF
    refused(ValueError, r"read from a GGUF file.*from_config.*load_state_dict", config, model=model)


def test_frozen_half_and_broken_weights(config) -> None:
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    refused(ValueError, "no weight of the model requires gradients", config, model=model.requires_grad_(False))
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    refused(ValueError, r"is float16 and is to be trained.*dtype=torch\.float32", config, model=model.half())
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    refused(ValueError, r"is bfloat16 and is to be trained.*0\.39 %.*bf16=True", config, model=model.bfloat16())
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    model.classifier.weight.data[0, 0] = float("nan")
    refused(ValueError, "the weight 'classifier.weight' contains NaN or infinity", config, model=model)


def test_a_nan_in_the_data_is_found_before_the_trim(config) -> None:
    """Beyond the examples that the constructor tries: the sensitivity pass meets it, with every weight still in place."""
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    pixels = torch.stack(list(forget["pixel_values"])).clone()
    pixels[-1] = float("nan")
    broken = forget.remove_columns("pixel_values").add_column("pixel_values", pixels.tolist()).with_format("torch")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=broken)
    with pytest.raises(ValueError, match="forget loss of sensitivity batch 2 is nan"):
        trainer.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    refused(ValueError, "loss on examples of forget_dataset is nan", config, forget_dataset=broken.select([5]))


def test_weights_sharded_over_processes(config) -> None:
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    model.classifier.weight.to_local = lambda: None  # what tells a DTensor; making one needs a process group
    refused(ValueError, "'classifier.weight' is sharded over processes", config, model=model)


class NoLoss(tiny_models.TinyCNN):
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        return super().forward(pixel_values)


class LossPerExample(tiny_models.TinyCNN):
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = super().forward(pixel_values)["logits"]
        return (nn.functional.cross_entropy(logits, labels, reduction="none"), logits)


class LossAlone(tiny_models.TinyCNN):
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        return (super().forward(pixel_values, labels)["loss"],)


def test_models_without_a_usable_loss(config) -> None:
    batch = tiny_models.tiny_cnn()[1]
    sets = {"train_dataset": examples(batch, 8, 1), "forget_dataset": examples(batch, 4, 2)}
    scope = {"reinit_target_modules": "head"}
    refused(ValueError, "did not return a loss", config, scope, model=NoLoss(), **sets)
    refused(ValueError, r"a tensor of shape \(2,\) where its loss should be", config, scope, model=LossPerExample(), **sets)
    trainer = ScissorhandsTrainer(model=LossAlone(), args=config(**scope), **sets)
    assert trainer.report().settings["forget_loss_ceiling_source"].startswith("the loss with the labels of other")


def test_a_loss_alone_is_enough_with_a_ceiling(config) -> None:
    batch = tiny_models.tiny_cnn()[1]
    trainer = ScissorhandsTrainer(
        model=LossAlone(),
        args=config(reinit_target_modules="head", forget_loss_ceiling=3.0),
        train_dataset=examples(batch, 8, 1),
        forget_dataset=examples(batch, 4, 2),
    )
    trainer.train()
    assert trainer.forget_loss_ceiling == 3.0


def test_pushing_before_training_and_what_stock_code_cannot_load(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget)
    with pytest.raises(ValueError, match="nothing was unlearned yet"):
        trainer.push_to_hub()
    model, retain, forget = retain_and_forget(tiny_models.tiny_cnn)
    args = config(reinit_target_modules="head")
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    trainer.train()
    with pytest.raises(UploadRefusedError, match="the model is a TinyCNN, which stock transformers cannot load"):
        trainer.push_to_hub()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"disclose": "all"}, "disclose='all' is not one of 'full', 'summary', 'none'"),
        ({"base_model": "/data/bert"}, "base_model='/data/bert' is not an id on the Hub"),
        ({"license": "my own"}, "license='my own' is not a licence identifier"),
        ({"language": "english"}, "language='english' is not a language code"),
        ({"retain_datasets": ["a b"]}, "retain_datasets='a b' is not an id on the Hub"),
    ],
)
def test_what_the_card_takes(settings: dict, match: str, config) -> None:
    with pytest.raises(ValueError, match=match):
        config(**settings)


def test_a_launcher_of_sharded_training_is_told_of_one_that_starts_every_process() -> None:
    """`accelerate launch --cpu --num_processes 2` starts one (accelerate 1.15)."""
    with pytest.raises(ValueError, match="FSDP.*--multi_gpu; on CPUs torchrun --nproc_per_node N") as refusal:
        checks.check_distributed(SimpleNamespace(distributed_type=DistributedType.FSDP))
    assert "(or --cpu)" not in str(refusal.value)


def test_an_optimizer_without_its_package_is_refused_at_construction(config) -> None:
    model, *_ = retain_and_forget(tiny_models.tiny_vit)
    refused(ImportError, "optim='adamw_bnb_8bit' needs a package that is missing", config, {"optim": "adamw_bnb_8bit"})
