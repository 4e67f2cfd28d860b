"""What the algorithm costs, beside the passes that it needs anyway.

    python benchmarks/bench.py [--threads 2] [--repetitions 7] [--output results.json]

Every ratio compares two measurements of one repetition, taken one after the other, so that a busy machine slows both.
Printed: median (smallest - largest), by the clock and in CPU time. Peak memory: one fresh process for each stage, see
``stages.py``.

Threads wait for each other asleep (OMP_WAIT_POLICY=PASSIVE): on a busy machine a spinning thread keeps the other one
from its core, which was measured to make a 0.06 ms operation of two threads take 8 ms.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar


os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is loaded

import torch
from stages import MODELS, RATIO, STAGES, Workload, concatenated_threshold, measure_peaks, opposed_memory
from tqdm import tqdm

from scissorhands_hf.core import connection_sensitivity, exact_threshold, trim_weights
from scissorhands_hf.trainer.scopes import default_reinit_scope


LAMBDA = 0.05
P, R = ParamSpec("P"), TypeVar("R")


@dataclass(frozen=True)
class Cost:
    """Seconds by the clock, and CPU seconds of this process, which other programs on the machine disturb less."""

    wall: float
    cpu: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.wall + other.wall, self.cpu + other.cpu)

    def __truediv__(self, other: "Cost") -> "Cost":
        return Cost(self.wall / other.wall, self.cpu / other.cpu)


Results = dict[str, list[Cost]]


def timed(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[Cost, R]:
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = work(*args, **kwargs)
    return Cost(time.perf_counter() - wall, time.process_time() - cpu), result


def repeat(most: int, seconds: float, progress: tqdm) -> Iterator[int]:
    """Count repetitions: ``most`` of them, fewer (two at least) once ``seconds`` have passed."""
    start = time.perf_counter()
    for index in range(most):
        if index < 2 or time.perf_counter() - start < seconds:
            yield index
        progress.update()


def bench_stages_one_to_three(load: Workload, batches: int, repetitions: Iterable[int]) -> Results:
    """Sensitivity and threshold of all weights and trim of the default scope, as the trainer does them, against the bare
    passes; and the threshold against concatenation and k-th value."""
    results: Results = defaultdict(list)
    model, parameters = load.model.eval(), dict(load.model.named_parameters())
    _, scope = default_reinit_scope(model, parameters)
    losses = [lambda seed=seed: load.loss(seed) for seed in range(batches)]

    def bare() -> None:
        for loss in losses:
            model.zero_grad(set_to_none=True)
            loss().backward()
        model.zero_grad(set_to_none=True)

    losses[0]().backward()
    for _ in repetitions:
        plain, _ = timed(bare)
        first, sensitivity = timed(connection_sensitivity, losses, parameters)
        second, (tau, _) = timed(exact_threshold, sensitivity.values(), RATIO)
        brute, expected = timed(concatenated_threshold, list(sensitivity.values()))
        assert tau == expected
        third, _ = timed(trim_weights, model, sensitivity, tau, scope, 0, model._init_weights)
        del sensitivity
        names = ["bare passes", "sensitivity", "threshold", "trim", "concatenate + kthvalue"]
        for name, cost in zip(names, [plain, first, second, third, brute], strict=True):
            results[f"{name}, s"].append(cost)
        results[f"(b) sensitivity + threshold + trim / {batches} bare passes"].append((first + second + third) / plain)
        results["(b) of this: sensitivity alone"].append(first / plain)
        results["(c) threshold / concatenate + kthvalue"].append(second / brute)
    return results


def bench_projection(load: Workload, repetitions: Iterable[int]) -> Results:
    """One projection that applies, as a share of a training step on a retain and a forget batch."""
    results: Results = defaultdict(list)
    load.model.train()
    parameters = list(load.model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=1e-5, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        optimizer.zero_grad()
        (load.loss(0) - LAMBDA * load.loss(1)).backward()
        optimizer.step()

    step()
    memories = {size: opposed_memory([p.grad for p in parameters], size) for size in (1, 8)}
    for _ in repetitions:
        whole, _ = timed(step)
        results["training step, s"].append(whole)
        saved = [p.grad.clone() for p in parameters]
        for size, memory in memories.items():
            cost, done = timed(memory.project, [p.grad for p in parameters])
            assert done.applied, "the share is that of a projection which applies"
            results[f"projection M={size}, s"].append(cost)
            results[f"(a) projection M={size} / training step"].append(cost / whole)
            for parameter, gradient in zip(parameters, saved, strict=True):
                parameter.grad.copy_(gradient)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch, also in the memory stages (default: 2)")
    parser.add_argument("--repetitions", type=int, default=7, help="at most so many, two at least (default: 7)")
    parser.add_argument("--seconds", type=float, default=20.0, help="no new repetition after this long (default: 20)")
    parser.add_argument("--batches", type=int, default=2, help="forget batches B of the sensitivity (default: 2)")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--output", type=Path, help="also write all measurements to this JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    total = len(options.models) * (2 * options.repetitions + len(STAGES))
    report: dict = {
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "batches": options.batches,
        "models": {},
    }
    print(f"{report['cpu']}, torch {torch.__version__}, {torch.get_num_threads()} threads, B = {options.batches} batches")
    with tqdm(total=total, unit="run", file=sys.stderr) as progress:
        for name in options.models:
            progress.set_description(f"{name}: times")
            load = Workload(name)
            turns = [repeat(options.repetitions, options.seconds, progress) for _ in range(2)]
            times = bench_projection(load, turns[0]) | bench_stages_one_to_three(load, options.batches, turns[1])
            shape = {"parameters": load.count, "bytes": load.bytes, "batch": load.describe}
            del load
            progress.set_description(f"{name}: memory")
            peaks = measure_peaks(name, options.threads, progress)
            report["models"][name] = shape | {
                "times": {k: [asdict(c) for c in v] for k, v in times.items()},
                "peaks": peaks,
            }
            progress.clear()
            show(name, shape, times, peaks)
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def show(name: str, shape: dict, times: Results, peaks: dict[str, int]) -> None:
    weights = shape["bytes"]
    print(f"\n{name}: {shape['parameters'] / 1e6:.1f}M parameters, {weights / 2**20:.0f} MiB of weights, {shape['batch']}")
    count = {len(costs) for costs in times.values()}
    print(f"  median (smallest - largest) of {' or '.join(map(str, sorted(count)))} repetitions")
    print(f"    {'':<54} {'by the clock':<26} CPU time")
    for quantity, costs in sorted(times.items(), key=lambda item: not item[0].startswith("(")):
        print(f"    {quantity:<54} {spread([c.wall for c in costs]):<26} {spread([c.cpu for c in costs])}")
    print("  (d) peak memory on top of what was there before the stage, as a multiple of the weights' bytes")
    for stage, (_, meaning) in STAGES.items():
        print(f"    {stage:<27} {peaks[stage] / weights:6.2f} x   {meaning}")
    for other, meaning in [
        ("streamed pass", "what it needs beside the pass; the design allows one accumulator"),
        ("bare pass", "what it needs beyond an ordinary pass of training"),
    ]:
        above = (peaks["sensitivity"] - peaks[other]) / weights
        print(f"    {'sensitivity - ' + other:<27} {above:6.2f} x   {meaning}")


def spread(values: list[float]) -> str:
    middle, low, high = (f"{f(values):.3g}" for f in (statistics.median, min, max))
    return f"{middle} ({low} - {high})"


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
