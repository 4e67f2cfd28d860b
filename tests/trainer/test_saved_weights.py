"""What is read from a checkpoint is what was saved, for all architectures, or an error that names what does not fit."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from architectures import ARCHITECTURES, build, collate, rows
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from scissorhands_hf import ScissorhandsTrainer
from scissorhands_hf.trainer.saved_weights import load_saved_weights


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def furthest(own: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of any weight or buffer."""
    assert own.keys() == expected.keys()
    return max((own[name].double() - tensor.double()).abs().max().item() for name, tensor in expected.items())


def save_as_trainer_does(model: nn.Module, folder: Path) -> None:
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


class Watch(TrainerCallback):
    """Keeps the weights that the first step starts from, and those after each step."""

    def __init__(self) -> None:
        self.start: dict[str, Tensor] | None = None
        self.after: dict[int, dict[str, Tensor]] = {}

    def on_step_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.start = self.start or weights_of(model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.after[state.global_step] = weights_of(model)


def run_of(name: str, args: Any, seed: int = 0) -> tuple[ScissorhandsTrainer, Watch]:
    """A run over up to six examples to keep and two to forget, whose evaluations call its second step the best."""
    examples, watch = rows(build(name)[1])[:6], Watch()
    trainer = ScissorhandsTrainer(
        model=build(name, seed)[0],
        args=args,
        train_dataset=examples,
        forget_dataset=rows(build(name, 5)[1])[:2],
        eval_dataset=examples[:1],
        data_collator=collate,
        callbacks=[watch],
    )
    trainer.evaluate = lambda *_, **__: {"eval_loss": abs(trainer.state.global_step - 2)}
    return trainer, watch


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_resumed_run_starts_and_ends_in_the_weights_of_the_whole_run_and_the_best_model_is_the_best_steps(
    name: str, config, tmp_path: Path
) -> None:
    args = {
        "per_device_train_batch_size": 3,
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "learning_rate": 1e-2,
        "forget_loss_ceiling": 20.0,
        "reinit_target_modules": r"re:.*\.weight",
        "divergence_factor": float("inf"),
        "remove_unused_columns": False,
    }
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_loss"}
    whole, watch = run_of(name, config(**args, **best))
    whole.train()
    assert whole.state.global_step == 4
    assert Path(whole.state.best_model_checkpoint).name == "checkpoint-2"
    assert furthest(weights_of(whole.model), watch.after[4]) > 0
    assert furthest(weights_of(whole.model), watch.after[2]) == 0

    resumed, later = run_of(name, config(**args), seed=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert furthest(later.start, watch.after[3]) == 0
    assert furthest(weights_of(resumed.model), watch.after[4]) == 0


@pytest.mark.parametrize("name", ["vit", "qwen3_moe"])
def test_stock_trainer_alone_mixes_the_weights_of_a_checkpoint_with_those_before(name: str, config, tmp_path: Path) -> None:
    """Why the trainer reads checkpoints by itself. When this fails, transformers reads them well and the two can go."""
    saved, other = build(name)[0], build(name, 3)[0]
    saved.save_pretrained(tmp_path / "checkpoint-1")
    args = config()
    Trainer(model=other, args=args)._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    assert furthest(weights_of(other), weights_of(saved)) > 0


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("what", ["removed", "renamed", "reshaped"])
def test_a_checkpoint_that_lacks_a_weight_is_refused_by_its_name(name: str, what: str, tmp_path: Path) -> None:
    model, _ = build(name)
    save_as_trainer_does(model, tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    victim = max(tensors, key=lambda key: (tensors[key].ndim > 1, key))
    tensor = tensors.pop(victim)
    if what == "renamed":
        tensors["no_such_layer.weight"] = tensor
    elif what == "reshaped":
        tensors[victim] = tensor[:-1].clone()
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})

    other = build(name, 3)[0]
    before = weights_of(other)
    with pytest.raises(ValueError, match=victim.replace(".", r"\.")):
        load_saved_weights(other, tmp_path)
    assert furthest(weights_of(other), before) == 0


@pytest.mark.parametrize("name", ["vit", "detr", "tied_qwen3_moe", "t5"])
@pytest.mark.parametrize("form", ["sharded", "bf16", "mixed"])
def test_shards_and_dtypes_are_read_bit_for_bit(name: str, form: str, tmp_path: Path) -> None:
    models = [build(name, seed)[0] for seed in (0, 3)]
    for model in models:
        if form != "sharded":
            model.bfloat16()
        if form == "mixed":
            for module in model.modules():
                if isinstance(module, nn.LayerNorm) or "Norm" in type(module).__name__:
                    module.float()
    saved, other = models
    saved.save_pretrained(tmp_path, max_shard_size="20KB" if form == "sharded" else "5GB")
    assert (tmp_path / "model.safetensors.index.json").is_file() == (form == "sharded")
    load_saved_weights(other, tmp_path)
    own = other.state_dict()
    assert all(torch.equal(own[key], tensor) and own[key].dtype == tensor.dtype for key, tensor in saved.state_dict().items())
    tied = getattr(other, "all_tied_weights_keys", {}).items()
    assert all(own[first].data_ptr() == own[second].data_ptr() for first, second in tied)


def test_a_dtype_that_the_model_cannot_hold_is_refused(tmp_path: Path) -> None:
    build("vit")[0].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"another kind: .*torch\.float32 for torch\.bfloat16"):
        load_saved_weights(build("vit", 3)[0].bfloat16(), tmp_path)


def test_a_missing_shard_and_a_folder_without_weights_are_refused(tmp_path: Path) -> None:
    model, _ = build("vit")
    with pytest.raises(ValueError, match=r"holds neither model\.safetensors nor model\.safetensors\.index\.json"):
        load_saved_weights(model, tmp_path)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ValueError, match=rf"lacks {shard.name}"):
        load_saved_weights(model, tmp_path)


@pytest.mark.parametrize("name", ["vit", "llava", "mixtral"])
def test_a_model_that_was_itself_loaded_by_its_old_names(name: str, tmp_path: Path) -> None:
    """Saved by the names that it was loaded by, which the model remembers."""
    kind = type(build(name)[0])
    build(name)[0].save_pretrained(tmp_path / "hub")
    loaded = kind.from_pretrained(tmp_path / "hub")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(0.25)
    expected = weights_of(loaded)
    loaded.save_pretrained(tmp_path / "checkpoint-1")
    other = kind.from_pretrained(tmp_path / "hub")
    load_saved_weights(other, tmp_path / "checkpoint-1")
    assert furthest(weights_of(other), expected) == 0


def test_weights_in_another_memory_format(tmp_path: Path) -> None:
    saved = build("resnet")[0].to(memory_format=torch.channels_last)
    saved.save_pretrained(tmp_path)
    other = build("resnet", 3)[0].to(memory_format=torch.channels_last)
    load_saved_weights(other, tmp_path)
    assert furthest(weights_of(other), weights_of(saved)) == 0
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in other.parameters() if p.ndim == 4)
