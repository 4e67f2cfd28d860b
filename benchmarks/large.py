"""Peak memory of `erase_concept` by stage, on pipelines of real geometry with random weights, and beside it the estimate.

    python benchmarks/large.py GEOMETRY --output out/large        one run, in a process of its own, into GEOMETRY.json
    python benchmarks/large.py --output out/large                 the geometries without a file, and the table of all

Counted is anonymous memory (what files in memory would be read again from is left out) beyond what the process had before the
pipeline was made. Weights are random, pictures small: what is measured is memory, not forgetting.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "erasure"))

# Geometry, dtype, side of pictures, settings. The small ones are for the test of the estimate.
SHORT = {
    "max_steps": 2, "evaluations": 1, "pictures_per_concept": 2, "retain_pictures": 2, "evaluation_examples": 2,
    "report_images": 0, "anchor": "coat", "concept_type": "object", "disable_tqdm": True,
}  # fmt: skip
WHOLE = {"trainable_target_modules": ["re:."], "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
RUNS: dict[str, tuple[str, torch.dtype, int, dict[str, Any]]] = {
    "small-sd": ("sd-small", torch.float32, 32, WHOLE),
    "small-sd-bf16": ("sd-small", torch.bfloat16, 32, {}),
    "small-sdxl": ("sdxl-small", torch.float32, 32, WHOLE),
    "small-sd3": ("sd3-small", torch.float32, 32, WHOLE),
    "sd15": ("sd", torch.float32, 128, {}),
    "sd15-bf16": ("sd", torch.bfloat16, 128, {}),
    "sd15-edit-alone": ("sd", torch.bfloat16, 128, {"max_steps": 0}),
    "sdxl-bf16": ("sdxl", torch.bfloat16, 256, {}),
}


# Language models in bfloat16: layers, width, inner width, heads, heads of keys and values, words, and how many of the last
# layers are trained, in float32.
LANGUAGE = {
    "llama-110m": (12, 768, 2048, 12, 4, 32000, 3),
    "llama-1b": (22, 2048, 5632, 32, 4, 32000, 6),
}


def anonymous() -> int:
    """Bytes of this process that belong to no file."""
    row = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssAnon"))
    return 1024 * int(row.split()[1])


class Watch:
    """The largest `anonymous` of each stage, looked up all the time in a thread of its own."""

    def __init__(self) -> None:
        self.stage, self.peaks, self.seconds = "load", {}, {}
        self._began, self._over = time.perf_counter(), False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over:
            self.peaks[self.stage] = max(self.peaks.get(self.stage, 0), anonymous())
            time.sleep(0.02)

    def __call__(self, stage: str) -> None:
        if stage != self.stage:
            now = time.perf_counter()
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self._began
            self._began, self.stage = now, stage

    def end(self) -> None:
        self("end")
        self._over = True
        self._thread.join()


def pipeline(geometry: str, dtype: torch.dtype) -> Any:
    """Random weights in the geometry of a known model. Text encoders have its width and number of tokens, and two layers."""
    import tiny_pipelines as tiny
    from cards import plain
    from diffusers import AutoencoderKL

    model, _, size = geometry.partition("-")
    small = size == "small"
    tiny.WIDTH, tiny.CLIP_TOKENS = {"sd": 768, "sdxl": 1024, "sd3": 256}[model], 77
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # so that no float32 copy is ever made
    try:
        pipe = {"sd": tiny.tiny_stable_diffusion, "sdxl": tiny.tiny_sdxl, "sd3": tiny.tiny_sd3}[model]()
        if model == "sdxl":
            change = {
                "block_out_channels": [96, 192, 384] if small else [320, 640, 1280],
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                "transformer_layers_per_block": [1, 1, 1] if small else [1, 2, 10],
                "attention_head_dim": [4, 6, 12] if small else [5, 10, 20],
                "layers_per_block": 2, "sample_size": 128, "norm_num_groups": 32, "use_linear_projection": not small,
            }  # fmt: skip
        elif model == "sd3":
            change = {"num_layers": 8, "attention_head_dim": 64, "num_attention_heads": 8, "caption_projection_dim": 512}
        else:
            change = {
                "block_out_channels": [side // (4 if small else 1) for side in (320, 640, 1280, 1280)],
                "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
                "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
                "layers_per_block": 2, "attention_head_dim": 8, "sample_size": 64, "norm_num_groups": 16 if small else 32,
            }  # fmt: skip
        name = "transformer" if model == "sd3" else "unet"
        denoiser = getattr(pipe, name)
        parts = {name: type(denoiser).from_config({**plain(denoiser.config), **change}).eval()}
        if not small:
            decoder = {
                "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
                "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "norm_num_groups": 32,
            }  # fmt: skip
            parts["vae"] = AutoencoderKL.from_config({**plain(pipe.vae.config), **decoder}).eval()
        further = {"requires_safety_checker": False} if model == "sd" else {}
        return tiny.quiet(type(pipe)(**{**pipe.components, **parts}, **further))
    finally:
        torch.set_default_dtype(before)


def warm_up() -> None:
    """Import all that a run imports, and give back what that took."""
    import tiny_pipelines as tiny

    from scissorhands_hf import erase_concept

    erase_concept(tiny.tiny_stable_diffusion(), "dress", **{**SHORT, "sampling": {"num_inference_steps": 1}})
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def measure(name: str) -> dict[str, Any]:
    """Run `RUNS[name]` in this process."""
    from scissorhands_hf import erase_concept

    geometry, dtype, side, settings = RUNS[name]
    if name.startswith("small"):
        import scissorhands_hf.erasure.settings as defaults

        defaults.LARGE_DENOISER = 1_000_000
    sampling = {"num_inference_steps": 1, "height": side, "width": side}
    warm_up()
    base = anonymous()
    watch = Watch()
    pipe = pipeline(geometry, dtype)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    watch("estimate")
    given = {**SHORT, **settings, "sampling": sampling}
    estimate = erase_concept(pipe, "dress", dry_run=True, **given)
    erase_concept(pipe, "dress", callback=lambda progress: watch(progress.stage), **given)
    watch.end()
    peaks = {stage: peak - base for stage, peak in watch.peaks.items()}
    weights = sum(value.numel() for value in denoiser.parameters())
    peak = max(peaks.values())
    return {
        "geometry": geometry, "dtype": str(dtype).removeprefix("torch."), "pixels": side, "settings": settings,
        "weights": weights, "trained": estimate.trained, "peak": peak, "estimated": estimate.peak,
        "multiple_of_own_bytes": peak / (weights * dtype.itemsize), "peaks": peaks, "seconds": watch.seconds,
        "estimate": estimate.to_dict(),
    }  # fmt: skip


def measure_language(name: str) -> dict[str, Any]:
    """All four stages of `ScissorhandsTrainer` on a Llama with random weights: frozen ones stay in bfloat16, those of the last
    layers are float32, and `bf16=True` computes in bfloat16."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, default_data_collator

    from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer
    from scissorhands_hf.trainer.stage_callback import StageCallback

    layers, width, inner, heads, kept, words, last = LANGUAGE[name]

    def trainer(config: LlamaConfig, last: int, folder: str, watch: Callable[[str], None]) -> ScissorhandsTrainer:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)  # so that no float32 copy is ever made
        try:
            model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
        scope = [f"model.layers.{layer}" for layer in range(config.num_hidden_layers - last, config.num_hidden_layers)]
        for pattern in scope:
            model.get_submodule(pattern).float()
        rows = torch.randint(config.vocab_size, (8, 32), generator=torch.Generator().manual_seed(0)).tolist()
        forget, retain = (
            Dataset.from_list([{"input_ids": row, "labels": row} for row in part]) for part in (rows[:4], rows[4:])
        )
        args = ScissorhandsConfig(
            output_dir=folder, bf16=True, use_cpu=True, trainable_target_modules=scope, trim_ratio=0.02, max_steps=2,
            per_device_train_batch_size=1, per_device_forget_batch_size=1, gradient_checkpointing=True, save_strategy="no",
            optim="adamw_torch_fused", saliency_batches=1, report_to="none", disable_tqdm=True, projection=True,
        )  # fmt: skip
        told = StageCallback(lambda stage, *_, **__: watch(stage))
        return ScissorhandsTrainer(model, args, default_data_collator, retain, forget_dataset=forget, callbacks=[told])

    with tempfile.TemporaryDirectory() as folder:
        small = LlamaConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=64,
        )
        trainer(small, 1, folder, lambda stage: None).train()
        gc.collect()
        base, watch = anonymous(), Watch()
        config = LlamaConfig(
            hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kept, vocab_size=words,
        )  # fmt: skip
        run = trainer(config, last, folder, watch)
        run.train()
        watch.end()
    weights = sum(value.numel() for value in run.model.parameters())
    peak = max(watch.peaks.values()) - base
    return {
        "geometry": name, "dtype": "bfloat16", "pixels": None, "weights": weights, "peak": peak, "estimated": None,
        "trained": sum(value.numel() for value in run.model.parameters() if value.requires_grad),
        "multiple_of_own_bytes": peak / (2 * weights), "seconds": watch.seconds,
        "peaks": {stage: value - base for stage, value in watch.peaks.items()},
    }  # fmt: skip


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| geometry | dtype | weights, M | trained, M | peak, GB | × own bytes | estimated, GB | seconds |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['dtype']} | {row['weights'] / 1e6:.0f} | {row['trained'] / 1e6:.0f} | {row['peak'] / 1e9:.1f} | "
            f"{row['multiple_of_own_bytes']:.2f} | {_told(row['estimated'])} | {sum(row['seconds'].values()):.0f} |"
        )
    return "\n".join(lines)


def _told(count: int | None) -> str:
    return "" if count is None else f"{count / 1e9:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("geometry", nargs="*", choices=[*RUNS, *LANGUAGE, []], help="default: all that are not small")
    parser.add_argument("--output", type=Path, default=Path("out/large"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if len(args.geometry) == 1:
        row = (measure_language if args.geometry[0] in LANGUAGE else measure)(args.geometry[0])
        (args.output / f"{args.geometry[0]}.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
        print(json.dumps(row))
        return
    names = args.geometry or [name for name in (*RUNS, *LANGUAGE) if not name.startswith("small")]
    for name in names:
        if not (args.output / f"{name}.json").is_file():
            subprocess.run([sys.executable, __file__, name, "--output", str(args.output)], check=True)
    print(table({name: json.loads((args.output / f"{name}.json").read_text(encoding="utf-8")) for name in names}))


if __name__ == "__main__":
    main()
