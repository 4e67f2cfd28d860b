"""Does an erased concept stay gone, and does the rest stay? Methods side by side on the shipped garment pipeline.

    python benchmarks/erasure.py --output out/erasure                 # all methods, concepts and seeds that are not there yet
    python benchmarks/erasure.py --methods removal esd-x --concepts dress --seeds 0
    python benchmarks/erasure.py --output out/erasure --table         # tables; relearning.png and attacks.png beside them

Each run of a method on a concept with a seed is saved at once to a JSON file of its own; runs whose file exists are skipped,
and several processes may share a folder. Needs the raw Fashion-MNIST files (Debian package dataset-fashion-mnist). What is
measured is defined in `erasure_measure.py`; that takes one to two minutes of one thread for each run, besides the erasing.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
import torch
from baselines import esd, uce
from claims import claimed
from diffusers import StableDiffusionPipeline
from erasure_measure import (
    CLASS_NAMES,
    COLOUR_NAMES,
    CONCEPTS,
    CONTROLS,
    HELD_OUT_IMAGES,
    NEW_WORD,
    PIPELINE,
    SAMPLING,
    denoising_loss,
    draw,
    draw_original,
    encode,
    frechet_distance,
    held_out_loss,
    judge_features,
    load_pipeline,
    make_prompt,
    probe,
    questions,
    real_images,
    relearn,
    reworded,
    shares,
)
from tqdm.auto import tqdm

from scissorhands_hf import erase_concept
from scissorhands_hf.core import trim as trimming
from scissorhands_hf.erasure.words import CONCEPT_TEMPLATES, fill


# Best of the settings that were tried, see the README.
ESD_SETTINGS: dict[str, dict[str, Any]] = {
    "x": {"scope": "x", "steps": 200, "learning_rate": 3e-4},
    "u": {"scope": "u", "steps": 100, "learning_rate": 1e-4},
}
UCE_SETTINGS: dict[str, Any] = {"keep_weight": 3.0, "ridge": 0.01}
# What is drawn in the concept's place, where the closed form is to answer with something else than the empty prompt.
OTHER = {"dress": "bag", "coat": "bag", "sneaker": "bag", "red": "blue"}
REAL_FORGET, REAL_RETAIN = 64, 256
TRIM_RATIO = 0.01
# Its words led elsewhere, instead of removed.
WORDS: dict[str, Any] = {"recipe": "concept"}
REMOVAL: dict[str, Any] = {"recipe": "removal"}


def erase_ours(**settings: Any) -> Callable[..., dict[str, Any]]:
    """`erase_concept` with its defaults but for ``settings``."""

    def run(pipe: StableDiffusionPipeline, concept: str, seed: int, extra: dict[str, Any]) -> dict[str, Any]:
        # The pictures of the report are drawn by the benchmark itself, and are no cost of the method.
        values = {"seed": seed, "disable_tqdm": True, "report_images": 0, **settings, **extra}
        report = erase_concept(pipe, concept, **values)
        return {"seconds_by_stage": report.seconds, "trimmed": report.trim.get("trimmed"), "warnings": report.warnings}

    return run


@contextmanager
def random_mask(seed: int) -> Iterator[None]:
    """While inside, the sensitivities of the weights that may be cut are shuffled among them before the cut."""
    original = trimming.trim_weights

    def shuffled(model, sensitivity, threshold, targets, *others):
        # trim_weights leaves normalisation layers alone: shuffled in, they would change how many weights are cut.
        names = [n for n in targets if "norm" not in type(model.get_submodule(n.rpartition(".")[0])).__name__.lower()]
        values = torch.cat([sensitivity[name].flatten() for name in names])
        values = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
        parts = values.split([sensitivity[name].numel() for name in names])
        mixed = {name: part.view_as(sensitivity[name]) for name, part in zip(names, parts, strict=True)}
        return original(model, {**sensitivity, **mixed}, threshold, targets, *others)

    with mock.patch.object(trimming, "trim_weights", shuffled):
        yield


def erase_with_real_data(pipe: StableDiffusionPipeline, concept: str, seed: int, extra: dict[str, Any]) -> dict[str, Any]:
    """Real pictures of the concept, and real captioned ones of everything else, in the place of drawn ones."""
    forget = real_images("train", REAL_FORGET, seed + 1000, only=concept)
    retain = real_images("train", REAL_RETAIN, seed + 1000, without=concept)
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    kept = datasets.Dataset.from_dict({"image": retain.pictures(), "text": retain.captions}, features=features)
    return erase_ours(**WORDS, forget_images=forget.pictures(), retain_images=kept)(pipe, concept, seed, extra)


def concept_prompts(concept: str) -> list[str]:
    """The wordings that `erase_concept` erases, too, so that no method has an advantage by them."""
    return list(dict.fromkeys(fill(template, concept) for template in CONCEPT_TEMPLATES))


def erase_by_negative_guidance(variant: str) -> Callable[..., dict[str, Any]]:
    """ESD of cross-attention ("x") or of everything else ("u")."""

    def run(pipe: StableDiffusionPipeline, concept: str, seed: int, extra: dict[str, Any]) -> dict[str, Any]:
        settings = {**ESD_SETTINGS[variant], **extra}
        esd(pipe, concept_prompts(concept), seed=seed, **settings)
        return {"settings": settings}

    return run


def erase_by_closed_form(instead: dict[str, str] | None) -> Callable[..., dict[str, Any]]:
    """To the empty prompt's answer, or to that of another garment or colour."""

    def run(pipe: StableDiffusionPipeline, concept: str, seed: int, extra: dict[str, Any]) -> dict[str, Any]:
        other = None if instead is None else instead[concept]
        uce(pipe, closed_form_edits(concept, other), closed_form_keep(concept), **{**UCE_SETTINGS, **extra})
        return {"settings": {**UCE_SETTINGS, **extra, "instead": other or ""}}

    return run


