"""Tables and relearning curves from the results that `erasure.py` saved; nothing is measured here."""

from __future__ import annotations

import json
import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


Result = dict[str, Any]
BACK = 50.0  # percent: a concept counts as back when half of the pictures asked for it show it
ORDER = (
    "original",
    "control",
    "default",
    "removal",
    "paper",
    "words",
    "words-trim",
    "words-random-mask",
    "words-no-overshoot",
    "words-look-ahead",
    "words-real-data",
    "words-projection",
    "words-negative-guidance",
)
COLUMNS: dict[str, Callable[[Result, Result], float | None]] = {
    "concept before": lambda result, original: mean_share(original, "concept"),
    "concept after": lambda result, original: mean_share(result, "concept"),
    "paraphrases after": lambda result, original: mean_share(result, "paraphrase"),
    "kept, mean drop": lambda result, original: float(np.mean(drops(result, original))),
    "kept, worst drop": lambda result, original: max(drops(result, original)),
    "kept in other words, drop": lambda result, original: (
        result["reworded"]["before"] - result["reworded"]["after"] if "reworded" in result else None
    ),
    "loss on kept, %": lambda result, original: 100 * (result["kept_loss"] / original["kept_loss"] - 1),
    "feature distance": lambda result, original: distance_ratio(result, "after_to_other_seed"),
    "same seeds": lambda result, original: distance_ratio(result, "after_to_same_seed"),
    "seconds": lambda result, original: result.get("seconds"),
    "peak MB": lambda result, original: result.get("peak_megabytes"),
}
MEANINGS = """\
Shares in percent, drops in points, mean ± standard deviation over runs (concepts and seeds). "Loss on kept": rise of the
denoising loss on 2,000 real test images that do not show the concept. "Feature distance": Fréchet distance, in the judge's
pooled features, of kept prompts' pictures after erasing to the original's pictures of other seeds, divided by the original's
own distance between these two sets of seeds; "same seeds": to the original's pictures of the same seeds, divided likewise."""


def load(folder: Path, concepts: Sequence[str]) -> list[Result]:
    results = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    return [result for result in results if result["concept"] in concepts]


def mean_share(result: Result, part: str) -> float:
    return float(np.mean([score["share"] for score in result["scores"] if score["part"] == part]))


def drops(result: Result, original: Result) -> list[float]:
    """Points that each kept question lost."""
    pairs = zip(original["scores"], result["scores"], strict=True)
    return [before["share"] - after["share"] for before, after in pairs if before["part"] == "kept"]


def distance_ratio(result: Result, name: str) -> float:
    return result["frechet"][name] / result["frechet"]["between_seeds"]


def steps_until_back(curve: dict[str, float]) -> float:
    """Steps, between measured ones by straight lines, until the share reaches BACK; infinity where it never does."""
    points = [(int(step), share) for step, share in curve.items()]
    if points[0][1] >= BACK:
        return 0.0
    for (step, share), (next_step, next_share) in zip(points, points[1:], strict=False):
        if next_share >= BACK:
            return step + (next_step - step) * (BACK - share) / (next_share - share)
    return math.inf


def area(curve: dict[str, float]) -> float:
    """The mean of the share over all steps, by straight lines between those measured."""
    return float(np.trapezoid(list(curve.values()), [int(step) for step in curve]) / int(list(curve)[-1]))


