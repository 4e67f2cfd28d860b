"""Memory and seconds of `erase_concept` and `ScissorhandsTrainer` by stage, at real geometry with random weights, and beside
them the estimate.

    python benchmarks/large.py RUN --output out/large [--device cuda]     one run, in a process of its own, into RUN.json
    python benchmarks/large.py --output out/large                         the runs without a file, and the table of all

On a CPU counted is anonymous memory (what files in memory would be read again from is left out) beyond what the process had
before the pipeline was made, and pictures are small. On a GPU pictures are as large as the model's own, counted is what torch's
allocator gave out, and beside it what it held and the CPU's anonymous memory. Weights are random: measured is memory, not
forgetting.
"""

import argparse
import ctypes
import fcntl
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "erasure"))

SHORT = {
    "max_steps": 2, "evaluations": 1, "pictures_per_concept": 2, "retain_pictures": 2, "evaluation_examples": 2,
    "report_images": 0, "anchor": "coat", "concept_type": "object", "disable_tqdm": True,
}  # fmt: skip
WHOLE = {"trainable_target_modules": ["re:."], "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}


@dataclass(frozen=True)
class Run:
    """Of an erasure: the geometry (of `SMALL`, or of `cards.MODELS`), its weights' dtype, the side of pictures on a CPU,
    settings, how it is offloaded ("parts": as a whole, "leaves": layer by layer), what of the denoiser's geometry differs, and
    steps of the sampler."""

    geometry: str
    dtype: torch.dtype
    side: int
    settings: dict[str, Any] = field(default_factory=dict)
    offloaded: str | None = None
    change: dict[str, Any] = field(default_factory=dict)
    sampler_steps: int = 1


SD, XL, SD3, FLUX = "Stable Diffusion 1.5", "Stable Diffusion XL", "Stable Diffusion 3 medium", "Flux.1 dev"
ADAPTER, EDIT_ALONE = {"repair_adapter": 16}, {"max_steps": 0}
HALF = torch.bfloat16
# Flux's number of blocks, and a share of its width: a block is as large a part of it as of the original.
HALF_FLUX = {"num_attention_heads": 12, "joint_attention_dim": 2048}
QUARTER_FLUX = {"num_attention_heads": 6, "joint_attention_dim": 1024}
ONE_STEP = {"max_steps": 1, "gradient_accumulation_steps": 2}
RUNS = {
    # For the test of the estimate.
    "small-sd": Run("sd", torch.float32, 32, WHOLE),
    "small-sd-bf16": Run("sd", HALF, 32),
    "small-sdxl": Run("sdxl", torch.float32, 32, WHOLE),
    "small-sd3": Run("sd3", torch.float32, 32, WHOLE),
    "sd15": Run(SD, torch.float32, 128),
    "sd15-bf16": Run(SD, HALF, 128),
    "sd15-edit-alone": Run(SD, HALF, 128, EDIT_ALONE),
    "sdxl-bf16": Run(XL, HALF, 256),
    "sdxl-bf16-adapter": Run(XL, HALF, 256, ADAPTER),
    "sdxl-bf16-autocast": Run(XL, HALF, 256, {"bf16": True}),
    "sdxl-bf16-offloaded": Run(XL, HALF, 256, offloaded="parts"),
    "sdxl-bf16-adapter-leaves": Run(XL, HALF, 256, ADAPTER, "leaves"),
    "sd3-bf16": Run(SD3, HALF, 256),
    "flux-adapter": Run(FLUX, HALF, 256, ADAPTER | ONE_STEP),
    "flux-edit-alone": Run(FLUX, HALF, 256, EDIT_ALONE),
    "flux-adapter-leaves": Run(FLUX, HALF, 256, ADAPTER | ONE_STEP, "leaves"),
    "half-flux-adapter": Run(FLUX, HALF, 256, ADAPTER | ONE_STEP, change=HALF_FLUX),
    "quarter-flux-adapter": Run(FLUX, HALF, 256, ADAPTER | ONE_STEP, change=QUARTER_FLUX),
}
# A pipeline's form at a share of its width: a tiny pipeline, and what of its denoiser differs.
SMALL: dict[str, tuple[str, int, dict[str, Any]]] = {
    "sd": ("tiny_stable_diffusion", 768, {
        "block_out_channels": [80, 160, 320, 320], "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "layers_per_block": 2, "attention_head_dim": 8,
        "sample_size": 64, "norm_num_groups": 16,
    }),
    "sdxl": ("tiny_sdxl", 1024, {
        "block_out_channels": [96, 192, 384], "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"], "transformer_layers_per_block": [1, 1, 1],
        "attention_head_dim": [4, 6, 12], "layers_per_block": 2, "sample_size": 128, "norm_num_groups": 32,
    }),
    "sd3": ("tiny_sd3", 256, {
        "num_layers": 8, "attention_head_dim": 64, "num_attention_heads": 8, "caption_projection_dim": 512,
    }),
}  # fmt: skip


