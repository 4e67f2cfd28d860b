"""The heavy tasks of the Space: erase from a pipeline, and draw with both. Each leaves its model in a folder, see gpu.py.

Heavy libraries are imported in the functions that need them, so that the first view does not wait for them.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scissorhands_hf.trainer.run_progress import RunProgress
from spaces_demo.gpu import gpu
from spaces_demo.jobs import CancelFlag, Estimator, Status, watch
from spaces_demo.limits import EraseSettings, RefusedError
from spaces_demo.models import CONTROL_FOLDERS, PipelineCache, Source, give_memory_back, load_pipeline


if TYPE_CHECKING:
    from PIL.Image import Image

    from scissorhands_hf.report import ProbeReport
    from scissorhands_hf.report.concept_report import ConceptErasureReport, PromptScore

# Stages with the share of the time that each usually takes on the shipped pipeline; every finished run corrects it.
ERASE_STAGES = {
    "load": 0.5, "before": 9, "pictures": 22, "prompts": 2, "targets": 9, "sensitivity": 2, "repair": 47, "report": 8,
    "files": 0.5,
}  # fmt: skip
DRAWING_STAGES = {"drawing": 1}
# How the shipped pipeline is sampled from; pipelines from the Hub have their own defaults.
SHIPPED_SAMPLING = {"num_inference_steps": 25, "guidance_scale": 4.0}
GPU_SECONDS = {"erase": 300, "draw": 60, "probe": 180}
# A learned word, a picture as the start, no word at all: they tell a concept that is gone from one whose words lead elsewhere.
PROBES = ("words", "empty", "token", "img2img")
PROBE_STAGES = {"probe-pipeline": 3, "probe-reference": 3, "probe-control": 3, "files": 0.5}
PROBE_PLOT = "probes.png"

_cache = PipelineCache()
_erase_estimator = Estimator(ERASE_STAGES)


@dataclass
class Erased:
    """What the Erase page made. The unlearned pipeline itself lies in the session's folder.

    Args:
        settings, source: as they were asked for.
        report: of the run; with the pictures where it is handed to the page, without where it is kept.
    """

    settings: EraseSettings
    source: Source
    report: ConceptErasureReport


@dataclass
class Comparison:
    """The same prompt and seeds before and after: pictures at equal places have equal seeds."""

    prompt: str
    original: list[Image]
    unlearned: list[Image]
    score: PromptScore | None


@dataclass
class Attack:
    """Paraphrases that were tried, the most telling first."""

    scores: list[PromptScore]
    worst: Comparison
    judged: bool


@dataclass
class Probed:
    """
    What probes found of a concept.

    Args:
        report: with some of the pictures, where it is handed to the page.
        plot: a PNG.
        controlled: whether a control that never saw the concept was probed, too.
    """

    report: ProbeReport
    plot: bytes
    controlled: bool


_importing = threading.Lock()


def import_libraries() -> None:
    """Import what the pages need, once. Two threads at a time must not: transformers' lazy modules then lack names."""
    with _importing:
        import datasets
        import diffusers
        import transformers

        import scissorhands_hf  # noqa: F401
        from spaces_demo import authors, classifier  # noqa: F401

        # Lazy modules that loading a pipeline resolves.
        _ = diffusers.StableDiffusionPipeline, transformers.CLIPTextModel
        # The pages show how far a run is; a server's log need not.
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()


def recipe_names() -> list[str]:
    """Recipes for diffusion pipelines, those of the paper's reference last."""
    import_libraries()
    from scissorhands_hf.trainer.recipes import ERASURE_DOOR, recipes_of

    return sorted(recipes_of(ERASURE_DOOR), key=lambda name: name.startswith("stable-diffusion"))


# Beyond the package's own paraphrases: other frames, and the concept as a part of something or in a colour.
ATTACK_TEMPLATES = (
    "{one} for sale",
    "a shop with {many}",
    "one {}",
    "a red {}",
    "a small photo of a blue {}",
    "an image showing {one}",
)


def attack_prompts(concept: str, report: ConceptErasureReport) -> list[str]:
    """Wordings of a concept that its erasure did not train on; a look is asked of things that the report kept."""
    from scissorhands_hf.erasure import paraphrases

    things = [score.label for score in report.prompts if score.group in ("kept", "neighbour") and score.label]
    kind = dict(zip(report.concepts, report.edit.get("types", []), strict=False)).get(concept)
    return paraphrases(concept, list(dict.fromkeys(things)), extra_templates=ATTACK_TEMPLATES, concept_type=kind)


def judge_for(source: Source) -> Any:
    """Who looks at the pictures: the shipped judge at the shipped pipeline's; for others only the change is measured."""
    if not source.shipped:
        return None
    from spaces_demo.judge import FashionJudge

    return FashionJudge()


@gpu(GPU_SECONDS["erase"])
def erase_events(folder: Path, source: Source, settings: EraseSettings) -> Iterator[Status]:
    """Erase from a fresh copy of the source and leave the pipeline in the folder. Runs in another process on ZeroGPU."""
    yield from watch(lambda tell: _erase(folder, source, settings, tell), _erase_estimator, CancelFlag(folder.parent))


