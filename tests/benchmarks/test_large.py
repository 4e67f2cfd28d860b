"""`benchmarks/large.py` on tiny models: what it records, and the pipeline that it saves. On a GPU it was run by hand."""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    module = importlib.import_module("large")
    monkeypatch.setattr(module, "warm_up", lambda: None)
    monkeypatch.setitem(module.SMALL, "tiny", ("tiny_stable_diffusion", 32, {}))
    tiny_pipelines = importlib.import_module("tiny_pipelines")
    for name in ("WIDTH", "CLIP_TOKENS"):
        monkeypatch.setattr(tiny_pipelines, name, getattr(tiny_pipelines, name))
    monkeypatch.setattr("scissorhands_hf.erasure.settings.LARGE_DENOISER", 50_000_000)
    return module


@pytest.mark.parametrize("offloaded", [None, "parts", "leaves"])
def test_a_run_records_each_stage_and_stock_diffusers_loads_what_it_saved(large, monkeypatch, offloaded, tmp_path):
    settings = {"max_steps": 1, "trainable_target_modules": ["*.attn2.to_k*", "*.attn2.to_v*"]}
    if offloaded == "leaves":
        settings["repair_adapter"] = 2
    monkeypatch.setitem(large.RUNS, "small-tiny", large.Run("tiny", torch.bfloat16, 32, settings, offloaded))
    row = large.measure("small-tiny", "cpu", None, True, tmp_path / "lock")
    stages = ["make", "checks", "pictures", "prompts", "targets", "sensitivity", "repair", "save"]
    assert list(row["seconds"]) == stages and set(row["peaks"]) <= {*stages}
    assert row["loaded"] == {
        "class": "StableDiffusionPipeline", "dtype": "bfloat16", "same_weights": True, "picture": [32, 32, 3], "finite": True
    }  # fmt: skip
    assert row["pixels"] == 32 and row["offloaded"] == offloaded and row["trained"] < row["weights"]
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    assert row["estimated"] == row["estimate"]["peak"] and row["device"].endswith("threads")
    assert "| small-tiny | 32 | 0 | 0 |" in large.table({"small-tiny": row})


def test_a_language_model_goes_through_all_stages(large, monkeypatch):
    monkeypatch.setitem(large.LANGUAGE, "tiny", large.LanguageModel(2, 16, 16, 2, 1, 64, 1))
    row = large.measure_language("tiny", "cpu", None)
    assert list(row["seconds"]) == ["make", "train", "sensitivity", "repair"] and row["tokens"] == 32
    assert 0 < row["trained"] < row["weights"]


def test_published_geometry_can_be_scaled(large):
    import cards

    pipe = cards.pipeline("Flux.1 dev", **large.QUARTER_FLUX)
    config = pipe.transformer.config
    assert (config.num_layers, config.num_single_layers, config.num_attention_heads) == (19, 38, 6)
    assert pipe.text_encoder_2.config.d_model == config.joint_attention_dim == 1024
    assert {weight.device.type for weight in pipe.transformer.parameters()} == {"meta"}
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.bfloat16


def test_the_command_passes_its_arguments_on(large, monkeypatch, tmp_path, capsys):
    """And makes the table of what was run."""
    row = {"dtype": "bfloat16", "pixels": 64, "weights": 1, "trained": 1, "peak": 1, "multiple_of_own_bytes": 1.0}
    row |= {"estimated": 2e9, "seconds": {"repair": 3.0}, "reserved": {"repair": 1e9}}
    given = []
    monkeypatch.setattr(large, "measure", lambda *args: given.append(args) or row)
    command = ["large.py", "sdxl-bf16", "--output", str(tmp_path), "--device", "cuda", "--pixels", "64", "--save"]
    monkeypatch.setattr(sys, "argv", [*command, "--settings", '{"max_steps": 1}', "--lock", "there"])
    large.main()
    assert given == [("sdxl-bf16", "cuda", 64, True, Path("there"), {"max_steps": 1})]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["large.py", "--table", "--output", str(tmp_path)])
    large.main()
    assert capsys.readouterr().out.endswith("| sdxl-bf16 | 64 | 0 | 0 | 0.0 | 1.00 | 1.0 | 2.0 | 3 |  |  |  |  | 3 |\n")
