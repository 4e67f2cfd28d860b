"""What a run will need, said beforehand: against counting by hand and, in small real geometries, against what it took."""

import json
import logging
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from tiny_pipelines import tiny_flux, tiny_pixart, tiny_sd3, tiny_sdxl, tiny_stable_diffusion
from torch import nn

from scissorhands_hf import erase_concept
from scissorhands_hf.erasure import ErasureEstimate, estimate
from scissorhands_hf.erasure.live_memory import AsOnDevice, LiveMemory


FAMILIES = {"sd": tiny_stable_diffusion, "sdxl": tiny_sdxl, "sd3": tiny_sd3, "flux": tiny_flux, "pixart": tiny_pixart}
QUICK = {
    "anchor": "coat", "max_steps": 2, "evaluations": 1, "pictures_per_concept": 2, "retain_pictures": 3, "report_images": 0,
    "per_device_train_batch_size": 2, "evaluation_examples": 4, "disable_tqdm": True, "concept_type": "object",
    "sampling": {"num_inference_steps": 1, "height": 32, "width": 32},
}  # fmt: skip
TEXT_LAYERS = ["*.attn2.to_k*", "*.attn2.to_v*"]


def denoiser_of(pipe):
    return pipe.unet if hasattr(pipe, "unet") else pipe.transformer


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_a_dry_run_says_what_it_would_need_and_changes_nothing(make):
    pipe = make()
    denoiser = denoiser_of(pipe)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    found = erase_concept(pipe, "dress", dry_run=True, **QUICK)
    assert isinstance(found, ErasureEstimate)
    weights = sum(value.numel() for value in denoiser.parameters())
    assert found.trained == weights and found.gradients == 4 * weights and found.optimizer == 8 * weights
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    tensors = [value for part in parts for value in (*part.parameters(), *part.buffers())]
    assert found.weights == sum(value.numel() * value.element_size() for value in tensors)
    assert found.activations > 0 and found.drawn == 5 and found.steps == 2 and found.pixels == (32, 32)
    assert found.peak >= found.weights + found.optimizer + found.activations
    assert json.loads(json.dumps(found.to_dict()))["peak"] == found.peak
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())
    assert not hasattr(pipe, "erasure_reports")


def test_each_setting_that_saves_memory_is_in_the_estimate():
    def needed(dtype=torch.float32, **given):
        return erase_concept(tiny_stable_diffusion().to(dtype), "dress", dry_run=True, **{**QUICK, **given})

    plain, few = needed(), needed(trainable_target_modules=TEXT_LAYERS)
    assert few.trained < plain.trained / 5 and few.gradients == 4 * few.trained and few.disk < plain.disk / 5
    assert few.activations < plain.activations
    assert needed(gradient_checkpointing=True).activations < plain.activations / 2
    assert needed(per_device_train_batch_size=1).activations == pytest.approx(plain.activations / 2, rel=0.05)
    assert needed(optim="adafactor").optimizer == 0
    half = needed(torch.bfloat16, trainable_target_modules=TEXT_LAYERS)
    assert half.weights == pytest.approx(few.weights / 2, rel=0.01) and half.masters == 4 * half.trained
    assert needed(bf16=True).activations < 0.75 * plain.activations
    alone = needed(max_steps=0)
    assert alone.trained == alone.activations == alone.masters == alone.optimizer == 0 and alone.steps == 0


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_alive_is_counted_until_it_is_gone(device):
    layers = nn.Sequential(*[nn.Linear(8, 8, device=device) for _ in range(4)])
    inputs = torch.empty(5, 8, device=device)
    row, weight = 5 * 8 * 4, 8 * 8 * 4 + 8 * 4
    with torch.no_grad(), LiveMemory() as live:
        layers(inputs.view(5, 8))
    assert live.most == 2 * row and live.now == 0
    with LiveMemory() as live:
        result = layers(inputs)
        assert live.now == 4 * row  # each layer's input is kept for its weight's gradient
        result.square().sum().backward()
        del result
    assert live.now == 4 * weight <= live.most