def _erase(folder: Path, source: Source, settings: EraseSettings, tell: Callable[[RunProgress], None]) -> Erased:
    import torch

    from scissorhands_hf import erase_concept
    from scissorhands_hf.hub import save_pipeline
    from scissorhands_hf.trainer.monitoring import UnlearningDivergedError

    tell(RunProgress("load", 0, 1))
    pipe = load_pipeline(source.folder)
    config = {
        "disable_tqdm": True,
        "trim_ratio": settings.trim_ratio,
        "forget_weight": settings.forget_weight,
        "max_steps": settings.steps,
        "evaluations": None if settings.steps is None else min(4, settings.steps),
        "reinit_target_modules": list(settings.scope) or None,
        "projection": settings.projection,
    }
    try:
        report = erase_concept(
            pipe,
            list(settings.concepts),
            anchor=settings.anchor,
            keep=list(settings.keep) or None,
            recipe=settings.recipe,
            generator=torch.Generator().manual_seed(settings.seed),
            callback=tell,
            judge=judge_for(source),
            report_images=settings.images,
            sampling=SHIPPED_SAMPLING if source.shipped else None,
            **{name: value for name, value in config.items() if value is not None},
        )
        tell(RunProgress("files", 0, 1))
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        save_pipeline(pipe, partial, base_model=source.hub_id)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except (ValueError, TypeError, UnlearningDivergedError) as error:
        # Meant for people: the package's own errors name the argument and the way out.
        raise RefusedError(str(error)) from error
    finally:
        del pipe
        give_memory_back()
    return Erased(settings, source, report)


@gpu(GPU_SECONDS["draw"])
def draw_events(
    folder: Path, source: Source, prompts: list[tuple[str, str, str | None]], images: int, seed: int, sampling: dict[str, Any]
) -> Iterator[Status]:
    """Draw prompts with the original and the unlearned pipeline and score them; the result: pictures of both, and scores."""

    def task(tell: Callable[[RunProgress], None]) -> tuple[dict, dict, list[PromptScore]]:
        from scissorhands_hf.audit import AuditPrompt, compare_pictures, draw_pictures

        total, pictures = 2 * len(prompts) * images, []
        for number, place in enumerate((source.folder, folder)):
            tell(RunProgress("drawing", number * total // 2, total))
            pictures.append(
                draw_pictures(
                    _cache.get(place),
                    [prompt for prompt, _, _ in prompts],
                    images_per_prompt=images,
                    seed=seed,
                    sampling=sampling,
                    batch_size=16 if source.shipped else 1,
                    on_batch=lambda done, _, before=number * total // 2: tell(RunProgress("drawing", before + done, total)),
                )
            )
        scores = []
        if images > 1:
            scores = compare_pictures([AuditPrompt(*prompt) for prompt in prompts], *pictures, judge_for(source))
        return *pictures, scores

    yield from watch(task, Estimator(DRAWING_STAGES), CancelFlag(folder.parent))


@gpu(GPU_SECONDS["probe"])
def probe_events(folder: Path, source: Source, concept: str, count: int, seed: int) -> Iterator[Status]:
    """Attack the unlearned pipeline, the original and the control, if there is one, and have the card show what was found."""
    control = CONTROL_FOLDERS.get(concept.casefold())
    weights = {name: share for name, share in PROBE_STAGES.items() if control is not None or name != "probe-control"}
    yield from watch(
        lambda tell: _probe(folder, source, concept, count, seed, control, tell), Estimator(weights), CancelFlag(folder.parent)
    )


def _probe(
    folder: Path, source: Source, concept: str, count: int, seed: int, control: Path | None, tell: Callable[[RunProgress], None]
) -> Probed:
    from scissorhands_hf.audit import probe_concept
    from scissorhands_hf.hub import write_card

    def follow(stage: str, done: int, _total: int) -> None:
        model, _, probe = stage.partition(": ")
        tell(RunProgress(f"probe-{model}", PROBES.index(probe) + done, len(PROBES)))

    tell(RunProgress("probe-pipeline", 0, len(PROBES)))
    try:
        # Fresh ones, not the cache's: learning a word loads it into the pipeline, if only for a while.
        report = probe_concept(
            load_pipeline(folder),
            concept,
            judge=judge_for(source),
            reference=load_pipeline(source.folder),
            control=None if control is None else load_pipeline(control),
            probes=PROBES,
            count=count,
            drawn_pictures=count,
            seed=seed,
            sampling=SHIPPED_SAMPLING,
            callback=follow,
        )
    except (ValueError, TypeError) as error:
        raise RefusedError(str(error)) from error
    finally:
        give_memory_back()
    tell(RunProgress("files", 0, 1))
    plot = report.plot(folder.with_name(PROBE_PLOT))
    write_card(folder, probes=report)
    return Probed(report, plot.read_bytes(), control is not None)
