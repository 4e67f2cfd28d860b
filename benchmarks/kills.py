"""`erase_concept` interrupted at random moments, and on a full disk: is everything as it was, and is no file left?

    python benchmarks/kills.py --kills 20 --seed 0 --output out/kills.json

Each run, of a tiny pipeline with random weights, gets one Ctrl-C at a moment drawn evenly from the time that a whole run takes
(a signal by the clock: it comes wherever the interpreter is). Runs differ in turn: all weights in float32, text layers in
bfloat16, an adapter, an offloaded pipeline, an adapter over layers that stay offloaded. A full disk is a limit on the size of
files, drawn below that of the original's copy or of a checkpoint. After each: weights bit for bit, dtypes, modules, hooks,
`requires_grad` and gradients as before, and the folder of temporary files empty.
"""

import argparse
import json
import logging
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "erasure"))

SETTINGS = {
    "anchor": "coat", "max_steps": 6, "evaluations": 3, "pictures_per_concept": 2, "retain_pictures": 2, "report_images": 2,
    "per_device_train_batch_size": 2, "evaluation_examples": 2, "disable_tqdm": True, "concept_type": "object",
    "learning_rate": 1e-2, "sampling": {"num_inference_steps": 2, "height": 32, "width": 32},
}  # fmt: skip
TEXT_LAYERS = {"trainable_target_modules": ["*.attn2.to_k.*", "*.attn2.to_v.*"]}


def plain(pipe: Any) -> dict[str, Any]:
    return {}


def half(pipe: Any) -> dict[str, Any]:
    pipe.to(torch.bfloat16)
    return TEXT_LAYERS


def adapter(pipe: Any) -> dict[str, Any]:
    return {"repair_adapter": 4, "gradient_checkpointing": True}


def offloaded(pipe: Any) -> dict[str, Any]:
    kind = {"offload_type": "block_level", "num_blocks_per_group": 1}
    pipe.enable_group_offload(onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), **kind)
    return TEXT_LAYERS


def leaves(pipe: Any) -> dict[str, Any]:
    pipe.to(torch.bfloat16)
    where = {"onload_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
    pipe.enable_group_offload(**where, offload_type="leaf_level")
    return {"repair_adapter": 4, "gradient_checkpointing": True}


KINDS: list[Callable[[Any], dict[str, Any]]] = [plain, half, adapter, offloaded, leaves]


def condition(pipe: Any) -> dict[str, Any]:
    """All that has to be the same afterwards; values by name."""
    from scissorhands_hf.erasure.families.hooks import accelerate_hooks, diffusers_hooks

    found: dict[str, Any] = {}
    for part, module in pipe.components.items():
        if not isinstance(module, nn.Module):
            continue
        for name, value in module.state_dict().items():
            found[f"{part}.{name}"] = value.clone()
        for name, weight in module.named_parameters():
            found[f"{part}.{name} wants"] = (weight.requires_grad, weight.grad is None, weight.dtype, weight.device.type)
        for name, child in module.named_modules():
            hooks = [type(hook).__name__ for hook in accelerate_hooks(child)] + list(diffusers_hooks(child))
            found[f"{part}.{name} is"] = (type(child).__name__, child.training, hooks)
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    def same(one: Any, other: Any) -> bool:
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other

    return sorted(name for name in before.keys() | after.keys() if not same(before.get(name), after.get(name)))


def run(kind: Callable[[Any], dict[str, Any]], seconds: float | None = None, largest_file: int | None = None) -> dict[str, Any]:
    """One run, ended after so many seconds or by files that may not be larger than so many bytes; neither: a whole one."""
    from tiny_pipelines import tiny_stable_diffusion

    from scissorhands_hf import erase_concept

    pipe = tiny_stable_diffusion()
    settings, stage = kind(pipe), "checks"
    before = condition(pipe)

    def tell(progress: Any) -> None:
        nonlocal stage
        stage = progress.stage

    ended, began = "whole", time.perf_counter()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, hard))
        if seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        erase_concept(pipe, "dress", callback=tell, **SETTINGS, **settings)
    except KeyboardInterrupt:
        ended = "interrupted"
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    took = time.perf_counter() - began
    changed = differences(before, condition(pipe))
    return {
        "kind": kind.__name__, "stage": stage, "ended": ended, "seconds": took,
        "changed": changed if ended != "whole" else [],
        "reports": len(getattr(pipe, "erasure_reports", ())) if ended != "whole" else 0,
        "files": sorted(str(path) for path in temporary_files()),
    }  # fmt: skip


def temporary_files() -> set[Path]:
    return set(Path(tempfile.gettempdir()).rglob("*"))


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--full-disks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    signal.signal(signal.SIGALRM, interrupt)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
    draw, rows = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        run(plain)  # imports, of which some make themselves a folder
        known = temporary_files()
        whole = {kind: run(kind)["seconds"] for kind in KINDS[: max(1, args.kills)]}
        for number in range(args.kills):
            kind = KINDS[number % len(KINDS)]
            rows.append(run(kind, seconds=draw.uniform(0, whole[kind])))
        for number in range(args.full_disks):
            rows.append(run(KINDS[number % len(KINDS)], largest_file=draw.randrange(1_000, 200_000)))
        tempfile.tempdir = None
    for row in rows:
        row["files"] = [name for name in row["files"] if Path(name) not in known]
    failed = [row for row in rows if row["changed"] or row["files"] or row["reports"]]
    for row in rows:
        print(
            f"{row['kind']:10s} {row['stage']:12s} {row['ended'][:60]:60s} {'NOT AS BEFORE' if row in failed else 'as before'}"
        )
    print(f"{len(rows)} runs, {sum(row['ended'] != 'whole' for row in rows)} ended early, {len(failed)} not as before")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
