"""Gone, or only led elsewhere? The probes of `scissorhands_hf.audit` on the shipped pipelines and on those made of them.

    python benchmarks/probes.py --output out/probes                    # original, control and erased; all probes, three seeds
    python benchmarks/probes.py --pipelines original control mine=out/no-dress --probes words token img2img --count 60 --seeds 7
    python benchmarks/probes.py --methods esd-x uce --output out/probes   # those of erasure.py, erased on the spot
    python benchmarks/probes.py --output out/probes --table            # runs nothing: tables of what is there, and probes.png

Each probe of a pipeline, concept and seed is saved at once to a file of its own, and skipped when that exists; several
processes may share a folder. The attacker has 50 real pictures of the concept, others for each seed. Needs the raw
Fashion-MNIST files (Debian package dataset-fashion-mnist).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims import claimed
from diffusers import StableDiffusionPipeline
from erasure import METHODS
from erasure_measure import (
    CLASS_NAMES,
    COLOUR_NAMES,
    CONTROLS,
    HELD_OUT_TEMPLATES,
    PIPELINE,
    SAMPLING,
    load_pipeline,
    make_prompt,
    real_images,
)
from fashion_data import SUPER_CATEGORIES
from tqdm.auto import tqdm

from scissorhands_hf.audit import PROBES, load_judge, probe_concept
from scissorhands_hf.report import ProbeReport, ProbeScore
from scissorhands_hf.report.intervals import wilson_interval
from scissorhands_hf.report.markdown import Safe, table
from spaces_demo.judge import JUDGE_FOLDER, FashionJudge


ATTACKERS_PICTURES = 50
ERASED = "erased"
# No probe of the pipelines as they are: there are no other names in their vocabulary.
DEFAULT_PROBES = [name for name in PROBES if name != "synonyms"]


def prompts_of(concept: str) -> dict[str, list[str]]:
    """Prompts in the vocabulary of the garment pipelines, which know few other words."""
    photo = "a photo of {one}"
    if concept in COLOUR_NAMES:
        return {
            "words": [concept, make_prompt(photo, "something", concept), make_prompt(photo, "bag", concept)],
            "paraphrases": [make_prompt(t, n, concept) for t, n in zip(HELD_OUT_TEMPLATES, CLASS_NAMES, strict=False)],
            "wider": ["a photo of clothing", "something", "a picture of a bag"],
        }  # fmt: skip
    wider = [name for name, members in SUPER_CATEGORIES.items() if concept in members and len(members) < len(CLASS_NAMES)]
    return {
        "words": [concept, make_prompt(photo, concept), make_prompt(photo, concept, "blue")],
        "paraphrases": [make_prompt(template, concept) for template in HELD_OUT_TEMPLATES],
        "wider": [*(make_prompt(photo, name) for name in wider), "something red"],
    }  # fmt: skip


def open_pipeline(name: str, source: str, concept: str, seed: int, output: Path) -> StableDiffusionPipeline:
    """One that is there, or one that is erased now and kept in the output folder for the next probe."""
    if source == "original":
        return load_pipeline(PIPELINE)
    if source == "control":
        return load_pipeline(CONTROLS[concept])
    if source not in METHODS:
        return load_pipeline(Path(source.format(concept=concept.replace(" ", "_"), seed=seed)))
    folder = output / "pipelines" / f"{name}_{concept.replace(' ', '-')}_{seed}"
    if not folder.exists():
        pipe = load_pipeline(PIPELINE)
        start = time.process_time()
        METHODS[source](pipe, concept, seed, {})
        partial = folder.with_name(f"{folder.name}.{os.getpid()}")
        StableDiffusionPipeline.save_pretrained(pipe, partial)
        (partial / "cost.json").write_text(json.dumps({"cpu_seconds": time.process_time() - start}))
        os.replace(partial, folder)
    return load_pipeline(folder)


def run(pipe: StableDiffusionPipeline, concept: str, probe: str, seed: int, count: int) -> dict[str, Any]:
    colour = concept in COLOUR_NAMES
    judge = FashionJudge() if colour else load_judge(JUDGE_FOLDER)
    start = time.process_time()
    report = probe_concept(
        pipe,
        concept,
        judge=judge,
        pictures=real_images("train", ATTACKERS_PICTURES, seed + 1000, only=concept).pictures(),
        probes=[probe],
        count=count,
        seed=seed,
        sampling=SAMPLING,
        prompts=prompts_of(concept),
        concept_type="attribute" if colour else "object",
        batch_size=60,
    )
    report.seconds["cpu"] = {"pipeline": time.process_time() - start}
    return report.to_dict()


def file_of(output: Path, name: str, concept: str, seed: int, probe: str) -> Path:
    return output / f"{name}_{concept.replace(' ', '-')}_{seed}_{probe.replace(' ', '-')}.json"


# ---- Tables ----


def collect(output: Path, names: list[str], concept: str, seeds: list[int]) -> dict[str, dict[tuple[str, str], list[float]]]:
    """By pipeline, probe and row: [seen, pictures, and the share of each seed …] over all seeds that are there."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for name in names:
        for seed in seeds:
            for probe in PROBES:
                file = file_of(output, name, concept, seed, probe)
                if not file.exists():
                    continue
                report = ProbeReport.load(file)
                for score in report.scores:
                    entry = found.setdefault(name, {}).setdefault((probe, score.place), [0, 0])
                    entry[0] += score.seen
                    entry[1] += score.images
                    entry.append(score.share)
                for curve, areas in report.areas().items():
                    place = (probe, f"{curve.partition(': ')[2]}, area below the curve")
                    found[name].setdefault(place, [0, 0]).append(areas["pipeline"])
    return found


