"""`erase_concept`: from a pipeline and a word to a pipeline without it, and the report of what that did."""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..audit import AuditPrompt, Judge, audit_metrics, compare_pictures, draw_pictures, load_judge
from ..report import ConceptErasureReport
from ..trainer.checkpoints import library_versions
from ..trainer.run_progress import Reporter
from ..trainer.scopes import resolve_scopes
from ..trainer.stage_callback import StageCallback
from .erasure_config import ConceptErasureConfig
from .erasure_trainer import ConceptErasureTrainer
from .families import Family, check_pipeline, family_of
from .guard import in_float32, only_denoiser_on_device, original_state, warn_of_shared_parts
from .material import Examples, Material, gather_material, make_examples
from .progress import ErasureProgress
from .prompts import ConceptPrompts, build_prompts, check_names
from .settings import build_config, default_sampling
from .text_edit import check_scope


logger = logging.getLogger(__name__)

# Kept prompts that lose more than this, by a judge, are a warning (points); likewise pictures that move further than this
# share of the distance between two seeds.
MOST_POINTS_LOST = 5.0
MOST_KEPT_CHANGE = 1.0


@dataclass
class _Request:
    """A checked call of `erase_concept`."""

    family: Family
    args: ConceptErasureConfig
    prompts: ConceptPrompts
    sampling: dict[str, Any]
    judge: Judge | None
    forget_images: Any
    retain_images: Any
    report_images: int


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
    report_images: int = 8,
    sampling: dict[str, Any] | None = None,
    **config: Any,
) -> ConceptErasureReport:
    r"""
    Remove a concept from a diffusers text-to-image pipeline, in place, with no data but what the pipeline draws itself.

    The denoiser's weights that the concept depends on most are re-initialised where that is asked for (`trim_ratio`;
    Scissorhands, arXiv:2401.06187). Its layers that read text then get, in closed form, new answers to the concept's prompts:
    those of other prompts and beyond (after UCE, arXiv:2308.14761). Repair holds that, and for everything else what the
    original predicted. Text encoders, autoencoder and scheduler are not changed; the pipeline saves and loads as before.

    Args:
        pipe (`DiffusionPipeline`):
            A pipeline of a supported family (Stable Diffusion 1/2/XL/3, Flux, PixArt and pipelines derived from them).
        concept (`str` or `list[str]`):
            What to erase, in words that prompts use: "dress", "in the style of Monet".
        anchor (`str`, *optional*):
            What the concept's prompts should show instead. It must not contain the concept ("clothing" keeps "dress" alive).
            Default: nothing in particular for looks (a colour, a style); for things, an everyday thing that is not far
            from it to the text encoder. `report.edit` says which.
        keep (`list[str]`, *optional*):
            Neighbours that matter most; everyday things and looks that the pipeline's tokenizer knows are kept in any case.
        forget_images, retain_images (list of PIL images or paths, folder, or `datasets.Dataset`, *optional*):
            Pictures to use in the place of ones that the pipeline draws. Retain pictures may have captions (a column "text",
            "caption" or "prompt", or text files beside them).
        recipe (`str`, *optional*):
            A set of settings from `scissorhands_hf.RECIPES`; default: "concept", measured on the pipeline in `spaces_demo`.
        generator (`torch.Generator`, *optional*):
            Where the run's seed is drawn from, instead of `seed`.
        callback (*optional*):
            Called with an `ErasureProgress` many times; what it raises ends the run, with the original weights put back.
        judge ([`Judge`] or `str`, *optional*):
            Who counts the concept in the report's pictures: a judge, or the id or folder of an image classifier or CLIP model.
            Without one the report says how far pictures moved at equal seeds.
        report_images (`int`, defaults to 8):
            Pictures for each prompt of the report, ≥ 2; 0 draws none and measures only the losses.
        sampling (`dict`, *optional*):
            Arguments of the pipeline's call for all pictures drawn here, as `{"guidance_scale": 4.0, "height": 512}`.
        config:
            Fields of [`ConceptErasureConfig`], such as `max_steps`, `trim_ratio`, `forget_weight`, `learning_rate`, `seed`.

    Returns:
        The report; also appended to `pipe.erasure_reports`.

    Raises:
        TypeError, ValueError: for pipelines, names, pictures and settings that cannot work, before any weight is touched.
        UnlearningDivergedError: the run diverged; the original weights are back.
    """
    started = time.perf_counter()
    reporter = Reporter(callback, started)
    request = _check_request(
        pipe, concept, anchor, keep, forget_images, retain_images, recipe, generator, judge, report_images, sampling, config
    )
    family, args = request.family, request.args
    warnings = warn_of_shared_parts(pipe, family.denoiser)
    before = _draw_report(pipe, request, reporter, last=False)
    with original_state(pipe, family):
        material = gather_material(
            family, args, request.prompts, request.sampling, request.forget_images, request.retain_images, reporter
        )
        with only_denoiser_on_device(pipe, family), in_float32(family.denoiser):
            marked = time.perf_counter()
            examples = make_examples(family, args, request.prompts, material, reporter)
            targets = time.perf_counter() - marked
            report = _train(family, args, examples, material, reporter)
        report.seconds |= {"pictures": material.seconds, "targets": targets}
        # Still guarded: a caller who cancels here gets the original back, as at any other moment.
        after = _draw_report(pipe, request, reporter, last=True)
    _complete(report, request, before, after, warnings, time.perf_counter() - started)
    pipe.erasure_reports = [*getattr(pipe, "erasure_reports", []), report]
    return report