@dataclass(frozen=True)
class LanguageModel:
    """Geometry, how many of the last layers are trained, in float32, and tokens in a row: on a CPU, and on a GPU."""

    layers: int
    width: int
    inner: int
    heads: int
    kept_heads: int
    words: int
    last: int
    tokens: tuple[int, int] = (32, 512)


LANGUAGE = {
    "llama-110m": LanguageModel(12, 768, 2048, 12, 4, 32000, 3),
    "llama-1b": LanguageModel(22, 2048, 5632, 32, 4, 32000, 6),
    "llama-8b": LanguageModel(32, 4096, 14336, 32, 8, 128256, 2),
}


def anonymous() -> int:
    """Bytes of this process that belong to no file."""
    row = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssAnon"))
    return 1024 * int(row.split()[1])


class Watch:
    """Seconds of each stage, the largest `anonymous` in it, which a thread of its own looks up, and on a GPU the most that
    torch's allocator gave out and held."""

    def __init__(self, device: str) -> None:
        self.stage, self.device = "make", torch.device(device)
        self.anonymous: dict[str, int] = {}
        self.allocated: dict[str, int] = {}
        self.reserved: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self._base, self._began, self._over = anonymous(), time.perf_counter(), False
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over:
            self.anonymous[self.stage] = max(self.anonymous.get(self.stage, 0), anonymous() - self._base)
            time.sleep(0.02)

    def __call__(self, stage: str) -> None:
        if stage == self.stage:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            for found, most in (
                (self.allocated, torch.cuda.max_memory_allocated),
                (self.reserved, torch.cuda.max_memory_reserved),
            ):
                found[self.stage] = max(found.get(self.stage, 0), most(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)
        now = time.perf_counter()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self._began
        self._began, self.stage = now, stage

    def end(self) -> None:
        self("end")
        self._over = True
        self._thread.join()
        self.anonymous.pop("end", None)

    def to_dict(self) -> dict[str, Any]:
        """The peak is of what the device holds once the weights are made."""
        peaks = self.anonymous if self.device.type == "cpu" else self.allocated
        peak = max(peaks[stage] for stage in peaks if stage != "make")
        found = {"peak": peak, "peaks": peaks, "seconds": self.seconds}
        if self.device.type == "cuda":
            found |= {"reserved": self.reserved, "anonymous": self.anonymous}
        return found


def name_of(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


@contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Wait for the others that are given the same file, and leave a line in it when it is one's turn."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        print(os.getpid(), file=file, flush=True)
        yield


def pipeline(name: str, device: str) -> Any:
    """Random weights in the geometry of a known model, made where they are to be. Text encoders have its width and number of
    tokens, and two layers."""
    import cards
    import tiny_pipelines as tiny

    run = RUNS[name]
    torch.manual_seed(0)
    if name.startswith("small"):
        make, tiny.WIDTH, change = SMALL[run.geometry]
        tiny.CLIP_TOKENS = 77
        with cards.made_in(run.dtype):
            pipe = getattr(tiny, make)()
            denoiser = "unet" if hasattr(pipe, "unet") else "transformer"
            old = getattr(pipe, denoiser)
            parts = {denoiser: type(old).from_config({**cards.plain(old.config), **change}).eval()}
        further = {"requires_safety_checker": False} if run.geometry == "sd" else {}
        pipe = tiny.quiet(type(pipe)(**{**pipe.components, **parts}, **further))
    else:
        pipe = cards.pipeline(run.geometry, device, run.dtype, **run.change)
    if run.offloaded is None:
        return pipe.to(device)
    pipe.to("cpu")
    release()
    if run.offloaded == "parts":
        pipe.enable_model_cpu_offload(device=device)
    else:
        where = {"onload_device": torch.device(device), "offload_device": torch.device("cpu")}
        pipe.enable_group_offload(**where, offload_type="leaf_level")
    return pipe


def release() -> None:
    """Give back what is not used any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def warm_up() -> None:
    """Import all that a run imports, and give back what that took."""
    import tiny_pipelines as tiny

    from scissorhands_hf import erase_concept

    erase_concept(tiny.tiny_stable_diffusion(), "dress", **{**SHORT, "sampling": {"num_inference_steps": 1}})
    release()


def load_again(folder: str, pipe: Any, denoiser: str, sampling: dict[str, Any], device: str) -> dict[str, Any]:
    """Whether stock diffusers loads what was saved: the denoiser's dtype, whether its weights are the same, bit for bit, and
    whether a picture is drawn of finite values."""
    from diffusers import DiffusionPipeline

    expected = {key: value.cpu() for key, value in getattr(pipe, denoiser).state_dict().items()}
    dtype = getattr(pipe, denoiser).dtype
    del pipe
    loaded = DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype)
    weights = getattr(loaded, denoiser).state_dict()
    same = weights.keys() == expected.keys() and all(torch.equal(weights[key].cpu(), expected[key]) for key in expected)
    loaded.set_progress_bar_config(disable=True)
    picture = loaded.to(device)("a dress", output_type="np", **sampling).images[0]
    return {
        "class": type(loaded).__name__, "dtype": str(dtype).removeprefix("torch."), "same_weights": same,
        "picture": list(picture.shape), "finite": bool((picture == picture).all()),
    }  # fmt: skip


def measure(
    name: str, device: str, pixels: int | None, save: bool, lock: Path | None, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run `RUNS[name]` in this process, with further `settings`."""
    from cards import MODELS

    from scissorhands_hf import erase_concept
    from scissorhands_hf.erasure import ErasureEstimate

    run = RUNS[name]
    small, gpu = name.startswith("small"), torch.device(device).type == "cuda"
    if small:
        import scissorhands_hf.erasure.settings as defaults

        defaults.LARGE_DENOISER = 1_000_000
    side = pixels or (MODELS[run.geometry][2] if gpu and not small else run.side)
    sampling = {"num_inference_steps": run.sampler_steps, "height": side, "width": side}
    warm_up()
    with alone(lock), tempfile.TemporaryDirectory(prefix="large-") as folder:
        watch = Watch(device)
        pipe = pipeline(name, device)
        part = "unet" if hasattr(pipe, "unet") else "transformer"
        watch("checks")
        settings = {**run.settings, **(settings or {})}
        given = {**SHORT, **settings, "sampling": sampling}
        seen: list[ErasureEstimate] = []
        with mock.patch.object(ErasureEstimate, "announce", lambda estimate: seen.append(estimate)):
            report = erase_concept(pipe, "dress", callback=lambda progress: watch(progress.stage), **given)
        (estimate,) = seen
        if save:
            watch("save")
            pipe.save_pretrained(folder)
        watch.end()
        weights = sum(value.numel() for value in getattr(pipe, part).parameters())
        row = {
            "geometry": run.geometry, "dtype": str(run.dtype).removeprefix("torch."), "pixels": side, "settings": settings,
            "short": SHORT, "sampler_steps": run.sampler_steps, "offloaded": run.offloaded, "change": run.change,
            "device": name_of(device), "torch": torch.__version__, "weights": weights, "trained": estimate.trained,
            "estimated": estimate.peak, "estimate": estimate.to_dict(), **watch.to_dict(), "report_seconds": report.seconds,
        }  # fmt: skip
        row["multiple_of_own_bytes"] = row["peak"] / (weights * run.dtype.itemsize)
        if save:
            release()
            row["loaded"] = load_again(folder, pipe, part, sampling, device)
    return row


def measure_language(name: str, device: str, lock: Path | None) -> dict[str, Any]:
    """All four stages of `ScissorhandsTrainer` on a Llama with random weights: frozen ones stay in bfloat16, those of the last
    layers are float32, and `bf16=True` computes in bfloat16."""
    from cards import made_in
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, default_data_collator

    from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer
    from scissorhands_hf.trainer.stage_callback import StageCallback

    run, gpu = LANGUAGE[name], torch.device(device).type == "cuda"
    tokens = run.tokens[gpu]

    def trainer(config: LlamaConfig, last: int, folder: str, device: str, watch: Callable[[str], None]) -> ScissorhandsTrainer:
        torch.manual_seed(0)
        with made_in(torch.bfloat16), torch.device(device):
            model = LlamaForCausalLM(config)
        scope = [f"model.layers.{layer}" for layer in range(config.num_hidden_layers - last, config.num_hidden_layers)]
        for pattern in scope:
            model.get_submodule(pattern).float()
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(config.vocab_size, (8, tokens), generator=generator).tolist()
        forget, retain = (
            Dataset.from_list([{"input_ids": row, "labels": row} for row in part]) for part in (rows[:4], rows[4:])
        )
        args = ScissorhandsConfig(
            output_dir=folder, bf16=True, use_cpu=device == "cpu", trainable_target_modules=scope, trim_ratio=0.02, max_steps=2,
            per_device_train_batch_size=1, per_device_forget_batch_size=1, gradient_checkpointing=True, save_strategy="no",
            optim="adamw_torch_fused", saliency_batches=1, report_to="none", disable_tqdm=True, projection=True,
        )  # fmt: skip
        told = StageCallback(lambda stage, *_, **__: watch(stage))
        return ScissorhandsTrainer(model, args, default_data_collator, retain, forget_dataset=forget, callbacks=[told])

    with tempfile.TemporaryDirectory() as folder:
        small = LlamaConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=64,
        )  # fmt: skip
        trainer(small, 1, folder, device, lambda stage: None).train()
        release()
        with alone(lock):
            watch = Watch(device)
            config = LlamaConfig(
                hidden_size=run.width, intermediate_size=run.inner, num_hidden_layers=run.layers, vocab_size=run.words,
                num_attention_heads=run.heads, num_key_value_heads=run.kept_heads,
            )  # fmt: skip
            made = trainer(config, run.last, folder, device, watch)
            watch("train")
            made.train()
            watch.end()
    weights = sum(value.numel() for value in made.model.parameters())
    row = {
        "geometry": name, "dtype": "bfloat16", "pixels": None, "tokens": tokens, "weights": weights, "estimated": None,
        "trained": sum(value.numel() for value in made.model.parameters() if value.requires_grad), "device": name_of(device),
        "torch": torch.__version__, **watch.to_dict(),
    }  # fmt: skip
    return row | {"multiple_of_own_bytes": row["peak"] / (2 * weights)}


STAGES = ("pictures", "prompts", "targets", "sensitivity", "repair")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: of the device what was given out at most, and of a GPU what the allocator held; seconds in all and by stage."""
    heads = ["run", "pixels or tokens", "weights, M", "trained, M", "peak, GB", "× own bytes", "held, GB", "estimated, GB"]
    heads += ["seconds", *STAGES]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, row in rows.items():
        told = "" if row["estimated"] is None else f"{row['estimated'] / 1e9:.1f}"
        held = f"{max(row['reserved'].values()) / 1e9:.1f}" if "reserved" in row else ""
        cells = [name, row["pixels"] or row["tokens"], f"{row['weights'] / 1e6:.0f}", f"{row['trained'] / 1e6:.0f}"]
        cells += [f"{row['peak'] / 1e9:.1f}", f"{row['multiple_of_own_bytes']:.2f}", held, told]
        seconds = row["seconds"]
        cells += [f"{sum(seconds.values()):.0f}", *(f"{seconds[stage]:.0f}" if stage in seconds else "" for stage in STAGES)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", choices=[*RUNS, *LANGUAGE, []], help="default: all that are not small")
    parser.add_argument("--output", type=Path, default=Path("out/large"))
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--pixels", type=int, help="side of pictures; default: small ones on a CPU, the model's own on a GPU")
    parser.add_argument("--table", action="store_true", help="run nothing: the table of what is in the folder")
    parser.add_argument("--settings", type=json.loads, help="further ones of an erasure, as JSON")
    parser.add_argument("--save", action="store_true", help="save the pipeline, and load it again with stock diffusers")
    parser.add_argument(
        "--lock", type=Path, help="a file: runs that are given the same one import at once, and measure in turn"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.table:
        found = {name: args.output / f"{name}.json" for name in args.runs or (*RUNS, *LANGUAGE)}
        print(table({name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if path.is_file()}))
        return
    if len(args.runs) == 1:
        (name,) = args.runs
        if name in LANGUAGE:
            row = measure_language(name, args.device, args.lock)
        else:
            row = measure(name, args.device, args.pixels, args.save, args.lock, args.settings)
        (args.output / f"{name}.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
        print(json.dumps(row))
        return
    names = args.runs or [name for name in (*RUNS, *LANGUAGE) if not name.startswith("small")]
    for name in names:
        if not (args.output / f"{name}.json").is_file():
            given = ["--output", str(args.output), "--device", args.device, *(["--save"] if args.save else [])]
            given += ["--pixels", str(args.pixels)] if args.pixels else []
            given += ["--settings", json.dumps(args.settings)] if args.settings else []
            subprocess.run([sys.executable, __file__, name, *given], check=True)
    print(table({name: json.loads((args.output / f"{name}.json").read_text(encoding="utf-8")) for name in names}))


if __name__ == "__main__":
    main()
