"""What the pages of the Space do, without gradio: one object that a page's events call, and tests, too.

    bench = Workbench()
    for status in bench.erase("page-1", "dress"):          # Status objects; the last one's result is an `Erased`
        ...
    bench.compare("page-1", "a photo of a red dress", seed=3)

A page is named by its session hash, and sees what is its own alone. Heavy libraries are imported in the functions that need
them, so that the first view does not wait for them.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaces_demo.gpu import gpu
from spaces_demo.jobs import CancelFlag, Estimator, Progress, ProgressLike, Status, watch
from spaces_demo.limits import (
    GUIDANCE,
    MOST_IMAGES,
    SAMPLING_STEPS,
    SEEDS,
    CancelledError,
    EraseSettings,
    RefusedError,
    check_erase,
    check_number,
    check_text,
)
from spaces_demo.models import PipelineCache, Source, find_model, give_memory_back, load_pipeline, work_root
from spaces_demo.sessions import Session, SessionStore


if TYPE_CHECKING:
    from PIL.Image import Image

    from scissorhands_hf.audit.concept_report import ConceptErasureReport, PromptScore

logger = logging.getLogger(__name__)

# Stages with the share of the time that each usually takes on the shipped pipeline; every finished run corrects it.
ERASE_STAGES = {"load": 1, "pictures": 9, "targets": 3, "sensitivity": 1, "repair": 20, "report": 6, "files": 1}
CLASSIFIER_STAGES = {"original": 3, "sensitivity": 1, "repair": 7, "report": 3}
DRAWING_STAGES = {"drawing": 1}
# How the shipped pipeline is sampled from; pipelines from the Hub have their own defaults.
SHIPPED_SAMPLING = {"num_inference_steps": 25, "guidance_scale": 4.0}
GPU_SECONDS = {"erase": 300, "draw": 60}
ATTACK_IMAGES = 4

_cache = PipelineCache()


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


def recipe_names() -> list[str]:
    """Recipes for diffusion pipelines, those of the paper's reference last."""
    from scissorhands_hf.recipes import RECIPES

    names = [name for name, settings in RECIPES.items() if settings.get("forget_objective") is not None]
    return sorted(names, key=lambda name: name.startswith("stable-diffusion"))


# Beyond the package's own paraphrases: other frames, and the concept as a part of something or in a colour.
ATTACK_TEMPLATES = (
    "{one} for sale",
    "a shop with {many}",
    "one {}",
    "a red {}",
    "a small photo of a blue {}",
    "an image showing {one}",
)


def paraphrases(concept: str) -> list[str]:
    """Wordings of a concept that its erasure did not train on."""
    from scissorhands_hf.pipelines.prompts import PARAPHRASE_TEMPLATES, fill

    texts = [fill(template, concept) for template in (*PARAPHRASE_TEMPLATES, *ATTACK_TEMPLATES)]
    return list(dict.fromkeys(text for text in texts if text))


def judge_for(source: Source) -> Any:
    """Who looks at the pictures: the shipped judge at the shipped pipeline's; for others only the change is measured."""
    if not source.shipped:
        return None
    from spaces_demo.judge import FashionJudge

    return FashionJudge()


@gpu(GPU_SECONDS["erase"])
def _erase_events(folder: Path, source: Source, settings: EraseSettings) -> Iterator[Status]:
    """Erase from a fresh copy of the source and leave the pipeline in the folder. Runs in another process on ZeroGPU."""
    yield from watch(lambda tell: _erase(folder, source, settings, tell), Estimator(ERASE_STAGES), CancelFlag(folder.parent))


