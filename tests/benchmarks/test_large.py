"""`benchmarks/large.py` on tiny models: what it records, and the pipeline that it saves. On a GPU it was run by hand."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture
def large(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    module = importlib.import_module("large")
    monkeypatch.setattr(module, "warm_up", lambda: None)
    monkeypatch.setitem(importlib.import_module("large_runs").SMALL, "tiny", ("tiny_stable_diffusion", 32, {}))
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
    run = importlib.import_module("large_runs").Run
    monkeypatch.setitem(large.RUNS, "small-tiny", run("tiny", torch.bfloat16, 32, settings, offloaded))
    row = large.measure("small-tiny", "cpu", None, True, tmp_path / "lock")
    stages = ["make", "checks", "pictures", "prompts", "targets", "sensitivity", "repair", "save"]
    assert list(row["seconds"]) == stages and set(row["peaks"]) <= {*stages}
    assert row["loaded"] == {
        "class": "StableDiffusionPipeline", "dtype": "bfloat16", "same_weights": True, "picture": [32, 32, 3], "finite": True
    }  # fmt: skip
    assert row["pixels"] == 32 and row["offloaded"] == offloaded and row["trained"] < row["weights"]
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    assert row["estimated"] == row["estimate"]["peak"] and row["device"].endswith("threads")
    told = large.table({"small-tiny": row})
    assert "| small-tiny | 32 | 0 | 0 |" in told and "held" not in told


def test_a_language_model_goes_through_all_stages(large, monkeypatch):
    model = importlib.import_module("large_language").LanguageModel
    monkeypatch.setitem(large.LANGUAGE, "tiny", model(2, 16, 16, 2, 1, 64, 1))
    row = large.measure_language("tiny", "cpu", None)
    assert list(row["seconds"]) == ["make", "train", "sensitivity", "repair"] and row["tokens"] == 32
    assert 0 < row["trained"] < row["weights"]


def test_published_geometry_can_be_scaled(large):
    import cards
    from large_runs import HALF_SD3, QUARTER_FLUX

    pipe = cards.pipeline("Flux.1 dev", **QUARTER_FLUX)
    config = pipe.transformer.config
    assert (config.num_layers, config.num_single_layers, config.num_attention_heads) == (19, 38, 6)
    assert pipe.text_encoder_2.config.d_model == config.joint_attention_dim == 1024
    assert {weight.device.type for weight in pipe.transformer.parameters()} == {"meta"}
    assert pipe.transformer.dtype == pipe.vae.dtype == torch.bfloat16
    config = cards.pipeline("Stable Diffusion 3 medium", **HALF_SD3).transformer.config
    assert (config.num_layers, config.num_attention_heads * config.attention_head_dim) == (24, config.caption_projection_dim)


def test_the_command_passes_its_arguments_on(large, monkeypatch, tmp_path, capsys):
    """And makes the table of what was run."""
    row = {"dtype": "bfloat16", "pixels": 64, "weights": 1, "trained": 1, "peak": 1, "multiple_of_own_bytes": 1.0}
    row |= {"estimated": 2e9, "seconds": {"repair": 3.0}, "processor": 2.0, "reserved": {"repair": 1e9}}
    given = []
    monkeypatch.setattr(large, "measure", lambda *args: given.append(args) or row)
    command = ["large.py", "sdxl-bf16", "--output", str(tmp_path), "--device", "cuda", "--pixels", "64", "--save"]
    monkeypatch.setattr(sys, "argv", [*command, "--settings", '{"max_steps": 1}', "--lock", "there"])
    large.main()
    assert given == [("sdxl-bf16", "cuda", 64, True, Path("there"), {"max_steps": 1})]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["large.py", "--table", "--output", str(tmp_path)])
    large.main()
    assert capsys.readouterr().out.endswith("| sdxl-bf16 | 64 | 0 | 0 | 2.0 | 0.0 | 1.00 | 1.0 | 2 | 3 |  |  |  |  | 3 |\n")


def test_without_a_name_each_kind_of_geometry_is_run_and_what_is_there_is_not_run_again(large, monkeypatch, tmp_path, capsys):
    import cards

    kinds = {cards.MODELS[large.RUNS[name].geometry][0] for name in large.DEFAULT if name in large.RUNS}
    assert kinds == {"tiny_stable_diffusion", "tiny_sdxl", "tiny_sd3", "tiny_flux"}
    assert any(name in large.LANGUAGE for name in large.DEFAULT)
    row = {"pixels": 64, "weights": 1, "trained": 1, "peak": 1, "multiple_of_own_bytes": 1.0, "estimated": None}
    row |= {"seconds": {"repair": 3.0}, "processor": 2.0}
    (tmp_path / f"{large.DEFAULT[0]}.json").write_text(json.dumps(row))
    started = []

    def child(command, **_):
        """The second is killed, as for want of memory."""
        started.append(command[2])
        if len(started) != 2:
            (tmp_path / f"{command[2]}.json").write_text(json.dumps(row))
        return subprocess.CompletedProcess(command, -9 if len(started) == 2 else 0)

    monkeypatch.setattr(large.subprocess, "run", child)
    monkeypatch.setattr(sys, "argv", ["large.py", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match=f"not measured: {large.DEFAULT[2]}"):
        large.main()
    assert started == list(large.DEFAULT[1:])
    assert capsys.readouterr().out.count("| 64 |") == len(large.DEFAULT) - 1
    started.clear()
    started.extend(["", ""])  # nothing is killed any more
    large.main()
    assert started[2:] == [large.DEFAULT[2]] and capsys.readouterr().out.count("| 64 |") == len(large.DEFAULT)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize("allocator", ["mapped", "glibc"])
def test_mapped_blocks_are_given_back_between_others_that_stay(allocator):
    """Blocks of 4 MB, every other one of which is freed when a larger one was freed before."""
    code = (
        "import sys; sys.path.insert(0, 'benchmarks')\n"
        "import torch\n"
        "from memory_watch import anonymous, map_large_blocks\n"
        f"{'map_large_blocks()' if allocator == 'mapped' else ''}\n"
        "del_ = torch.ones(6_000_000); del del_\n"
        "before = anonymous()\n"
        "blocks = [torch.ones(1_000_000) for _ in range(40)]\n"
        "del blocks[::2]\n"
        "print((anonymous() - before) / 80e6)\n"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    share = float(found.stdout)
    assert share == pytest.approx(1, abs=0.1) if allocator == "mapped" else share > 1.8