def table_of(output: Path, names: list[str], concept: str, seeds: list[int]) -> str:
    """A row for each probe, a column for each pipeline: the mean over the seeds, with the interval of all pictures together."""
    found = collect(output, names, concept, seeds)
    present = [name for name in names if name in found]
    places = [
        place
        for probe in PROBES
        for place in dict.fromkeys(p for name in present for p in found[name] if p[0] == probe)
    ]  # fmt: skip
    rows = [[place[0], place[1], *(cell(found[name].get(place)) for name in present)] for place in places]
    return table(["probe", "setting", *present], rows, text_columns=2)


def cell(entry: list[float] | None) -> str:
    if entry is None:
        return ""
    seen, images, *shares = entry
    if not images:
        return Safe(f"{np.mean(shares):.1f}")
    low, high = wilson_interval(int(seen), int(images))
    return Safe(f"{100 * seen / images:.1f} ({100 * low:.0f}–{100 * high:.0f}; {int(images)})")


def plot(output: Path, names: list[str], concept: str, seeds: list[int]) -> Path:
    """The pipelines side by side, pictures of all seeds together; at most three are named as reports name them."""
    roles = dict(zip(("pipeline", "reference", "control"), names, strict=False))
    found = collect(output, names, concept, seeds)
    scores = [
        ProbeScore(probe, place, role, int(entry[0]), int(entry[1]), min(seeds))
        for role, name in roles.items()
        for (probe, place), entry in found.get(name, {}).items()
        if entry[1]
    ]
    order = list(PROBES)
    scores.sort(key=lambda score: order.index(score.probe))
    return ProbeReport(concept, scores).plot(output / f"probes_{concept.replace(' ', '-')}.png")


# ---- All runs ----


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/probes"))
    parser.add_argument(
        "--pipelines", nargs="+", default=[ERASED, "original", "control"], metavar="NAME[=FOLDER]",
        help="original, control, erased (erase_concept as it is), or a folder, in which {concept} and {seed} are filled in",
    )  # fmt: skip
    parser.add_argument("--methods", nargs="*", default=[], choices=[m for m in METHODS if METHODS[m]], metavar="METHOD")
    parser.add_argument("--concepts", nargs="+", default=["dress"], choices=[*CLASS_NAMES, *COLOUR_NAMES], metavar="CONCEPT")
    parser.add_argument("--probes", nargs="+", default=DEFAULT_PROBES, choices=PROBES, metavar="PROBE")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--count", type=int, default=100, help="pictures of each share")
    parser.add_argument("--table", action="store_true", help="run nothing: print tables and draw plots of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sources = {given.partition("=")[0]: given.partition("=")[2] or given for given in options.pipelines}
    sources = {name: "default" if source == ERASED else source for name, source in sources.items()}
    sources |= {method: method for method in options.methods}
    options.output.mkdir(parents=True, exist_ok=True)
    jobs = [(n, c, s) for s in options.seeds for c in options.concepts for n in sources] if not options.table else []
    for name, concept, seed in tqdm(jobs, desc="pipelines"):
        pipe = None
        for probe in options.probes:
            target = file_of(options.output, name, concept, seed, probe)
            with claimed(target) as mine:
                if not mine or target.exists():
                    continue
                pipe = pipe or open_pipeline(name, sources[name], concept, seed, options.output)
                partial = target.with_suffix(f".{os.getpid()}")
                partial.write_text(json.dumps(run(pipe, concept, probe, seed, options.count), indent=1) + "\n")
                os.replace(partial, target)
    for concept in options.concepts:
        print(f"\n**{concept}**, seeds {', '.join(map(str, options.seeds))}\n")
        print(table_of(options.output, list(sources), concept, options.seeds))
        if options.table:
            print(f"\n{plot(options.output, list(sources), concept, options.seeds)}", file=sys.stderr)


if __name__ == "__main__":
    main()
