"""Repair by a low-rank adapter: what is trained, what comes out, and what is refused."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from tiny_pipelines import quiet, tiny_flux, tiny_stable_diffusion
from torch import nn

from scissorhands_hf import erase_concept
from scissorhands_hf.erasure import adapter
from scissorhands_hf.erasure.adapter import LaidAdapter
from scissorhands_hf.erasure.erasure_trainer import ConceptErasureTrainer


QUICK = {
    "anchor": "coat", "max_steps": 2, "evaluations": 1, "pictures_per_concept": 2, "retain_pictures": 2, "report_images": 0,
    "per_device_train_batch_size": 2, "evaluation_examples": 2, "disable_tqdm": True, "concept_type": "object",
    "learning_rate": 1e-2, "sampling": {"num_inference_steps": 1, "height": 32, "width": 32},
}  # fmt: skip


def denoiser_of(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


CASES = {
    "sd": (tiny_stable_diffusion, torch.float32, 4, ("attn1.to_q", "attn2.to_out.0")),
    "flux-bf16": (
        tiny_flux, torch.bfloat16, LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "add_k_proj"]), ("to_q", "add_k_proj")
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "dtype", "given", "merged"), CASES.values(), ids=list(CASES))
def test_only_the_adapter_is_trained_and_plain_weights_come_out(make, dtype, given, merged, tmp_path, monkeypatch):
    trained, files = [], []
    step, save = ConceptErasureTrainer.training_step, safetensors.torch.save_file

    def watched(self, model, *args, **kwargs):
        trained.append({(name, weight.dtype) for name, weight in model.named_parameters() if weight.requires_grad})
        return step(self, model, *args, **kwargs)

    monkeypatch.setattr(ConceptErasureTrainer, "training_step", watched)
    monkeypatch.setattr(
        safetensors.torch,
        "save_file",
        lambda tensors, path, **more: files.append((Path(path).name, set(tensors))) or save(tensors, path, **more),
    )
    pipe = make().to(dtype)
    denoiser = denoiser_of(pipe)
    before, kinds = state(denoiser), [(name, type(module)) for name, module in denoiser.named_modules()]
    wanted = {name: weight.requires_grad for name, weight in denoiser.named_parameters()}
    report = erase_concept(pipe, "dress", repair_adapter=given, **QUICK)
    after = state(denoiser)
    assert all(".lora_" in name and kind == torch.float32 for name, kind in trained[0])
    assert [(name, type(module)) for name, module in denoiser.named_modules()] == kinds
    assert {name: weight.requires_grad for name, weight in denoiser.named_parameters()} == wanted
    assert not hasattr(denoiser, "peft_config") and {value.dtype for value in after.values()} == {dtype}
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert all(any(f"{part}.weight" in name for name in changed) for part in merged)
    # The original on disk is of what changes, checkpoints are of the adapter alone.
    (original, kept), (checkpoint, saved) = files
    assert (original, checkpoint) == ("original.safetensors", "trained.safetensors") and kept >= changed
    assert saved == {name for name, _ in trained[0]}
    assert json.loads(json.dumps(report.settings))["repair_adapter"] == (
        given if isinstance(given, int) else {"r": 2, "lora_alpha": 4, "target_modules": ["add_k_proj", "to_q"]}
    )
    pipe.save_pretrained(tmp_path)
    assert equal(state(denoiser_of(quiet(DiffusionPipeline.from_pretrained(tmp_path, torch_dtype=dtype)))), after)


def test_what_is_trimmed_below_stays_trimmed_and_the_edit_stays_in_the_base(monkeypatch):
    """The adapter is over other layers, so that what was done to the base can be read from the result."""
    pipe = tiny_stable_diffusion()
    below = {}
    renamed = ConceptErasureTrainer.trim

    def watched(self):
        report = renamed(self)
        below.update({name.replace(".base_layer", ""): value.clone() for name, value in self.model.named_parameters()})
        return report

    monkeypatch.setattr(ConceptErasureTrainer, "trim", watched)
    original = state(pipe.unet)
    given = {"repair_adapter": LoraConfig(r=2, target_modules=["attn2.to_q"]), "trim_ratio": 0.05, "projection": True}
    report = erase_concept(pipe, "dress", **given, **QUICK)
    after = state(pipe.unet)
    changed = {name for name in after if not torch.equal(after[name], original[name])}
    over = {name for name in after if "attn2.to_q.weight" in name}
    edited, trimmed = {f"{name}.weight" for name in report.edit["per_layer"]}, set(report.trim["per_module"])
    assert report.trim["trimmed"] > 0 and trimmed and not any("base_layer" in name for name in trimmed)
    assert changed - over and changed <= over | edited | {name for name in after if name.rpartition(".")[0] in trimmed}
    assert all(torch.equal(after[name], below[name]) for name in after if name not in over)


def test_a_rank_lies_over_convolutions_that_are_named():
    pipe = tiny_stable_diffusion().to(torch.bfloat16)
    before = state(pipe.unet)
    patterns = ["mid_block.*", "conv_in.*"]
    report = erase_concept(pipe, "dress", repair_adapter=2, trainable_target_modules=patterns, **QUICK)
    after = state(pipe.unet)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    edited = {f"{name}.weight" for name in report.edit["per_layer"]}
    assert {"conv_in.weight", "mid_block.resnets.0.conv1.weight", "mid_block.attentions.0.proj_in.weight"} <= changed
    assert all(name in edited or name.startswith(("mid_block.", "conv_in.")) for name in changed)
    # Norms are no layers that an adapter lies over.
    assert not any("norm" in name or name.endswith("bias") for name in changed)


@pytest.mark.parametrize("moment", ["repair", "merge", "report"])
def test_a_failed_run_leaves_no_adapter(moment, monkeypatch):
    pipe = tiny_stable_diffusion()
    before, kinds = state(pipe.unet), [type(module) for module in pipe.unet.modules()]

    def stop(progress):
        if progress.stage == moment and progress.step:
            raise InterruptedError

    if moment == "merge":
        # A merge that forgets the adapter.
        monkeypatch.setattr(LaidAdapter, "_predict", lambda self, *args, real=LaidAdapter._predict: [
            value * (1 if self._wrapper is not None else 1.01) for value in real(self, *args)
        ])  # fmt: skip
    with pytest.raises(
        (InterruptedError, RuntimeError), match="does not merge: predictions are 1 %" if moment == "merge" else ""
    ):
        erase_concept(pipe, "dress", repair_adapter=2, callback=stop, **{**QUICK, "report_images": 2 * (moment == "report")})
    assert equal(state(pipe.unet), before) and [type(module) for module in pipe.unet.modules()] == kinds
    assert not hasattr(pipe.unet, "peft_config")


def test_the_estimate_counts_the_adapter_and_not_what_is_below():
    pipe = tiny_stable_diffusion()
    plain = erase_concept(pipe, "dress", dry_run=True, **QUICK)
    found = erase_concept(pipe, "dress", dry_run=True, repair_adapter=4, **QUICK)
    layers = [module for name, module in pipe.unet.named_modules() if name.endswith(("to_q", "to_k", "to_v", "to_out.0"))]
    assert found.trained == sum(4 * (layer.in_features + layer.out_features) for layer in layers)
    assert found.optimizer == 8 * found.trained < plain.optimizer / 2 and found.disk < plain.disk / 2


@pytest.mark.parametrize(
    ("given", "kind", "match"),
    [
        (0, ValueError, "repair_adapter=0 must be a rank >= 1"),
        ("eight", TypeError, "repair_adapter='eight' must be a rank or a peft.LoraConfig"),
        (LoraConfig(target_modules=["nowhere"]), ValueError, "repair_adapter does not fit the UNet2DConditionModel.*nowhere"),
        (LoraConfig(target_modules=["to_q"], bias="all"), ValueError, "repair_adapter has bias='all'"),
        (LoraConfig(target_modules=["to_q"], init_lora_weights="pissa"), ValueError, "init_lora_weights='pissa'"),
    ],
    ids=["zero", "text", "nowhere", "bias", "pissa"],
)
def test_adapters_that_cannot_be_merged_are_refused_at_the_call(given, kind, match):
    with pytest.raises(kind, match=match):
        erase_concept(tiny_stable_diffusion(), "dress", repair_adapter=given, **QUICK)


def test_an_adapter_needs_repair_and_peft(monkeypatch):
    pipe = tiny_stable_diffusion()
    with pytest.raises(ValueError, match="repair_adapter=2 needs max_steps > 0"):
        erase_concept(pipe, "dress", repair_adapter=2, **{**QUICK, "max_steps": 0})
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ImportError, match=r"repair_adapter=2 needs PEFT: pip install 'scissorhands_hf\[peft\]'"):
        adapter.repair_adapter(2, None, None)