def _erase(folder: Path, source: Source, settings: EraseSettings, tell: Callable[[ProgressLike], None]) -> Erased:
    import torch

    from scissorhands_hf import erase_concept
    from scissorhands_hf.monitoring import UnlearningDivergedError

    tell(Progress("load", 0, 1))
    pipe = load_pipeline(source.folder)
    config = {
        "trim_ratio": settings.trim_ratio,
        "forget_weight": settings.forget_weight,
        "max_steps": settings.steps,
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
            **{name: value for name, value in config.items() if value is not None},
        )
        tell(Progress("files", 0, 1))
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        pipe.save_pretrained(partial)
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
def _draw_events(
    folder: Path, source: Source, prompts: list[tuple[str, str, str | None]], images: int, seed: int, sampling: dict[str, Any]
) -> Iterator[Status]:
    """Draw prompts with the original and the unlearned pipeline and score them; the result: pictures of both, and scores."""

    def task(tell: Callable[[ProgressLike], None]) -> tuple[dict, dict, list[PromptScore]]:
        from scissorhands_hf.audit.concept_audit import AuditPrompt, compare_pictures, draw_pictures

        total, pictures = 2 * len(prompts) * images, []
        for number, place in enumerate((source.folder, folder)):
            tell(Progress("drawing", number * total // 2, total))
            pictures.append(
                draw_pictures(
                    _cache.get(place),
                    [prompt for prompt, _, _ in prompts],
                    images_per_prompt=images,
                    seed=seed,
                    sampling=sampling,
                    batch_size=16 if source.shipped else 1,
                    on_batch=lambda done, _, before=number * total // 2: tell(Progress("drawing", before + done, total)),
                )
            )
        scores = []
        if images > 1:
            scores = compare_pictures([AuditPrompt(*prompt) for prompt in prompts], *pictures, judge_for(source))
        return *pictures, scores

    yield from watch(task, Estimator(DRAWING_STAGES), CancelFlag(folder.parent))


class Workbench:
    """Sessions and what they may do. Every method takes the page's session hash first.

    Args:
        root: folder for visitors' things; a private one under the machine's temporary folder by default.
        endpoint: of the Hub; the configured one by default.
    """

    def __init__(self, root: Path | None = None, endpoint: str | None = None, **limits: Any):
        self.root = root or work_root()
        self.endpoint = endpoint
        self.sessions = SessionStore(self.root / "sessions", **limits)
        self.classifier_estimator = Estimator(CLASSIFIER_STAGES)

    def close(self) -> None:
        """Delete all that is on disk."""
        self.sessions.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def warm_up(self) -> None:
        """Import what the pages need, while the visitor reads."""
        import diffusers  # noqa: F401

        import scissorhands_hf  # noqa: F401
        from spaces_demo import classifier  # noqa: F401

    # ---- Erase ----

    def erase(
        self, page: str, concepts: str | None, anchor: str | None = None, keep: str | None = None, *,
        model: str | None = None, hub_id: str | None = None, **advanced: Any,
    ) -> Iterator[Status]:  # fmt: skip
        """Erase concepts from this page's own copy of a pipeline.

        Args:
            page: session hash.
            concepts, anchor, keep, advanced: see :func:`~spaces_demo.limits.check_erase`.
            model, hub_id: see :func:`~spaces_demo.models.find_model`.

        Yields:
            How far it is; the last status has the `Erased` with pictures.

        Raises:
            RefusedError: with a message for the visitor.
            CancelledError: by :meth:`cancel`, or as the visitor left.
        """
        settings = check_erase(concepts, anchor, keep, recipes=recipe_names(), **advanced)
        session = self.sessions.get(page)
        with self._working(session):
            source = find_model(model, hub_id, self.root / "downloads", self.endpoint)
            for status in _erase_events(session.model_folder, source, settings):
                if status.finished:
                    # Pictures are for the page that asked; kept for all sessions they would fill the memory.
                    session.erased = replace(status.result, report=replace(status.result.report, pictures={}))
                yield status

    def cancel(self, page: str) -> bool:
        """Stop what this page started; says whether there was something."""
        session = self.sessions.get(page)
        if session.running:
            session.cancel.set()
        return bool(session.running)

    # ---- Compare ----

    def compare(
        self, page: str, prompt: str | None, seed: float = 0, images: float = 4, steps: float | None = None,
        guidance: float | None = None,
    ) -> Iterator[Status]:  # fmt: skip
        """Draw a prompt with the original and with what this page erased. The last status has a `Comparison`."""
        prompt = check_text(prompt, "The prompt")
        seed = check_number(seed, "The seed", *SEEDS, whole=True)
        images = check_number(images, "The number of images", 1, MOST_IMAGES, whole=True)
        session, erased = self._erased(page)
        sampling = self._sampling(erased.source, steps, guidance)
        with self._working(session):
            for status in _draw_events(
                session.model_folder, erased.source, [(prompt, "concept", None)], images, seed, sampling
            ):
                if status.finished:
                    original, unlearned, scores = status.result
                    score = scores[0] if scores else None
                    status = replace(status, result=Comparison(prompt, original[prompt], unlearned[prompt], score))
                yield status

    def attack(self, page: str, seed: float = 0) -> Iterator[Status]:
        """Ask for the concept in other words; find the wording that brings most of it back. The last status: an `Attack`."""
        seed = check_number(seed, "The seed", *SEEDS, whole=True)
        session, erased = self._erased(page)
        judge = judge_for(erased.source)
        prompts = [
            (prompt, "paraphrase", concept if judge is not None and judge.knows(concept) else None)
            for concept in erased.settings.concepts
            for prompt in paraphrases(concept)
        ]
        with self._working(session):
            for status in _draw_events(
                session.model_folder, erased.source, prompts, ATTACK_IMAGES, seed, self._sampling(erased.source)
            ):
                if status.finished:
                    original, unlearned, scores = status.result
                    scores = sorted(scores, key=lambda score: (-(score.unlearned or 0.0), score.change))
                    worst = scores[0]
                    shown = Comparison(worst.prompt, original[worst.prompt], unlearned[worst.prompt], worst)
                    judged = worst.unlearned is not None
                    status = replace(status, result=Attack(scores, shown, judged))
                yield status

    # ---- Classifier ----

    def forget_class(self, page: str, name: str | None, seed: float = 0) -> Iterator[Status]:
        """Make a fresh copy of the shipped classifier forget a class. The last status has a `ForgottenClass`."""
        from spaces_demo.classifier import forget_class

        session = self.sessions.get(page)
        with self._working(session):
            yield from watch(
                lambda tell: forget_class(name, work=session.folder / "classifier", seed=seed, callback=tell),
                self.classifier_estimator,
                session.cancel,
            )
            give_memory_back()

    # ---- What the methods share ----

    def _erased(self, page: str) -> tuple[Session, Erased]:
        session = self.sessions.get(page)
        if session.erased is None:
            raise RefusedError(
                "There is no unlearned model yet. Erase a concept first; models of visitors who were away long are given back."
            )
        return session, session.erased

    @staticmethod
    def _sampling(source: Source, steps: float | None = None, guidance: float | None = None) -> dict[str, Any]:
        chosen = {
            "num_inference_steps": check_number(steps, "The number of sampling steps", *SAMPLING_STEPS, whole=True),
            "guidance_scale": check_number(guidance, "The guidance scale", *GUIDANCE),
        }
        default = SHIPPED_SAMPLING if source.shipped else {"num_inference_steps": 25}
        return {**default, **{name: value for name, value in chosen.items() if value is not None}}

    def _working(self, session: Session) -> _Working:
        return _Working(self, session)


class _Working:
    """A session at work: its folder stays, and one run of it at a time, as a second would write the same files."""

    _lock = threading.Lock()

    def __init__(self, bench: Workbench, session: Session):
        self.bench, self.session = bench, session

    def __enter__(self) -> None:
        with self._lock:
            if self.session.running:
                raise RefusedError("Something of yours is still running; wait for it, or press Cancel.")
            self.session.running += 1
        self.session.cancel.clear()

    def __exit__(self, *exception: Any) -> None:
        with self._lock:
            self.session.running -= 1
        self.session.cancel.clear()


def explain(error: BaseException) -> str:
    """A plain sentence for the visitor. What went wrong inside is for the log, and may name paths: it is not shown."""
    if isinstance(error, RefusedError):
        return str(error)
    if isinstance(error, CancelledError):
        return "Cancelled. The model is as it was."
    logger.error("A run failed", exc_info=error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "This machine has too little memory for that model. Choose a smaller one."
    return f"Something went wrong here ({type(error).__name__}). The model is as it was; try again, or try other settings."