def closed_form_edits(concept: str, other: str | None) -> list[tuple[str, str, str]]:
    """(prompt, its last word of the concept, prompt to answer instead). A colour is edited together with what it colours."""
    if concept in COLOUR_NAMES:
        return [(concept, concept, other or "")] + [
            (make_prompt(template, noun, concept), concept, make_prompt(template, noun, other))
            for noun in (*CLASS_NAMES, "something")
            for template in ("{bare}", "a photo of {one}")
        ]
    edits = [(fill(template, concept), fill(template, other) if other else "") for template in CONCEPT_TEMPLATES]
    return [(prompt, prompt.split()[-1], instead) for prompt, instead in dict.fromkeys(edits)]


def closed_form_keep(concept: str) -> list[str]:
    nouns = [noun for noun in CLASS_NAMES if noun != concept]
    colours = [colour for colour in COLOUR_NAMES if colour != concept]
    plain = [make_prompt(template, noun) for template in ("{bare}", "a photo of {one}") for noun in nouns]
    return ["", *colours, *plain, *(make_prompt("a photo of {one}", noun, colour) for noun in nouns for colour in colours)]


REMOVAL_TRIM: dict[str, Any] = {"trim_ratio": 0.005, "reinit_target_modules": ["*"]}


PAPER: dict[str, Any] = {"recipe": "small-diffusion-class"}


def with_random_mask(**settings: Any) -> Callable[..., dict[str, Any]]:
    """`erase_concept` with ``settings``, and as many weights cut as they say, but by chance."""

    def run(pipe: StableDiffusionPipeline, concept: str, seed: int, extra: dict[str, Any]) -> dict[str, Any]:
        with random_mask(seed):
            return erase_ours(**settings)(pipe, concept, seed, extra)

    return run


