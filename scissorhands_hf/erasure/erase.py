"""`erase_concept`: from a pipeline and a word to a pipeline without it, and the report of what that did."""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from ..audit import AuditPrompt, Judge, audit_metrics, compare_pictures, draw_pictures
from ..audit.untouched import random_states_kept
from ..report import ConceptErasureReport
from ..trainer.checkpoints import library_versions
from ..trainer.run_progress import Reporter
from ..trainer.stage_callback import StageCallback
from ..trainer.trimming import NOTHING_TRIMMED
from .adapter import laid_over
from .adversarial_states import AdversarialStates
from .erasure_trainer import ConceptErasureTrainer, TrimmedBelow
from .estimate import ErasureEstimate
from .guard import activations_checkpointed, full_disk_told, in_float32, original_state, plain_torch, warn_of_shared_parts
from .material import Examples, Material, gather_edit, gather_material, make_examples
from .offloading import hooks_off, only_denoiser_on_device
from .progress import ErasureProgress
from .request import ErasureRequest
from .text_edit import TextEdit
from .workload import Workload


logger = logging.getLogger(__name__)

# Kept prompts that lose more than this, by a judge, are a warning (points); likewise pictures that move further than this
# share of the distance between two seeds.
MOST_POINTS_LOST = 5.0
MOST_KEPT_CHANGE = 1.0
# A run that does less than that share of what its objective asks for is a warning.
LEAST_CHANGE = 0.1


