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
import threading
import time
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
                "transformer_layers_per_block": [1, 2, 2] if small else [1, 2, 10],
                "attention_head_dim": [4, 6, 12] if small else [5, 10, 20],
                "layers_per_block": 2, "sample_size": 128, "norm_num_groups": 32, "use_linear_projection": True,
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
        parts = {name: type(denoiser).from_config({**denoiser.config, **change}).eval()}
        if not small:
            decoder = {
                "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4,
                "up_block_types": ["UpDecoderBlock2D"] * 4, "layers_per_block": 2, "norm_num_groups": 32,
            }  # fmt: skip
            parts["vae"] = AutoencoderKL.from_config({**pipe.vae.config, **decoder}).eval()
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


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| geometry | dtype | weights, M | trained, M | peak, GB | × own bytes | estimated, GB | seconds |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|---:|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['dtype']} | {row['weights'] / 1e6:.0f} | {row['trained'] / 1e6:.0f} | {row['peak'] / 1e9:.1f} | "
            f"{row['multiple_of_own_bytes']:.2f} | {row['estimated'] / 1e9:.1f} | {sum(row['seconds'].values()):.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("geometry", nargs="*", choices=[*RUNS, []], help="default: all that are not small")
    parser.add_argument("--output", type=Path, default=Path("out/large"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if len(args.geometry) == 1:
        row = measure(args.geometry[0])
        (args.output / f"{args.geometry[0]}.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
        print(json.dumps(row))
        return
    names = args.geometry or [name for name in RUNS if not name.startswith("small")]
    for name in names:
        if not (args.output / f"{name}.json").is_file():
            subprocess.run([sys.executable, __file__, name, "--output", str(args.output)], check=True)
    print(table({name: json.loads((args.output / f"{name}.json").read_text(encoding="utf-8")) for name in names}))


if __name__ == "__main__":
    main()