def _check_request(
    pipe: Any,
    concept: str | Sequence[str],
    anchor: str | None,
    keep: Sequence[str] | None,
    forget_images: Any,
    retain_images: Any,
    recipe: str | None,
    generator: torch.Generator | None,
    judge: Judge | str | None,
    report_images: int,
    sampling: dict[str, Any] | None,
    config: dict[str, Any],
) -> _Request:
    check_pipeline(pipe)
    family = family_of(pipe)
    concepts, anchor, keep = check_names(concept, anchor, keep, family)
    if generator is not None:
        if "seed" in config:
            raise ValueError(f"generator and seed={config['seed']} are both given; give one of them")
        config = {**config, "seed": int(torch.randint(2**31, (1,), generator=generator, device=generator.device))}
    if report_images < 0 or report_images == 1:
        raise ValueError(f"report_images={report_images} must be 0 for none, or at least 2 to tell change from chance")
    args = build_config(family, recipe, anchor, config)
    scopes = resolve_scopes(family.denoiser, args)  # patterns that match nothing are refused before pictures are drawn
    closed_form = args.forget_objective == "closed_form"
    if closed_form and args.trim_ratio:
        check_scope(family, scopes.reinit)
    erased_before = [name for report in getattr(pipe, "erasure_reports", []) for name in report.concepts]
    again = set(concepts) & set(erased_before)
    if again:
        logger.warning("%s was erased from this pipeline before; it is erased once more", ", ".join(sorted(again)))
    prompts = build_prompts(
        concepts,
        anchor,
        keep,
        [name for name in erased_before if name not in again],
        family,
        args.retain_pictures,
        args.seed,
        choose_anchor=closed_form,
    )
    return _Request(
        family=family,
        args=args,
        prompts=prompts,
        sampling=default_sampling(pipe, sampling),
        judge=None if judge is None else load_judge(judge, family.device),
        forget_images=forget_images,
        retain_images=retain_images,
        report_images=report_images,
    )


def _train(
    family: Family, args: ConceptErasureConfig, examples: Examples, material: Material, reporter: Reporter
) -> ConceptErasureReport:
    with tempfile.TemporaryDirectory(prefix="scissorhands-") as folder:
        # Checkpoints of the best step: local, temporary and without the optimizer.
        args.output_dir = str(Path(folder))
        callbacks = [StageCallback(reporter.tell)]
        trainer = ConceptErasureTrainer(family, args, *examples, material.table, callbacks, material.edit)
        trainer.measure_references()
        trainer.train()
        plain = trainer.report()
    return ConceptErasureReport(
        edit={} if material.edit is None else material.edit.summary(),
        settings=plain.settings,
        trim=plain.trim,
        history=plain.history,
        seconds=plain.seconds,
        versions=plain.versions,
    )


def _draw_report(pipe: Any, request: _Request, reporter: Reporter, last: bool) -> dict[str, list[Any]]:
    if not request.report_images:
        return {}
    texts = [prompt for prompt, _, _ in request.prompts.report]
    return draw_pictures(
        pipe,
        texts,
        images_per_prompt=request.report_images,
        seed=request.args.seed,
        sampling=request.sampling,
        on_batch=lambda step, total: reporter.tell("report" if last else "before", step, total),
    )


def _complete(
    report: ConceptErasureReport,
    request: _Request,
    before: dict[str, list[Any]],
    after: dict[str, list[Any]],
    warnings: list[str],
    seconds: float,
) -> None:
    """Fill in what was measured on pictures, and say so if kept prompts were damaged."""
    report.concepts, report.anchor = request.prompts.concepts, request.prompts.anchor
    if report.edit:
        report.edit["instead"] = [request.prompts.instead[name] for name in report.concepts]
    report.warnings = list(warnings)
    if before:
        asked = [AuditPrompt(*row) for row in request.prompts.report]
        report.prompts = compare_pictures(asked, before, after, request.judge)
        report.metrics = audit_metrics(report.prompts)
        report.pictures = {text: {"original": before[text], "unlearned": after[text]} for text in before}
        pipe = request.family.pipe
        report.measure = {
            "judge": request.judge.name if request.judge is not None else "same-seed change",
            "images_per_prompt": request.report_images,
            "seed": request.args.seed,
            "sampler": type(pipe.scheduler).__name__,
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
    for text in report.warnings[len(warnings) :]:
        logger.warning(text)