@plain_torch()
def erase_concept(
    pipe: Any,
    concept: str | Sequence[str],
    *,
    anchor: str | None = None,
    keep: Sequence[str] | None = None,
    forget_images: Any = None,
    retain_images: Any = None,
    recipe: str | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[ErasureProgress], None] | None = None,
    judge: Judge | str | None = None,
    report_images: int | None = None,
    sampling: dict[str, Any] | None = None,
    concept_type: str | Sequence[str | None] | None = None,
    dry_run: bool = False,
    **config: Any,
) -> ConceptErasureReport | ErasureEstimate:
    r"""
    Remove a concept from a diffusers text-to-image pipeline, in place, with no data but what the pipeline draws itself.

    Of a denoiser of up to 50M weights a thing of one word is taken out of what the denoiser makes of pictures (the recipe
    "removal"): noisy pictures of it, under its words, under none and under text states that bring it back, are to be taken for
    what is nearest to it, and everything else for what the original predicted. The gradient of repair is projected off what
    would make the model remember (Scissorhands, arXiv:2401.06187), and the weights that the concept depends on most are
    re-initialised first where that is asked for (`trim_ratio`).

    Of a larger denoiser, of looks, of a concept of several words, and with `anchor`, the concept's words are led elsewhere (the
    recipes "concept" and "compound"): layers that read text get, in closed form, new answers to its prompts, those of other
    prompts and beyond (after UCE, arXiv:2308.14761), and repair holds that and everything else. That is quick and gentle, and
    the denoiser still knows the picture; the log and `report.notes` say so.

    Text encoders, autoencoder and scheduler are not changed; the pipeline saves and loads as before.
    Whether its weights want gradients (`requires_grad`) has no say: all of the denoiser is trained, or
    `trainable_target_modules`; afterwards they do or do not as before.

    Args:
        pipe (`DiffusionPipeline`):
            A pipeline of a supported family (Stable Diffusion 1/2/XL/3, Flux, PixArt and pipelines derived from them).
        concept (`str` or `list[str]`):
            What to erase, in words that prompts use: "dress", "in the style of Monet".
        anchor (`str`, *optional*):
            What the concept's prompts should show instead: its words are led there. It must not contain the concept ("clothing"
            keeps "dress" alive). Default, of the recipes "concept" and "compound": nothing in particular for looks (a colour, a
            style); for things, an everyday thing that is not far from it to the text encoder. `report.edit` says which.
        keep (`list[str]`, *optional*):
            Neighbours that matter most; everyday things, looks and captions of words that the pipeline's tokenizer knows are
            kept in any case.
        forget_images, retain_images (list of PIL images or paths, folder, or `datasets.Dataset`, *optional*):
            Pictures to use in the place of ones that the pipeline draws. Retain pictures may have captions (a column "text",
            "caption" or "prompt", or text files beside them).
        recipe (`str`, *optional*):
            A set of settings from `scissorhands_hf.RECIPES`; default: "removal", "compound" where a concept has several words,
            and "concept" of looks, with a denoiser of more than 50M weights, an `anchor`, another `forget_objective`, settings
            of the closed form, or `max_steps=0`. All three were measured on the pipeline in `spaces_demo`.
        generator (`torch.Generator`, *optional*):
            Where the run's seed is drawn from, instead of `seed`.
        callback (*optional*):
            Called with an `ErasureProgress` many times; what it raises ends the run, with the original weights put back.
        judge ([`Judge`] or `str`, *optional*):
            Who counts the concept in the report's pictures: a judge, or the id or folder of an image classifier or CLIP model.
            Without one the report says how far pictures moved at equal seeds.
        report_images (`int`, *optional*):
            Pictures for each prompt of the report, ≥ 2; 0 draws none and measures only the losses. Default: 8. With several
            concepts the report has fewer prompts of each, and then fewer pictures, so that it is of about 1,024 in all.
        sampling (`dict`, *optional*):
            Arguments of the pipeline's call for all pictures drawn here, as `{"guidance_scale": 4.0, "height": 512}`.
        concept_type (`str` or list of them, *optional*):
            What is erased: an "object" (another thing is drawn in its place), a "style" or an "attribute" (taken from the
            things that have it; of "Van Gogh", also "in the style of" and "by"), or a "person" (a name without article, in
            portraits). An "attribute" of one thing, as "glasses on people", is taken from that thing alone. One for all
            concepts, or one for each. Default: as the model reads the name when it is added to names of many things. The log
            and `report.notes` say what was assumed, and a warning says where the evidence is weak.
        dry_run (`bool`, *optional*, defaults to `False`):
            Only check the call, and say what it would need: memory, disk, pictures and steps. The pipeline stays as it is.
        config (*optional*):
            Fields of [`ConceptErasureConfig`], such as `max_steps`, `trim_ratio`, `forget_weight`, `learning_rate`, `seed`.

    Returns:
        The report; also appended to `pipe.erasure_reports`, which begins with what was erased before the pipeline was loaded.
        With `dry_run` an [`ErasureEstimate`].

    Raises:
        TypeError, ValueError, ImportError: for pipelines, names, pictures and settings that cannot work, before any weight is
            touched.
        MemoryError, OSError: likewise, for too little memory or too little room on disk. OSError, too, when the disk fills
            up in mid-run; the original weights are back.
        UnlearningDivergedError: the run diverged; the original weights are back.
    """
    started = time.perf_counter()
    request = ErasureRequest(
        pipe,
        concept,
        anchor=anchor,
        keep=keep,
        forget_images=forget_images,
        retain_images=retain_images,
        recipe=recipe,
        generator=generator,
        judge=judge,
        report_images=report_images,
        sampling=sampling,
        concept_type=concept_type,
        dry_run=dry_run,
        config=config,
    )
    workload = Workload.of(request)
    workload.announce()
    if dry_run:
        if request.estimate is None:
            raise ValueError("dry_run=True needs to know how large pictures are: give sampling={'height': …, 'width': …}")
        return replace(request.estimate, drawn=workload.drawn)
    reporter = Reporter(workload.timed(callback), started)
    denoiser = request.family.denoiser
    warnings = [*request.warnings, *warn_of_shared_parts(pipe, denoiser)]
    before = _draw_report(request, reporter, last=False)
    gathering, repairs = time.perf_counter(), bool(request.args.max_steps)
    with random_states_kept([request.family.device]):
        material = gather_material(request, reporter) if repairs else gather_edit(request, reporter)
    with (
        hooks_off(pipe, denoiser, request.stays_offloaded) as hooks_back,
        original_state(denoiser, request.changed) as moved,
    ):
        report = _repair(request, material, reporter, moved) if repairs else _edit(request, material, gathering)
        # Still guarded: a caller who cancels here gets the original back, as at any other moment.
        with hooks_back():
            after = _draw_report(request, reporter, last=True)
        _complete(report, request, before, after, warnings, time.perf_counter() - started)
    pipe.erasure_reports = [*request.earlier, report]
    return report