def print_tables(folder: Path, concepts: Sequence[str]) -> None:
    """Print Markdown; relearning.png and, of runs with probes, attacks.png are written into the folder."""
    results = load(folder, concepts)
    originals = {(r["concept"], r["seed"]): r for r in results if r["method"] == "original"}
    runs: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if (result["concept"], result["seed"]) in originals:
            runs[result["method"]].append(result)
    methods = sorted(runs, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    if not methods:
        raise SystemExit(f"no runs with an original beside them in {folder}")

    def row(name: str, members: list[Result]) -> list[str]:
        columns = [[f(r, originals[r["concept"], r["seed"]]) for r in members] for f in COLUMNS.values()]
        return [name, str(len(members)), *(spread([v for v in values if v is not None]) for values in columns)]

    heads = ["method", "runs", *COLUMNS]
    print("## All concepts\n\n" + table(heads, [row(name, runs[name]) for name in methods]) + f"\n\n{MEANINGS}\n")
    for concept in concepts:
        members = {name: [r for r in runs[name] if r["concept"] == concept] for name in methods}
        members = {name: some for name, some in members.items() if some}
        if members:
            print(f"## {concept}\n\n" + table(heads, [row(name, some) for name, some in members.items()]) + "\n")
            print(probes_table(members) + "\n")
            print(relearning_table(members) + "\n")
            print("Under a new word:\n\n" + relearning_table(members, key="relearning_new_word") + "\n")
    print("## Relearning, all concepts\n\n" + relearning_table(runs, methods))
    print(f"\n![Relearning curves]({draw_relearning(folder, concepts, runs, methods).name})")
    if attacks := draw_attacks(folder, concepts, runs, methods):
        print(f"\n![The concept under attack]({attacks.name})")


def draw_attacks(folder: Path, concepts: Sequence[str], runs: dict[str, list[Result]], methods: Sequence[str]) -> Path | None:
    """A panel for each concept: its share under each attack, mean over seeds, a bar for each method; None without probes."""
    probed = {
        concept: {
            name: some for name in methods if (some := [r for r in runs[name] if r["concept"] == concept and "probes" in r])
        }
        for concept in concepts
    }
    probed = {concept: members for concept, members in probed.items() if members}
    if not probed:
        return None
    figure = Figure(figsize=(9, 3.1 * len(probed)), layout="constrained")
    panels = figure.subplots(len(probed), 1, squeeze=False)[:, 0]
    for axes, (concept, members) in zip(panels, probed.items(), strict=True):
        attacks = list(next(iter(members.values()))[0]["probes"])
        width = 0.8 / len(members)
        for index, (name, results) in enumerate(members.items()):
            shares = [[mean_share(r, "concept"), *(r["probes"][attack] for attack in attacks)] for r in results]
            style = (
                {"color": "0.75"} if name == "original" else {"color": "black"} if name == "control" else {"color": f"C{index}"}
            )
            places = [place + (index - (len(members) - 1) / 2) * width for place in range(len(attacks) + 1)]
            axes.bar(places, np.mean(shares, axis=0), width, label=name, **style)
        axes.set_xticks(range(len(attacks) + 1), [textwrap.fill(name, 10) for name in ("its words", *attacks)], fontsize=8)
        axes.set_title(f"“{concept}” under attack", fontsize=10)
        axes.set_ylabel("pictures that show it, %", fontsize=8)
        axes.set_ylim(0, 103)
        axes.spines[["top", "right"]].set_visible(False)
    handles = {label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    path = folder / "attacks.png"
    figure.savefig(path, dpi=130)
    return path


def probes_table(runs: dict[str, list[Result]]) -> str:
    """Shares of the concept under each attack of `probe_concept`, and CPU-seconds of the erasure."""
    probed = {name: [r for r in members if "probes" in r] for name, members in runs.items()}
    probed = {name: members for name, members in probed.items() if members}
    if not probed:
        return "No probe was run."
    settings = list(dict.fromkeys(key for members in probed.values() for result in members for key in result["probes"]))
    rows = []
    for name, members in probed.items():
        shares = [spread([result["probes"][key] for result in members if key in result["probes"]]) for key in settings]
        cost = spread([result["cpu_seconds"] for result in members if "cpu_seconds" in result])
        words = spread([mean_share(result, "concept") for result in members])
        paraphrases = spread([mean_share(result, "paraphrase") for result in members])
        rows.append([name, str(len(members)), words, paraphrases, *shares, cost])
    return table(["method", "runs", "words", "paraphrases", *settings, "CPU-s"], rows)


def relearning_table(runs: dict[str, list[Result]], methods: Iterable[str] | None = None, key: str = "relearning") -> str:
    """Share of the concept after each number of steps, their mean over all steps, and steps until it is back."""
    rows, steps = [], None
    for name in methods or runs:
        curves = [result[key]["curve"] for result in runs[name] if key in result]
        if not curves:
            continue
        steps = list(curves[0])
        back = [steps_until_back(curve) for curve in curves]
        never = sum(map(math.isinf, back))
        text = spread([b for b in back if not math.isinf(b)]) + (f" (never in {never} of {len(back)})" if never else "")
        kept = spread([result[key]["kept_after"] for result in runs[name] if key in result])
        shares = [spread([curve[step] for curve in curves]) for step in steps]
        rows.append([name, *shares, spread([area(curve) for curve in curves]), text.strip(), kept])
    if not rows:
        return "No relearning was measured."
    return table(["method", *(f"{s} steps" for s in steps), "area", f"steps to {BACK:.0f} %", "kept prompts after"], rows)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    if not values:
        return ""
    digits = 0 if np.mean(np.abs(values)) >= 100 and len(values) > 1 else 1
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw_relearning(folder: Path, concepts: Sequence[str], runs: dict[str, list[Result]], methods: Sequence[str]) -> Path:
    """A panel for each concept: mean share over seeds after each number of steps, a line for each method."""
    shown = [c for c in concepts if any(r["concept"] == c and "relearning" in r for rs in runs.values() for r in rs)]
    figure = Figure(figsize=(4.2 * max(1, len(shown)), 4.4), layout="constrained")
    panels = figure.subplots(1, max(1, len(shown)), squeeze=False, sharey=True)[0]
    for axes, concept in zip(panels, shown, strict=False):
        for index, name in enumerate(methods):
            curves = [r["relearning"]["curve"] for r in runs[name] if r["concept"] == concept and "relearning" in r]
            if not curves:
                continue
            steps = [int(step) for step in curves[0]]
            means = np.mean([list(curve.values()) for curve in curves], axis=0)
            style = {"color": "black", "linestyle": "--"} if name == "control" else {"color": f"C{index % 10}"}
            axes.plot(steps, means, marker="o", markersize=4, label=name, **style)
        axes.set_title(f"Relearning “{concept}” from 50 real images", fontsize=10)
        axes.set_xlabel("fine-tuning steps")
        axes.set_ylim(-3, 103)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("pictures that show it, %")
    handles = {label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    path = folder / "relearning.png"
    figure.savefig(path, dpi=130)
    return path