@pytest.mark.parametrize(
    ("offloaded", "others"), [("parts", 0), ("leaves", 0), (None, 1)], ids=["whole parts", "leaves", "not offloaded"]
)
def test_on_an_accelerator_the_other_parts_count_while_pictures_are_drawn(offloaded, others, monkeypatch):
    """Counting needs none."""
    pipe = tiny_stable_diffusion().to(torch.bfloat16)
    if offloaded == "parts":
        pipe.enable_model_cpu_offload(device="cpu")
    elif offloaded == "leaves":
        where = {"onload_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
        pipe.enable_group_offload(**where, offload_type="leaf_level")
    on_cpu = erase_concept(pipe, "dress", dry_run=True, repair_adapter=2, **QUICK)
    monkeypatch.setattr(estimate, "_kind", lambda device: "cuda")
    found = erase_concept(pipe, "dress", dry_run=True, repair_adapter=2, **QUICK)
    beside = sum(value.nbytes for part in (pipe.vae, pipe.text_encoder) for value in (*part.parameters(), *part.buffers()))
    own = sum(value.nbytes for value in (*pipe.unet.parameters(), *pipe.unet.buffers()))
    assert (
        found.masters == on_cpu.masters / 2 > 0
        and on_cpu.others == 0
        and on_cpu.weights == own + beside
        and found.others == others * beside
    )
    assert found.weights < own / 10 if offloaded == "leaves" else found.weights == own


def test_attention_takes_no_room_for_all_pairs():
    query, key, value = (torch.empty(2, 4, length, 8, device="meta", requires_grad=True) for length in (160, 90, 90))
    with AsOnDevice(), LiveMemory() as live:
        result = nn.functional.scaled_dot_product_attention(query, key, value)
    assert result.shape == query.shape and live.most == query.nbytes
    result.sum().backward()
    assert query.grad.shape == query.shape and value.grad.shape == value.shape


def test_too_little_memory_or_disk_is_refused_before_anything_is_drawn_and_told_by_a_dry_run(monkeypatch, caplog):
    pipe = tiny_stable_diffusion()
    monkeypatch.setattr(pipe.vae, "forward", lambda *args: pytest.fail("a picture was decoded"))
    monkeypatch.setattr(estimate, "_memory", lambda device: 1000)
    with pytest.raises(MemoryError, match=r"(?s)About .* of memory .*There are 0.0 MB.*gradient_checkpointing=True"):
        erase_concept(pipe, "dress", **QUICK)
    caplog.set_level(logging.INFO)
    assert isinstance(erase_concept(pipe, "dress", dry_run=True, **QUICK), ErasureEstimate)
    assert any("of memory (cpu) at 32 × 32 pixels" in record.getMessage() for record in caplog.records)
    monkeypatch.undo()
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 0, 10))
    with pytest.raises(OSError, match="on disk, and 0.0 MB are free. Set TMPDIR"):
        erase_concept(pipe, "dress", **QUICK)


def test_the_command_says_it_without_an_output_folder(tmp_path, capsys, monkeypatch):
    from scissorhands_hf.cli.main import main

    tiny_stable_diffusion().save_pretrained(tmp_path / "model")
    given = [str(tmp_path / "model"), "dress", "--concept_type", "object", "--report_images", "0"]
    assert main(["erase", *given, "--dry-run"]) in (0, None)
    told = capsys.readouterr().out
    assert "of memory (cpu) at 32 × 32 pixels" in told and "256 pictures to draw, 330 steps" in told
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "large.py"


@pytest.mark.slow
def test_the_estimate_is_within_15_percent_of_what_a_run_takes(tmp_path):
    """It was within 8 % on four geometries when it was last measured. Of smaller pipelines the process's own hundred megabytes,
    which are in it as a constant, are more than that."""
    command = [sys.executable, str(BENCHMARK), "small-sd", "--output", str(tmp_path), "--allocator", "glibc"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert result.returncode == 0, result.stderr[-2000:]
    row = json.loads((tmp_path / "small-sd.json").read_text())
    assert row["estimated"] == pytest.approx(row["peak"], rel=0.15), row