def _repair(
    request: ErasureRequest, material: Material, reporter: Reporter, moved: Callable[[], float]
) -> ConceptErasureReport:
    denoiser = request.family.denoiser
    with (
        only_denoiser_on_device(request.pipe, denoiser),
        laid_over(denoiser, request.adapter, request.args.seed, request.family.device) as adapter,
    ):
        held = request.held if adapter is None else adapter.held(request.held)
        with in_float32(denoiser, held, copied=request.stays_offloaded):
            marked = time.perf_counter()
            examples = make_examples(request, material, reporter)
            targets = time.perf_counter() - marked
            with activations_checkpointed(denoiser, request.checkpointing):
                report, change = _train(request, examples, material, reporter)
            if adapter is not None:
                adapter.remember(request.family, examples[2:], material.table)
        if adapter is not None:
            adapter.merge(request.family, material.table)
    _say_what_changed(report, change, moved())
    report.seconds |= {"pictures": material.seconds, "targets": targets}
    return report


def _edit(request: ErasureRequest, edit: TextEdit, started: float) -> ConceptErasureReport:
    """The closed-form edit alone, in the pipeline's own dtype; `started` when its prompts began to be encoded."""
    edit.apply()
    return ConceptErasureReport(
        edit=edit.summary(),
        settings=request.args.method_settings(),
        trim=dict(NOTHING_TRIMMED),
        seconds={"edit": time.perf_counter() - started},
        versions=library_versions(),
    )


def _train(
    request: ErasureRequest, examples: Examples, material: Material, reporter: Reporter
) -> tuple[ConceptErasureReport, float]:
    """The report, and [`ConceptErasureTrainer.change`]."""
    family, args = request.family, request.args
    with tempfile.TemporaryDirectory(prefix="scissorhands-") as folder:
        # Checkpoints of the best step: local, temporary and without the optimizer.
        args.output_dir = str(Path(folder))
        callbacks = [StageCallback(reporter.tell)]
        adversary = None
        if args.forget_objective == "removal" and args.adversarial_states and args.adversarial_share:
            adversary = AdversarialStates(material.table, first_attacks(request))
        trainer = ConceptErasureTrainer(
            family, args, *examples, material.table, callbacks, material.edit, adversary, _trimmed_below(request)
        )
        trainer.measure_references()
        with full_disk_told(folder):
            trainer.train()
        plain, change = trainer.report(), trainer.change()
        trainer.release()
    report = ConceptErasureReport(
        edit={} if material.edit is None else material.edit.summary(),
        settings=plain.settings,
        trim=plain.trim,
        history=plain.history,
        seconds=plain.seconds,
        versions=plain.versions,
        notes=plain.notes,
    )
    return report, change


def _trimmed_below(request: ErasureRequest) -> TrimmedBelow | None:
    """What is trimmed while an adapter lies over it."""
    if request.adapter is None:
        return None
    return TrimmedBelow([request.adapter.name(name) for name in request.reinit], request.adapter.plain_name)