METHODS: dict[str, Callable[..., dict[str, Any]] | None] = {
    "original": None,
    "control": None,  # never saw the concept; of some concepts only
    "default": erase_ours(),  # removal of things, words led elsewhere of looks
    "removal": erase_ours(**REMOVAL),
    "removal-trim": erase_ours(**REMOVAL, **REMOVAL_TRIM),
    "removal-random-mask": with_random_mask(**REMOVAL, **REMOVAL_TRIM),
    "removal-no-projection": erase_ours(**REMOVAL, projection=False),
    "removal-no-adversary": erase_ours(**REMOVAL, adversarial_states=0),
    "removal-bayes": erase_ours(**REMOVAL, removal_target="bayes", removal_cap=2.0),
    "removal-constant-strength": erase_ours(**REMOVAL, removal_target="bayes", removal_strength=1.0),
    "removal-no-neighbours": erase_ours(**REMOVAL, removal_target="bayes", removal_cap=2.0, neighbours=0),
    "words": erase_ours(**WORDS),
    "words-trim": erase_ours(**WORDS, trim_ratio=TRIM_RATIO),
    "words-random-mask": with_random_mask(**WORDS, trim_ratio=TRIM_RATIO),
    "words-no-overshoot": erase_ours(**WORDS, closed_form_overshoot=0.0),
    "words-look-ahead": erase_ours(**WORDS, sharpness_radius=0.01, memory_every=5),
    "words-projection": erase_ours(**WORDS, projection=True, memory_every=5),
    "words-negative-guidance": erase_ours(
        **WORDS, forget_objective="negative_guidance", learning_rate=3e-4, sharpness_radius=0.05, memory_every=5
    ),
    "words-real-data": erase_with_real_data,
    "paper": erase_ours(**PAPER),
    "paper-no-trim": erase_ours(**PAPER, trim_ratio=0.0),
    "paper-random-mask": with_random_mask(**PAPER),
    "paper-plain-saliency": erase_ours(**PAPER, saliency="forget"),
    "paper-no-projection": erase_ours(**PAPER, projection=False),
    "paper-redirect": erase_ours(recipe="small-diffusion-nudity"),
    "paper-as-published": erase_ours(recipe="stable-diffusion-class"),
    "esd-x": erase_by_negative_guidance("x"),
    "esd-u": erase_by_negative_guidance("u"),
    "uce": erase_by_closed_form(None),
    "uce-other": erase_by_closed_form(OTHER),
}


# ---- One run ----


