"""Accumulated steps: each part of the loss is a mean over the labelled tokens of the whole step, as stock Trainer's is."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny_data import padded_text
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration, Trainer, TrainingArguments

from scissorhands_hf import ScissorhandsTrainer


RATE, LAMBDA = 0.1, 0.3
SPLITS = [(8, 1), (4, 2), (2, 4), (1, 8)]


def stepped(model: nn.Module, before: nn.Module) -> Tensor:
    """What one step of gradient descent took off the weights, divided by the learning rate: the gradient."""
    pairs = zip(before.parameters(), model.parameters(), strict=True)
    return torch.cat([((old - new) / RATE).detach().flatten() for old, new in pairs])


SETTINGS = {
    "optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant", "max_steps": 1, "max_grad_norm": 0.0,
    "weight_decay": 0.0,
}  # fmt: skip
BARE = {**SETTINGS, "trim_ratio": 0, "projection": False, "forget_loss_ceiling": 1e9}


def ours(model: nn.Module, config, retain: Any, forget: Any, batch: int, steps: int, **settings: Any) -> tuple[Tensor, dict]:
    """The gradient of one step, and what was logged of it."""
    trained = copy.deepcopy(model)
    extra = {name: settings.pop(name) for name in ("compute_loss_func",) if name in settings}
    values = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, **BARE, **settings}
    trainer = ScissorhandsTrainer(model=trained, args=config(**values), train_dataset=retain, forget_dataset=forget, **extra)
    trainer.train()
    (log,) = [row for row in trainer.state.log_history if "retain_loss" in row]
    return stepped(trained, model), log


def stock(model: nn.Module, tmp_path, retain: Any, batch: int, steps: int, loss: Any = None, **settings: Any) -> Tensor:
    trained = copy.deepcopy(model)
    args = TrainingArguments(
        output_dir=str(tmp_path / "stock"), use_cpu=True, disable_tqdm=True, report_to="none", save_strategy="no",
        per_device_train_batch_size=batch, gradient_accumulation_steps=steps, **SETTINGS, **settings,
    )  # fmt: skip
    Trainer(model=trained, args=args, train_dataset=retain, compute_loss_func=loss).train()
    return stepped(trained, model)


def token_mean(model: nn.Module, data: Dataset) -> Tensor:
    """The gradient of the mean over all labelled tokens of a causal language model, by torch alone."""
    model = copy.deepcopy(model)
    rows = data[:]
    logits = model(input_ids=rows["input_ids"]).logits[:, :-1].float()
    F.cross_entropy(logits.flatten(0, 1), rows["labels"][:, 1:].flatten(), ignore_index=-100).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def summed_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    shifted = outputs.logits[:, :-1].flatten(0, 1)
    return F.cross_entropy(shifted, labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / num_items_in_batch


def tiny_masked_bert() -> nn.Module:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForMaskedLM(BertConfig(vocab_size=tiny_models.VOCABULARY, max_position_embeddings=32, **shape, **dropout))


def tiny_t5() -> nn.Module:
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=tiny_models.VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=4, dropout_rate=0.0,
            decoder_start_token_id=0,
        )
    )  # fmt: skip


LANGUAGE_MODELS = {"llama": lambda: tiny_models.tiny_llama()[0], "masked": tiny_masked_bert, "t5": tiny_t5}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize(("batch", "steps"), SPLITS)
def test_without_forgetting_a_step_is_stock_trainers_however_it_is_split(name, batch, steps, config, tmp_path) -> None:
    model, retain = LANGUAGE_MODELS[name](), padded_text(8, 1)
    expected = stock(model, tmp_path, retain, 8, 1)
    step, _ = ours(model, config, retain, padded_text(4, 2), batch, steps, forget_weight=0.0)
    assert (step - expected).norm() <= 3e-6 * expected.norm()
    if name == "llama":  # stock Trainer adds up the means of the others, which take a number of items and make no use of it
        assert (step - stock(model, tmp_path, retain, batch, steps)).norm() <= 3e-6 * expected.norm()


@pytest.mark.parametrize(("batch", "steps"), SPLITS)
def test_the_mean_is_over_what_is_predicted_where_stock_trainer_counts_first_labels_too(batch, steps, config) -> None:
    model, retain = tiny_models.tiny_gpt2()[0].eval(), padded_text(8, 1)
    for module in model.modules():
        module.p = 0.0 if isinstance(module, nn.Dropout) else getattr(module, "p", None)
    step, _ = ours(model, config, retain, padded_text(2, 2), batch, steps, forget_weight=0.0)
    expected = token_mean(model, retain)
    assert (step - expected).norm() <= 3e-6 * expected.norm()


@pytest.mark.parametrize(("batch", "steps", "forget_batch"), [(8, 1, 6), (4, 2, 3), (2, 4, 2), (1, 8, 1)])
@pytest.mark.parametrize("schedule", ["cycle", "once"])
def test_both_parts_are_means_over_their_labelled_tokens(batch, steps, forget_batch, schedule, config) -> None:
    """With "once", six single forget examples lie in six of the eight micro-batches; with "cycle" only what is a whole pass."""
    forgotten = 6 if schedule == "once" or steps < 4 else 8
    model, retain, forget = tiny_models.tiny_llama()[0], padded_text(8, 1), padded_text(forgotten, 2, (11, 2, 2, 7, 3, 12))
    expected = token_mean(model, retain) - LAMBDA * token_mean(model, forget)
    step, log = ours(
        model, config, retain, forget, batch, steps,
        forget_weight=LAMBDA, per_device_forget_batch_size=forget_batch, forget_schedule=schedule,
    )  # fmt: skip
    assert (step - expected).norm() <= 3e-6 * expected.norm()
    for part, data in (("retain_loss", retain), ("forget_loss", forget)):
        rows = data[:]
        with torch.no_grad():
            mean = model(input_ids=rows["input_ids"], labels=rows["labels"]).loss.item()
        assert log[part] == pytest.approx(mean, rel=1e-5)
    assert log["loss"] == pytest.approx(log["retain_loss"] - LAMBDA * log["forget_loss"], rel=1e-4)


@pytest.mark.parametrize(("batch", "steps"), SPLITS)
def test_a_loss_function_is_told_the_tokens_of_the_whole_step(batch, steps, config, tmp_path) -> None:
    model, retain, seen = tiny_models.tiny_llama()[0], padded_text(8, 1), []

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        if outputs.logits.requires_grad:
            seen.append(float(num_items_in_batch))
        return summed_loss(outputs, labels, num_items_in_batch)

    step, _ = ours(
        model, config, retain, padded_text(8, 2, (4,)), batch, steps, forget_weight=LAMBDA, compute_loss_func=loss,
        per_device_forget_batch_size=batch,
    )  # fmt: skip
    assert set(seen) == {float(retain[:]["labels"][:, 1:].ne(-100).sum()), 8 * 3.0}
    expected = token_mean(model, retain) - LAMBDA * token_mean(model, padded_text(8, 2, (4,)))
    assert (step - expected).norm() <= 3e-6 * expected.norm()
    alone, _ = ours(model, config, retain, padded_text(2, 2), batch, steps, forget_weight=0.0, compute_loss_func=summed_loss)
    assert (alone - stock(model, tmp_path, retain, batch, steps, summed_loss)).norm() <= 3e-6 * expected.norm()


def test_a_loss_function_that_takes_a_mean_is_weighed_all_the_same(config) -> None:
    def mean_loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)

    model, retain = tiny_models.tiny_llama()[0], padded_text(8, 1)
    step, _ = ours(model, config, retain, padded_text(2, 2), 2, 4, forget_weight=0.0, compute_loss_func=mean_loss)
    expected = token_mean(model, retain)
    assert (step - expected).norm() <= 3e-6 * expected.norm()


@pytest.mark.parametrize(("batch", "steps"), SPLITS)
def test_label_smoothing_is_stock_trainers(batch, steps, config, tmp_path) -> None:
    model, retain = tiny_models.tiny_llama()[0], padded_text(8, 1)
    step, _ = ours(model, config, retain, padded_text(2, 2), batch, steps, forget_weight=0.0, label_smoothing_factor=0.2)
    expected = stock(model, tmp_path, retain, batch, steps, label_smoothing_factor=0.2)
    assert (step - expected).norm() <= 3e-6 * expected.norm()


def images_or_tokens(sample: dict[str, Tensor]) -> Dataset:
    """Seven different examples like those of ``sample``."""
    (key,) = sample.keys() - {"labels"}
    values = torch.cat([sample[key], sample[key].flip(1)])[:7]
    labels = [index % tiny_models.CLASSES for index in range(7)]
    return Dataset.from_dict({key: values.tolist(), "labels": labels}).with_format("torch")


@pytest.mark.parametrize("build", [tiny_models.tiny_vit, tiny_models.tiny_sequence], ids=["vit", "plain"])
@pytest.mark.parametrize(("batch", "steps"), [(7, 1), (1, 7)])
def test_a_classifiers_step_is_stock_trainers(build, batch, steps, config, tmp_path) -> None:
    model, sample = build()
    retain = images_or_tokens(sample)
    forget = retain.select([0, 1])
    step, _ = ours(model, config, retain, forget, batch, steps, forget_weight=0.0, reinit_target_modules=["*"])
    expected = stock(model, tmp_path, retain, batch, steps)
    assert (step - expected).norm() <= 3e-6 * expected.norm()


def test_micro_batches_count_alike_where_no_items_are_taken(config) -> None:
    """Seven examples in micro-batches of 3, 3 and 1, as in stock Trainer; which is alone is up to the order."""
    model, sample = tiny_models.tiny_sequence()
    retain = images_or_tokens(sample)
    step, _ = ours(model, config, retain, retain.select([0]), 3, 3, forget_weight=0.0, reinit_target_modules=["head"])
    single = []
    for row in retain:
        model.zero_grad()
        model(row["input_ids"][None], row["labels"][None])["loss"].backward()
        single.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    total = sum(single)
    distances = [(step - ((total - alone) / 9 + alone / 3)).norm() for alone in single]
    assert min(distances) <= 1e-4 * step.norm()
    assert sorted(distances)[1] > 0.1 * step.norm()


@pytest.mark.slow
def test_two_processes_take_the_step_of_all_their_tokens_and_project_it_off_the_memory_of_all(tmp_path) -> None:
    """The forget set is half of the retain set, so that its memory opposes the step and the projection acts."""
    run = Path(__file__).parents[1] / "distributed_step.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(run), str(tmp_path)]
    command.append(json.dumps({"forget_loss_ceiling": 1e9}))
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert result.returncode == 0, result.stderr[-3000:]
    model, retain = tiny_models.tiny_llama()[0], padded_text(8, 1)
    forget = retain.select(range(4))
    opposed, step = -token_mean(model, forget), token_mean(model, retain) - LAMBDA * token_mean(model, forget)
    dot = step @ opposed
    assert dot < 0
    expected = step - dot / (opposed @ opposed + 1e-3) * opposed
    for rank in (0, 1):
        taken = load_file(tmp_path / f"rank-{rank}.safetensors")["step"]
        assert (taken - expected).norm() <= 1e-5 * expected.norm()
    (log,) = json.loads((tmp_path / "log.json").read_text())
    rows = retain[:]
    with torch.no_grad():
        assert log["retain_loss"] == pytest.approx(
            model(input_ids=rows["input_ids"], labels=rows["labels"]).loss.item(), rel=1e-5
        )
