"""The trainer's behaviour: it trims once, repairs, logs, and is a Trainer in everything else."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from datasets import Dataset
from tiny_data import examples, retain_and_forget
from torch import nn
from transformers import AutoModelForImageClassification, BertConfig, BertForSequenceClassification, TrainerCallback

from scissorhands_hf import ScissorhandsTrainer, UnlearningDivergedError, UnlearningReport
from scissorhands_hf.core.modes import evaluation_mode


BUILDERS = {
    "resnet": (tiny_models.tiny_resnet, None),
    "vit": (tiny_models.tiny_vit, None),
    "bert": (tiny_models.tiny_bert, None),
    "llama": (tiny_models.tiny_llama, None),
    "gpt2": (tiny_models.tiny_gpt2, None),
    "cnn": (tiny_models.tiny_cnn, ["grouped", "head"]),
    "sequence": (tiny_models.tiny_sequence, ["attention", "lstm", "head"]),
}


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_kind_of_model_is_trimmed_repaired_and_logged(name: str, config) -> None:
    build, scope = BUILDERS[name]
    model, retain, forget = retain_and_forget(build)
    before = snapshot(model)
    trainer = ScissorhandsTrainer(
        model=model,
        args=config(reinit_target_modules=scope, trim_ratio=0.2, num_train_epochs=2),
        train_dataset=retain,
        forget_dataset=forget,
        eval_dataset={"forget": forget, "retain": retain},
    )
    trainer.train()
    assert trainer.trim_report["trimmed"] > 0
    assert trainer.trim_report["above_threshold"] == int(0.2 * trainer.trim_report["candidates"])
    assert any(not torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    steps = [row for row in trainer.state.log_history if "retain_loss" in row]
    assert len(steps) == 10
    assert {"forget_loss", "projected_share", "memory_alignment", "loss", "grad_norm"} <= steps[0].keys()
    assert {"eval_forget_loss", "eval_retain_loss"} <= trainer.evaluate().keys()


def test_an_unlearned_checkpoint_loads_with_stock_transformers(config, tmp_path) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
    trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path / "saved").eval()
    pixels = retain[:4]["pixel_values"]
    with torch.no_grad():
        assert torch.equal(reloaded(pixel_values=pixels).logits, model.eval()(pixel_values=pixels).logits)
    assert not (tmp_path / "saved" / "gradient_memory.safetensors").exists()


def test_trim_and_memories_leave_batch_norm_statistics_and_modes_alone(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
    trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget)
    model.train()
    model.resnet.embedder.eval()
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    trainer.trim()
    with evaluation_mode(model, batch_statistics=True):
        assert model.resnet.encoder.stages[1].layers[0].layer[0].normalization.training
        assert not model.resnet.encoder.stages[1].training
        model(**{key: value for key, value in forget[:4].items() if key != "id"})
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert [module.training for module in model.modules()] == modes
    assert model.resnet.encoder.stages[1].layers[0].layer[0].normalization.momentum == 0.1


def test_the_forget_set_leaves_no_trace_in_batch_norm_statistics(config) -> None:
    """With weights that do not move, the running statistics must be those that the retain batches alone leave."""
    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet, retain=8)
    reference = copy.deepcopy(model).train()
    reference(pixel_values=retain[:]["pixel_values"], labels=retain[:]["labels"])
    args = config(learning_rate=0.0, per_device_train_batch_size=8, memory_batches=2, trim_ratio=1e-6)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    trainer.train()
    assert trainer.state.global_step == 1
    assert trainer.trim_report["trimmed"] == 0
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, reference.get_buffer(name), rtol=1e-4, atol=1e-6)


def test_gradient_accumulation_is_the_same_step_as_a_larger_batch(config) -> None:
    weights = []
    for batch, accumulation in ((8, 1), (4, 2)):
        model, retain, forget = retain_and_forget(tiny_models.tiny_vit, retain=8, forget=4)
        args = config(
            per_device_train_batch_size=batch,
            per_device_forget_batch_size=batch // 2,
            gradient_accumulation_steps=accumulation,
            projection=False,  # its memories are of one batch each, which differ here on purpose
            saliency_batches=-1,
            forget_weight=0.3,
            optim="sgd",
        )
        trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
        trainer.trim = lambda: {"threshold": 0.0, "trimmed": 0, "per_module": {}}  # its batches differ, too
        trainer.train()
        assert trainer.state.global_step == 1
        weights.append(snapshot(model))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-5, atol=1e-7)


def test_above_the_ceiling_nothing_ascends(config) -> None:
    """With the forget loss above a tiny ceiling from the start, λ and the margin must have no effect whatever."""
    weights = []
    for settings in (
        {"forget_weight": 10.0, "projection": True, "projection_margin": 0.5},
        {"forget_weight": 0.0, "projection": False},
    ):
        model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
        trainer = ScissorhandsTrainer(model=model, args=config(**settings), train_dataset=retain, forget_dataset=forget)
        trainer.forget_loss_ceiling = 1e-3 if settings["projection"] else math.inf  # as an argument it would be refused
        trainer.train()
        weights.append(snapshot(model))
    assert [row["above_ceiling_share"] for row in trainer.state.log_history if "retain_loss" in row] == [0.0] * 5
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=0, atol=0)


def test_below_the_ceiling_the_forget_loss_rises(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_bert)
    args = config(forget_weight=2.0, num_train_epochs=6, learning_rate=1e-2, forget_loss_ceiling=math.inf)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    trainer.train()
    losses = [row["forget_loss"] for row in trainer.state.log_history if "forget_loss" in row]
    assert losses[-1] > losses[0] + 0.5


def test_default_ceiling_is_twice_the_loss_of_a_uniform_guess(config) -> None:
    for build in (tiny_models.tiny_resnet, tiny_models.tiny_bert):
        model, retain, forget = retain_and_forget(build)
        trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget)
        assert trainer.forget_loss_ceiling == pytest.approx(2 * math.log(tiny_models.CLASSES))


def test_a_diverging_run_stops_and_leaves_the_last_good_checkpoint(config, tmp_path) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
    args = config(
        num_train_epochs=6,
        learning_rate=1e4,
        warmup_steps=8,
        optim="sgd",
        max_grad_norm=0,
        forget_weight=5.0,
        forget_loss_ceiling=math.inf,
        save_strategy="steps",
        save_steps=1,
    )
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    with pytest.raises(UnlearningDivergedError, match=r"diverged at step \d+.*checkpoint-\d+.*learning_rate"):
        trainer.train()
    good = max((tmp_path / "out").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    reloaded = AutoModelForImageClassification.from_pretrained(good)
    assert all(torch.isfinite(parameter).all() for parameter in reloaded.parameters())


def test_a_rising_retain_loss_stops_the_run(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_bert)
    args = config(num_train_epochs=30, learning_rate=0.3, optim="sgd", forget_weight=30.0, forget_loss_ceiling=1e3)
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    with pytest.raises(UnlearningDivergedError, match="of the model as it was given"):
        trainer.train()


class OutOfMemoryAbove(nn.Module):
    """A classifier that runs out of memory on more than ``limit`` examples, as a GPU would."""

    def __init__(self, limit: int):
        super().__init__()
        self.inner, self.limit = tiny_models.TinyCNN(), limit

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        if self.training and len(pixel_values) > self.limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return self.inner(pixel_values, labels)


def test_auto_find_batch_size_trims_once(config) -> None:
    torch.manual_seed(0)
    model = OutOfMemoryAbove(limit=4)
    batch = tiny_models.tiny_cnn()[1]
    args = config(
        auto_find_batch_size=True,
        per_device_train_batch_size=16,
        per_device_forget_batch_size=4,
        reinit_target_modules="inner.grouped",
        trim_ratio=0.3,
    )
    trainer = ScissorhandsTrainer(
        model=model, args=args, train_dataset=examples(batch, 32, 1), forget_dataset=examples(batch, 8, 2)
    )
    trims = []
    measured = trainer.trim
    trainer.trim = lambda: trims.append(1) or measured()
    trainer.train()
    assert len(trims) == 1
    assert trainer._train_batch_size <= 4
    assert trainer.state.global_step > 2


def test_training_twice_trims_twice(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget)
    trainer.train()
    first = trainer.trim_report
    trainer.train()
    assert trainer.trim_report is not first


def test_only_the_trained_scope_changes(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    before = snapshot(model)
    args = config(
        trainable_target_modules=["classifier", "*.layers.1.*"], projection_target_modules=["classifier"], trim_ratio=0.3
    )
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    trainer.train()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(".layers.1." in name or name.startswith("classifier") for name in changed)


class Recorder(TrainerCallback):
    def __init__(self):
        self.events: list[str] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        self.events.extend(logs)


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def test_stock_trainer_features_together(config, tmp_path) -> None:
    """Callbacks, metrics, dict evaluation, best model, checkpoint limit, bf16, activation checkpointing, own optimizer."""
    config_with_dropout = BertConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, num_labels=5
    )
    torch.manual_seed(0)
    model = BertForSequenceClassification(config_with_dropout)
    batch = tiny_models.tiny_bert()[1]
    retain, forget = examples(batch, 20, 1), examples(batch, 6, 2)
    recorder = Recorder()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=1e-2)
    trainer = ScissorhandsTrainer(
        model=model,
        args=config(
            num_train_epochs=3,
            bf16=True,
            activation_checkpointing=True,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="retain_accuracy",
            memory_batches=3,
            projection_every=2,
        ),
        train_dataset=retain,
        forget_dataset=forget,
        eval_dataset={"retain": retain, "forget": forget},
        compute_metrics=accuracy,
        callbacks=[recorder],
        optimizers=(optimizer, None),
    )
    trainer.train()
    assert {"eval_retain_accuracy", "eval_forget_accuracy", "trim_threshold", "trimmed_weights"} <= set(recorder.events)
    assert trainer.state.best_model_checkpoint is not None
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) <= 2
    projected = [row for row in trainer.state.log_history if "projected_share" in row]
    assert len(projected) == 8  # steps 0, 2, … of 15: every second one


def test_torch_compile(config) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    args = config(torch_compile=True, torch_compile_backend="aot_eager")
    trainer = ScissorhandsTrainer(model=model, args=args, train_dataset=retain, forget_dataset=forget)
    trainer.train()
    assert trainer.trim_report["trimmed"] > 0
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_plain_lists_tuple_outputs_and_iterable_test_sets(config) -> None:
    class TupleCNN(tiny_models.TinyCNN):
        def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
            output = super().forward(pixel_values, labels)
            return (output["loss"], output["logits"]) if labels is not None else (output["logits"],)

    torch.manual_seed(0)
    batch = tiny_models.tiny_cnn()[1]
    retain = [{key: value for key, value in row.items() if key != "id"} for row in examples(batch, 12, 1)]
    forget = [{**row, "unused": "text"} for row in retain[:3]]
    test: Dataset = examples(batch, 6, 3).remove_columns("id").to_iterable_dataset()
    args = config(reinit_target_modules="head", memory_batches=2)
    trainer = ScissorhandsTrainer(
        model=TupleCNN(),
        args=args,
        train_dataset=retain[3:],
        forget_dataset=forget,
        eval_dataset=test,
        compute_metrics=accuracy,
    )
    trainer.train()
    assert trainer.forget_loss_ceiling == pytest.approx(2 * math.log(tiny_models.CLASSES))
    assert "eval_accuracy" in trainer.evaluate()


def test_custom_loss_and_model_init(config) -> None:
    batch = tiny_models.tiny_vit()[1]

    def smooth(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs["logits"], labels, label_smoothing=0.1)

    trainer = ScissorhandsTrainer(
        model_init=lambda: tiny_models.tiny_vit()[0],
        args=config(trainable_target_modules=["*.layers.1.*", "classifier"]),
        train_dataset=examples(batch, 12, 1),
        forget_dataset=examples(batch, 4, 2),
        compute_loss_func=smooth,
    )
    trainer.train()
    first = snapshot(trainer.model)
    assert not trainer.model.vit.embeddings.cls_token.requires_grad
    trainer.train()
    assert all(torch.equal(tensor, first[name]) for name, tensor in trainer.model.state_dict().items())


def test_the_report_of_a_run(config, tmp_path) -> None:
    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
    trainer = ScissorhandsTrainer(model=model, args=config(recipe="svhn-class"), train_dataset=retain, forget_dataset=forget)
    trainer.train()
    report = UnlearningReport.load(tmp_path / "out")
    assert report.settings["recipe"] == "svhn-class"
    assert report.settings["trim_ratio"] == 0.1
    assert report.settings["learning_rate"] == 1e-3  # explicit: wins over the recipe
    assert report.trim == trainer.trim_report
    assert [row["step"] for row in report.history] == list(range(1, 1 + trainer.state.global_step))
    assert {"sensitivity", "trim", "memory", "train"} <= report.seconds.keys()
    assert report.plot(tmp_path / "report.png").stat().st_size > 10_000
    assert np.isfinite([row["retain_loss"] for row in report.history]).all()


def test_what_evaluate_measures_is_in_the_report(config) -> None:
    """Before training of the original, after it of the unlearned model; what is measured in mid-run is neither."""
    model, retain, forget = retain_and_forget(tiny_models.tiny_vit)
    trainer = ScissorhandsTrainer(
        model=model,
        args=config(eval_strategy="epoch", num_train_epochs=2, learning_rate=1e-2),
        train_dataset=retain,
        forget_dataset=forget,
        eval_dataset={"forget": forget, "retain": retain},
    )
    before = trainer.evaluate()
    trainer.train()
    assert trainer.report().metrics.keys() == {"original"}
    after = trainer.evaluate()
    report = trainer.report()
    assert report.metrics == {
        "original": {"forget loss": before["eval_forget_loss"], "retain loss": before["eval_retain_loss"]},
        "unlearned": {"forget loss": after["eval_forget_loss"], "retain loss": after["eval_retain_loss"]},
    }
    assert report.sets == {"forget": 6, "retain": 20, "eval:forget": 6, "eval:retain": 20}
    trainer.train()
    assert trainer.report().metrics == {"original": report.metrics["unlearned"]}


def test_an_earlier_saves_weights_do_not_stay_beside_the_new(config, tmp_path) -> None:
    """save_pretrained leaves the file of before beside new shards, and from_pretrained reads that one."""
    model, retain, forget = retain_and_forget(tiny_models.tiny_resnet)
    model.save_pretrained(tmp_path / "out", max_shard_size="10KB")
    trainer = ScissorhandsTrainer(model=model, args=config(), train_dataset=retain, forget_dataset=forget)
    trainer.train()
    trainer.save_model()
    weights = [path.name for path in (tmp_path / "out").iterdir() if "model" in path.name]
    assert weights == ["model.safetensors"]
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert all(torch.equal(tensor, reloaded.state_dict()[name]) for name, tensor in model.state_dict().items())
