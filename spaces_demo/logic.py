"""What the pages of the Space do, without gradio: one object that a page's events call, and tests, too.

    bench = Workbench()
    for status in bench.erase("page-1", "dress"):          # Status objects; the last one's result is an `Erased`
        ...
    bench.compare("page-1", "a photo of a red dress", seed=3)

A page is named by its session hash, and sees what is its own alone.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scissorhands_hf.trainer.run_progress import RunProgress
from spaces_demo import publish
from spaces_demo.jobs import Estimator, Status, watch
from spaces_demo.limits import (
    GUIDANCE,
    MOST_IMAGES,
    PROBE_PICTURES,
    SAMPLING_STEPS,
    SEEDS,
    CancelledError,
    RefusedError,
    check_erase,
    check_number,
    check_text,
)
from spaces_demo.models import Source, find_model, give_memory_back, shipped, work_root
from spaces_demo.sessions import Session, SessionStore
from spaces_demo.tasks import (
    SHIPPED_SAMPLING,
    Attack,
    Comparison,
    Erased,
    attack_prompts,
    draw_events,
    erase_events,
    import_libraries,
    judge_for,
    probe_events,
    recipe_names,
)


logger = logging.getLogger(__name__)

# Stages with the share of the time that each usually takes; every finished run corrects it.
CLASSIFIER_STAGES = {"original": 3, "sensitivity": 1, "repair": 7, "report": 3}
AUTHOR_STAGES = {"load": 1, "sensitivity": 0.2, "repair": 8, "ask": 2, "audit": 13, "files": 0.5}
ASK_STAGES = {"ask": 1}
DOWNLOAD_STAGES = {"download": 1}
ATTACK_IMAGES = 4
# What can be published.
PIPELINE, LANGUAGE_MODEL = "pipeline", "language model"
NO_PIPELINE = "There is no unlearned model yet. Erase a concept first; models of visitors who were away long are given back."
NO_AUTHOR = "No author was forgotten yet. Let the language model forget one first."
# How long, and in how many steps, a reloaded page waits for its old connection to close.
RETURN_ATTEMPTS, RETURN_SECONDS = 20, 0.25


@dataclass(frozen=True)
class Made:
    """A model of a session that can be published: its folder, and what was taken from it."""

    folder: Path
    names: tuple[str, ...]


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
        self.author_estimator = Estimator(AUTHOR_STAGES)

    def close(self) -> None:
        """Delete all that is on disk."""
        self.sessions.close()
        shutil.rmtree(self.root, ignore_errors=True)

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
            source = shipped()
            for status in self._find(session, model, hub_id):
                if status.finished:
                    source = status.result
                else:
                    yield status
            for status in erase_events(session.model_folder, source, settings):
                if status.finished:
                    # Pictures are for the page that asked; kept for all sessions they would fill the memory.
                    session.erased = replace(status.result, report=replace(status.result.report, pictures={}))
                    session.latest = PIPELINE
                yield status

    def handle(self, page: str) -> str | None:
        """The secret by which this visitor's browser gets the session back after a reload; None where there is nothing yet."""
        session = self.sessions.get(page)
        return None if session.empty else session.handle

    def come_back(self, page: str, handle: str | None) -> list[str] | None:
        """Hand the session with this handle to a page that was loaded anew: what was forgotten in it, None if there is none.

        The old page's connection may take a moment to be seen as closed. One that stays open is another tab's and left alone.
        """
        if not isinstance(handle, str) or not self.sessions.knows(handle):
            return None
        for _ in range(RETURN_ATTEMPTS):
            session = self.sessions.claim(page, handle)
            if session is not None:
                concepts = list(session.erased.settings.concepts) if session.erased is not None else []
                return [*concepts, *([session.forgotten.name] if session.forgotten is not None else [])] or None
            time.sleep(RETURN_SECONDS)
        return None

    def expect(self, page: str) -> None:
        """A run of this page is about to wait for its turn: from now on it can be cancelled."""
        session = self.sessions.get(page)
        if not session.running:
            session.waiting = True
            session.cancel.clear()

    def cancel(self, page: str) -> bool:
        """Stop what this page started or has waiting; says whether there was something."""
        session = self.sessions.get(page)
        if not session.running and not session.waiting:
            return False
        session.cancel.set()
        return True

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
            for status in draw_events(session.model_folder, erased.source, [(prompt, "concept", None)], images, seed, sampling):
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
            for prompt in attack_prompts(concept, erased.report)
        ]
        with self._working(session):
            for status in draw_events(
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

    def probe(self, page: str, concept: str | None = None, pictures: float = 16, seed: float = 0) -> Iterator[Status]:
        """Ask whether a concept is gone from the weights of what this page erased. The last status has a `Probed`.

        Args:
            page: session hash.
            concept: one of those erased; the first of them where it is left out.
            pictures: of each share.
            seed: of everything that is drawn or learned.
        """
        seed = check_number(seed, "The seed", *SEEDS, whole=True)
        pictures = check_number(pictures, "The number of pictures", *PROBE_PICTURES, whole=True)
        session, erased = self._erased(page)
        names = erased.settings.concepts
        chosen = check_text(concept, "The concept") if (concept or "").strip() else names[0]
        if chosen not in names:
            raise RefusedError(f"{chosen[:60]!r} was not erased here; probes look for one of: {', '.join(names)}.")
        judge = judge_for(erased.source)
        if judge is None or not judge.knows(chosen):
            raise RefusedError(
                f"Probes count the pictures that show {chosen[:60]!r}, and no judge here knows it: the shipped one knows the "
                "garments and colours of the shipped pipeline."
            )
        with self._working(session):
            yield from probe_events(session.model_folder, erased.source, chosen, pictures, seed)

    # ---- Publish ----

    def card(
        self, page: str, repository: str | None, disclosure: str | None, card: Mapping[str, Any], which: str | None = None
    ) -> tuple[str, str]:
        """The card of what this page made, as it would be pushed: Markdown with front matter; and the same with pictures.

        Args:
            page: session hash.
            repository, disclosure, card: see :func:`~spaces_demo.publish.check_choices`.
            which: :data:`PIPELINE` or :data:`LANGUAGE_MODEL`; the one made last where it is left out.
        """
        choices = publish.check_choices(repository, disclosure, card)
        session, made = self._made(page, which)
        with self._working(session):
            text = publish.card_of(made.folder, choices)
            return text, publish.with_pictures(text, made.folder)

    def zip(self, page: str, disclosure: str | None, card: Mapping[str, Any], which: str | None = None) -> Iterator[Status]:
        """What a push would upload, as a zip. The last status has its path."""
        choices = publish.check_choices(None, disclosure, card)
        session, made = self._made(page, which)
        target = session.file(f"{_file_name('without-' + '-'.join(made.names))}.zip")
        with self._working(session):
            yield from watch(
                lambda tell: publish.make_zip(made.folder, target, choices, tell),
                Estimator(publish.ZIP_STAGES),
                session.cancel,
            )

    def push(
        self,
        page: str,
        repository: str | None,
        visibility: str | None,
        disclosure: str | None,
        card: Mapping[str, Any],
        token: str | None,
        which: str | None = None,
    ) -> Iterator[Status]:
        """Push what this page made in the visitor's name. The last status has a `Pushed`."""
        if not token:
            raise RefusedError("Sign in first: a push needs your account. Or download the zip.")
        choices = publish.check_choices(repository, disclosure, card, needed=True)
        if visibility not in ("private", "public"):
            raise RefusedError("Choose whether the repository is private or public.")
        session, made = self._made(page, which)
        with self._working(session):
            yield from watch(
                lambda tell: publish.push(made.folder, choices, private=visibility == "private", token=token, tell=tell),
                Estimator(publish.PUSH_STAGES),
                session.cancel,
                alone=False,
            )

    # ---- Classifier ----

    def forget_class(self, page: str, name: str | None, seed: float = 0) -> Iterator[Status]:
        """Make a fresh copy of the shipped classifier forget a class. The last status has a `ForgottenClass`."""
        import_libraries()
        from spaces_demo.classifier import forget_class

        session = self.sessions.get(page)
        with self._working(session):
            yield from watch(
                lambda tell: forget_class(name, work=session.folder / "classifier", seed=seed, callback=tell),
                self.classifier_estimator,
                session.cancel,
            )
            give_memory_back()

    # ---- Language model ----

    def forget_author(self, page: str, name: str | None, seed: float = 0) -> Iterator[Status]:
        """Make a fresh copy of the shipped language model forget an author. The last status has a `ForgottenAuthor`."""
        import_libraries()
        from spaces_demo.authors import forget_author

        session = self.sessions.get(page)
        with self._working(session):
            for status in watch(
                lambda tell: forget_author(name, session.language_folder, seed=seed, callback=tell),
                self.author_estimator,
                session.cancel,
            ):
                if status.finished:
                    session.forgotten, session.latest = replace(status.result, card=""), LANGUAGE_MODEL
                yield status
            give_memory_back()

    def audit_plot(self, page: str) -> Path:
        """The picture of the figures of what this page's language model forgot."""
        from spaces_demo.authors import AUDIT_PLOT

        session = self.sessions.get(page)
        if session.forgotten is None:
            raise RefusedError(NO_AUTHOR)
        return session.language_folder / AUDIT_PLOT

    def ask(self, page: str, question: str | None) -> Iterator[Status]:
        """Ask the original, this page's model and, where it never knew the author, the control. The last status: answers by
        model."""
        import_libraries()
        from spaces_demo.authors import ask_all, question_tokens

        question_tokens(question)
        session = self.sessions.get(page)
        if session.forgotten is None:
            raise RefusedError(NO_AUTHOR)
        controlled = session.forgotten.controlled
        with self._working(session):
            yield from watch(
                lambda tell: ask_all(question, session.language_folder, controlled, tell), Estimator(ASK_STAGES), session.cancel
            )

    # ---- What the methods share ----

    def _find(self, session: Session, model: str | None, hub_id: str | None) -> Iterator[Status]:
        """Look the model up, and download it, beside the worker: it mostly waits for the network."""

        def task(tell: Any) -> Source:
            tell(RunProgress("download", 0, 1))
            return find_model(model, hub_id, self.root / "downloads", self.endpoint)

        if not (hub_id or "").strip():  # nothing to fetch
            yield Status([], finished=True, result=find_model(model, None, self.root, self.endpoint))
            return
        yield from watch(task, Estimator(DOWNLOAD_STAGES), session.cancel, alone=False)

    def _erased(self, page: str) -> tuple[Session, Erased]:
        session = self.sessions.get(page)
        if session.erased is None:
            raise RefusedError(NO_PIPELINE)
        return session, session.erased

    def _made(self, page: str, which: str | None) -> tuple[Session, Made]:
        """What is to be published."""
        session = self.sessions.get(page)
        which = which or session.latest or PIPELINE
        if which == PIPELINE:
            session, erased = self._erased(page)
            return session, Made(session.model_folder, erased.settings.concepts)
        if which != LANGUAGE_MODEL:
            raise RefusedError(f"Choose what to publish: {PIPELINE} or {LANGUAGE_MODEL}.")
        if session.forgotten is None:
            raise RefusedError(NO_AUTHOR)
        return session, Made(session.language_folder, (session.forgotten.name,))

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


def _file_name(text: str) -> str:
    """A plain file name from anything: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "model"


class _Working:
    """A session at work: its folder stays, and one run of it at a time, as a second would write the same files."""

    _lock = threading.Lock()

    def __init__(self, bench: Workbench, session: Session):
        self.bench, self.session = bench, session

    def __enter__(self) -> None:
        with self._lock:
            if self.session.running:
                raise RefusedError("Something of yours is still running; wait for it, or press Cancel.")
            waited, self.session.waiting = self.session.waiting, False
            if waited and self.session.cancel.is_set():
                self.session.cancel.clear()
                raise CancelledError("Cancelled before it began.")
            self.session.cancel.clear()
            self.session.running += 1

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
