"""Memory and seconds of `erase_concept` and `ScissorhandsTrainer` by stage, at real geometry with random weights, and beside
them the estimate.

    python benchmarks/large.py RUN --output out/large [--device cuda]     one run, in this process, into RUN.json
    python benchmarks/large.py --output out/large                         one run of each kind (`DEFAULT`), and the table
    python benchmarks/large.py RUN RUN … --output out/large               these

Several runs are each in a process of its own; those with a file are not run again, so that what was interrupted goes on. On a
CPU counted is anonymous memory (what files in memory would be read again from is left out) beyond what the process had before
the pipeline was made, pictures are small, and two steps are of one micro-batch each. On a GPU pictures are as large as the
model's own, counted is what torch's allocator gave out, and beside it what it held and the CPU's anonymous memory. Weights are
random: measured is memory, not forgetting.

`large_runs.py` holds the pipelines, `large_language.py` the language models, `memory_watch.py` what counts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from large_language import LANGUAGE, measure_language
from large_runs import BRIEF, RUNS, SHORT, pipeline
from memory_watch import Watch, alone, map_large_blocks, name_of, release


# What is run without a name: each kind of geometry once, so that all of them take less than 40 minutes of one thread and 14 GB.
DEFAULT = ("llama-1b", "half-sd3-bf16", "quarter-flux-adapter", "sd15", "sdxl-bf16")


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
    if not same:
        raise RuntimeError(f"the {denoiser} that stock diffusers loads is not the one that was saved")
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
        settings = {**({} if small or gpu else BRIEF), **run.settings, **(settings or {})}
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


STAGES = ("pictures", "prompts", "targets", "sensitivity", "repair")


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: of the device what was given out at most, and of a GPU what the allocator held; seconds of the processor and
    by the clock, in all and by stage."""
    gpu = any("reserved" in row for row in rows.values())
    heads = ["run", "pixels or tokens", "weights, M", "trained, M", "estimated, GB", "peak, GB", "× own bytes"]
    heads += [*(["held, GB"] if gpu else []), "processor, s", "seconds", *STAGES]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, row in rows.items():
        told = "" if row["estimated"] is None else f"{row['estimated'] / 1e9:.1f}"
        held = f"{max(row['reserved'].values()) / 1e9:.1f}" if "reserved" in row else ""
        cells = [name, row["pixels"] or row["tokens"], f"{row['weights'] / 1e6:.0f}", f"{row['trained'] / 1e6:.0f}", told]
        cells += [f"{row['peak'] / 1e9:.1f}", f"{row['multiple_of_own_bytes']:.2f}", *([held] if gpu else [])]
        seconds = row["seconds"]
        cells += [f"{row['processor']:.0f}", f"{sum(seconds.values()):.0f}"]
        cells += [f"{seconds[stage]:.0f}" if stage in seconds else "" for stage in STAGES]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def run_each(names: Sequence[str], args: argparse.Namespace) -> list[str]:
    """The runs without a file, each in a process of its own. Returns the names of those that failed."""
    given = ["--output", str(args.output), "--device", args.device, "--allocator", args.allocator]
    given += ["--save"] if args.save else []
    given += ["--pixels", str(args.pixels)] if args.pixels else []
    given += ["--settings", json.dumps(args.settings)] if args.settings else []
    missing = [name for name in names if not (args.output / f"{name}.json").is_file()]
    failed = []
    for number, name in enumerate(missing, start=1):
        print(f"{name} ({number} of {len(missing)})", file=sys.stderr, flush=True)
        if subprocess.run([sys.executable, __file__, name, *given], stdout=subprocess.DEVNULL).returncode:
            failed.append(name)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", choices=[*RUNS, *LANGUAGE, []], help=f"default: {', '.join(DEFAULT)}")
    parser.add_argument("--output", type=Path, default=Path("out/large"))
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 …")
    parser.add_argument("--pixels", type=int, help="side of pictures; default: small ones on a CPU, the model's own on a GPU")
    parser.add_argument("--table", action="store_true", help="run nothing: the table of what is in the folder")
    parser.add_argument("--settings", type=json.loads, help="further ones of an erasure, as JSON")
    parser.add_argument("--save", action="store_true", help="save the pipeline, and load it again with stock diffusers")
    parser.add_argument(
        "--allocator", choices=["mapped", "glibc"], default="mapped",
        help="of main memory: large blocks are mapped one by one and given back when freed, or as glibc is set",
    )  # fmt: skip
    parser.add_argument(
        "--lock", type=Path, help="a file: runs that are given the same one import at once, and measure in turn"
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if len(args.runs) == 1 and not args.table:
        (name,) = args.runs
        if args.allocator == "mapped":
            map_large_blocks()
        if name in LANGUAGE:
            row = measure_language(name, args.device, args.lock)
        else:
            row = measure(name, args.device, args.pixels, args.save, args.lock, args.settings)
        row["allocator"] = args.allocator
        (args.output / f"{name}.json").write_text(json.dumps(row, indent=1), encoding="utf-8")
        print(json.dumps(row))
        return
    failed = [] if args.table else run_each(args.runs or DEFAULT, args)
    known = args.runs or (*RUNS, *LANGUAGE)
    found = {name: args.output / f"{name}.json" for name in known}
    print(table({name: json.loads(path.read_text(encoding="utf-8")) for name, path in found.items() if path.is_file()}))
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}. The same command runs these alone once more.")


if __name__ == "__main__":
    main()