def _say_what_changed(report: ConceptErasureReport, change: float, moved: float) -> None:
    """A note of how much the run did to the weights, and a warning if that was almost nothing."""
    cut, share = report.trim.get("trimmed", 0), 100 * moved
    way = f"{share:.2g}" if share < 10 else f"{share:,.0f}"
    done = f"{cut:,} weights were re-initialised, and all together moved by {way} % of their norm."
    report.notes.append(done[0].upper() + done[1:])
    if abs(change) < LEAST_CHANGE:
        report.warnings.append(
            f"The run hardly changed what the denoiser says of the concept ({100 * change:.1f} % of what was asked): {done} "
            "These settings may be another model's: raise learning_rate, max_steps or trim_ratio, or take no recipe."
        )
        logger.warning(report.warnings[-1])


def first_attacks(request: ErasureRequest) -> list[str]:
    """What adversarial states begin as: prompts of the concepts, and the empty one, in turn. Not prompts of what is kept: what
    is near those states would be lost with them."""
    asking = [text for column in zip_longest(*request.prompts.asking.values()) for text in column if text is not None]
    starts = [text for own in asking for text in (own, "")]
    return [starts[number % len(starts)] for number in range(request.args.adversarial_states)]


def _draw_report(request: ErasureRequest, reporter: Reporter, last: bool) -> dict[str, list[Any]]:
    if not request.report_images:
        return {}
    texts = [prompt for prompt, _, _ in request.prompts.report]
    stage = "report" if last else "before"
    reporter.tell(stage, 0, len(dict.fromkeys(texts)) * request.report_images)
    return draw_pictures(
        request.pipe,
        texts,
        images_per_prompt=request.report_images,
        seed=request.args.seed,
        sampling=request.sampling,
        on_batch=lambda step, total: reporter.tell(stage, step, total),
    )


def _complete(
    report: ConceptErasureReport,
    request: ErasureRequest,
    before: dict[str, list[Any]],
    after: dict[str, list[Any]],
    warnings: list[str],
    seconds: float,
) -> None:
    """Fill in what was measured on pictures, and say so if kept prompts were damaged."""
    report.concepts, report.anchor = request.prompts.concepts, request.prompts.anchor
    if report.edit:
        report.edit["instead"] = [request.prompts.instead[name] for name in report.concepts]
    report.edit["types"] = [request.prompts.types[name].kind for name in report.concepts]
    report.notes += request.notes
    report.warnings = [*warnings, *report.warnings]
    told = len(report.warnings)
    if before:
        asked = [AuditPrompt(*row) for row in request.prompts.report]
        report.prompts = compare_pictures(asked, before, after, request.judge)
        report.metrics = audit_metrics(report.prompts)
        report.pictures = {text: {"original": before[text], "unlearned": after[text]} for text in before}
        report.measure = {
            "judge": request.judge.name if request.judge is not None else "same-seed change",
            "images_per_prompt": request.report_images,
            "seed": request.args.seed,
            "sampler": type(request.pipe.scheduler).__name__,
            **{name: value for name, value in request.sampling.items() if isinstance(value, int | float | str)},
        }
    report.seconds["total"] = seconds
    report.versions = {**report.versions, **library_versions(("diffusers",))}
    damage = next((row["eval_damage"] for row in reversed(report.history) if "eval_damage" in row), None)
    limit = request.args.damage_limit
    if damage is not None and damage > limit:
        report.warnings.append(
            f"The denoising loss on kept prompts rose by {100 * damage:.1f} %, more than damage_limit={limit:g}. Lower "
            "trim_ratio, forget_weight or learning_rate, or give more max_steps."
        )
    for score in report.prompts:
        if score.group not in ("kept", "neighbour"):
            continue
        if score.drop is not None and score.drop > MOST_POINTS_LOST + 100 / request.report_images:
            report.warnings.append(f"The kept prompt {score.prompt!r} lost {score.drop:.0f} points.")
        elif score.drop is None and score.change > MOST_KEPT_CHANGE:
            report.warnings.append(
                f"Pictures of the kept prompt {score.prompt!r} moved further than to another seed ({score.change:.2f})."
            )
    for text in report.warnings[told:]:
        logger.warning(text)