def run(method: str, concept: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Erase, measure, relearn."""
    count, extra = options.images, options.settings
    pipe = load_pipeline(CONTROLS[concept] if method == "control" else PIPELINE, options.device)
    result: dict[str, Any] = {"method": method, "concept": concept, "seed": seed, "images_per_prompt": count, **SAMPLING}
    result["device"] = torch.cuda.get_device_name() if pipe.device.type == "cuda" else pipe.device.type
    erase = METHODS[method]
    if erase is not None:
        warm_up(pipe)
        cost: dict[str, float] = {}
        with measured(cost):
            account = erase(pipe, concept, seed, extra)
        result |= {**cost, "extra_settings": extra, "erasure": account}
    pipe.unet.eval()
    result |= measure(pipe, concept, seed, count, options.output / "original_pictures")
    if options.probe_images:
        result["probes"] = probe(pipe, concept, seed, options.probe_images)
    if method != "original":
        weights = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
        result["relearning"] = relearn(pipe, concept, seed, count)
        pipe.unet.load_state_dict(weights)
        result["relearning_new_word"] = relearn(pipe, concept, seed, count, NEW_WORD)
    return result


def measure(pipe: StableDiffusionPipeline, concept: str, seed: int, count: int, cache: Path) -> dict[str, Any]:
    """Shares for each question, losses on real test images, and Fréchet distances of kept prompts' pictures."""
    asked = questions(concept)
    pictures = draw(pipe, list(dict.fromkeys(question.prompt for question in asked)), count, seed)
    # A garment asked for in an erased colour is a kept question on prompts that are to change: not among the distances.
    kept = [q.prompt for q in asked if q.part == "kept" and concept not in q.prompt.split()]
    same, other = (draw_original(cache, kept, count, number, pipe.device) for number in (seed, seed + 1000))
    after, before, elsewhere = (
        judge_features([image for prompt in kept for image in part[prompt]]) for part in (pictures, same, other)
    )
    other_words = reworded(concept)
    texts = [question.prompt for question in other_words]
    drawn = draw_original(cache, texts, 6, seed, pipe.device), draw(pipe, texts, 6, seed)
    seen = [shares(part, other_words) for part in drawn]
    return {
        "reworded": {"before": float(np.mean(seen[0])), "after": float(np.mean(seen[1]))},
        "scores": [
            {"prompt": question.prompt, "label": question.label, "part": question.part, "share": share}
            for question, share in zip(asked, shares(pictures, asked), strict=True)
        ],
        "kept_loss": held_out_loss(pipe, real_images("t10k", HELD_OUT_IMAGES, 0, without=concept)),
        "concept_loss": held_out_loss(pipe, real_images("t10k", 500, 0, only=concept)),
        "frechet": {
            "between_seeds": frechet_distance(before, elsewhere),
            "after_to_other_seed": frechet_distance(after, elsewhere),
            "after_to_same_seed": frechet_distance(after, before),
        },
    }


def warm_up(pipe: StableDiffusionPipeline) -> None:
    """Whatever libraries allocate once, so that it is not counted as the method's."""
    draw(pipe, ["bag"], 2, 0)
    latents, states = encode(pipe, real_images("t10k", 2, 0))
    denoising_loss(pipe, latents, states, torch.Generator().manual_seed(0)).backward()
    pipe.unet.zero_grad(set_to_none=True)


@contextmanager
def measured(cost: dict[str, float]) -> Iterator[None]:
    """Seconds by the clock and of the CPU, and the peak of resident memory on top of what was there (MB; Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget earlier peaks
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    cost |= {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    cost["peak_megabytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident) / 1e6


# ---- All runs ----


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/erasure"))
    parser.add_argument(
        "--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD", help=", ".join(METHODS)
    )
    parser.add_argument(
        "--concepts", nargs="+", default=list(CONCEPTS), choices=[*CLASS_NAMES, *COLOUR_NAMES], metavar="CONCEPT"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=50, help="pictures for each prompt")
    parser.add_argument("--probe-images", type=int, default=100, help="pictures for each share of the probes; 0: no probes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON with further settings of the method")
    parser.add_argument("--label", default="", help="ending of the method's name in the results, to tell --settings apart")
    parser.add_argument("--table", action="store_true", help="run nothing: print tables of what is there, draw relearning.png")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if options.table:
        from erasure_table import print_tables

        print_tables(options.output, options.concepts)
        return
    torch.set_num_threads(options.threads)
    datasets.disable_progress_bars()
    options.output.mkdir(parents=True, exist_ok=True)
    # Method by method within a concept and seed: after any whole number of them, methods can be compared.
    jobs = [
        (m, c, s) for s in options.seeds for c in options.concepts for m in options.methods if m != "control" or c in CONTROLS
    ]
    failures = 0
    for method, concept, seed in tqdm(jobs, desc="runs"):
        name = method + options.label
        target = options.output / f"{name}_{concept.replace(' ', '-')}_{seed}.json"
        with claimed(target) as mine:
            if not mine or target.exists():
                continue
            try:
                result = run(method, concept, seed, options)
            except Exception:  # the other runs are worth having
                failures += 1
                tqdm.write(f"{target.name} failed:\n{traceback.format_exc()}")
                continue
            partial = target.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps({**result, "method": name}, indent=1) + "\n")
            os.replace(partial, target)
            tqdm.write(f"{target.name}: {summary(result)}")
    if failures:
        sys.exit(f"{failures} runs failed")


def summary(result: dict[str, Any]) -> str:
    parts = {
        part: np.mean([score["share"] for score in result["scores"] if score["part"] == part])
        for part in ("concept", "paraphrase", "kept")
    }
    text = ", ".join(f"{part} {share:.1f} %" for part, share in parts.items()) + f", kept loss {result['kept_loss']:.4f}"
    if "seconds" in result:
        text += f", {result['seconds']:.0f} s, {result['peak_megabytes']:.0f} MB"
    if "relearning" in result:
        text += ", relearned " + "/".join(f"{share:.0f}" for share in result["relearning"]["curve"].values())
    return text


if __name__ == "__main__":
    main()
