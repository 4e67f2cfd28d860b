"""A call of `erase_concept`: its arguments, and what is made of them once, before anything is drawn or changed."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..audit import Judge, load_judge
from ..hub.earlier import earlier_reports
from ..report import ConceptErasureReport
from ..trainer.scopes import resolve_scopes
from .adapter import RepairAdapter, repair_adapter
from .compounds import parts_of
from .concept_types import check_types, describe_type, doubt, types_of
from .erasure_config import ConceptErasureConfig
from .estimate import ErasureEstimate, estimate_erasure
from .families import Family, check_pipeline, family_of
from .guard import activations_checkpointed, unfrozen
from .offloading import offloaded_by_leaves
from .prompts import ConceptPrompts, build_prompts, check_names
from .readings import Readings
from .settings import (
    REMOVAL_RECIPE,
    build_config,
    default_sampling,
    wants_checkpointing,
    warn_of_size,
    weights_of,
    what_is_avoided,
)
from .text_edit import check_scope, edited_inputs
from .workload import bounded_report, default_pictures


logger = logging.getLogger(__name__)


@dataclass
class ErasureRequest:
    """
    A checked call. The arguments are those of [`erase_concept`]; of them are made:

    Args:
        earlier (`list[ConceptErasureReport]`):
            Of erasures before this one.
        family (`Family`):
            Of the pipeline.
        args (`ConceptErasureConfig`):
            The settings, with the seed that the generator gave.
        checkpointing (`bool`, *optional*):
            Whether activations are computed again in the backward pass; None: as the denoiser is set.
        adapter ([`RepairAdapter`], *optional*):
            What repair trains instead of the denoiser's weights.
        trained, reinit, held, changed (`set[str]`, of `reinit` a list):
            Names of the denoiser's weights that are trained (of no meaning with an adapter), that may be re-initialised, that
            are held in float32 meanwhile, and of all that are not the same afterwards.
        stays_offloaded (`bool`):
            Whether layers of the denoiser wait in main memory also while an adapter over them trains.
        edited (`set[str]`):
            Names of the weights that the closed-form edit solves for.
        edited_widths (`list[int]`):
            Of the inputs of layers that the closed-form edit solves for.
        estimate (`ErasureEstimate`, *optional*):
            Of memory and disk; None where nothing says how large pictures are.
        prompts (`ConceptPrompts`):
            All texts of the run.
        notes, warnings (`list[str]`):
            Of what each concept was taken for.
        sampling (`dict`):
            With the defaults of the pipeline's call.
        judge (`Judge`, *optional*):
            Loaded.
        report_images (`int`):
            Pictures for each prompt of the report; by default a number that `workload` says.

    Raises:
        TypeError, ValueError, ImportError: for pipelines, names and settings that cannot work.
        MemoryError, OSError: there is too little memory, or too little room on disk.
    """

    pipe: Any
    concept: str | Sequence[str]
    anchor: str | None = None
    keep: Sequence[str] | None = None
    forget_images: Any = None
    retain_images: Any = None
    recipe: str | None = None
    generator: torch.Generator | None = None
    judge: Judge | str | None = None
    report_images: int | None = None
    sampling: dict[str, Any] | None = None
    concept_type: str | Sequence[str | None] | None = None
    dry_run: bool = False
    config: dict[str, Any] = field(default_factory=dict)

    earlier: list[ConceptErasureReport] = field(init=False)
    family: Family = field(init=False)
    args: ConceptErasureConfig = field(init=False)
    checkpointing: bool | None = field(init=False)
    adapter: RepairAdapter | None = field(init=False)
    trained: set[str] = field(init=False)
    reinit: list[str] = field(init=False)
    held: set[str] = field(init=False)
    changed: set[str] = field(init=False)
    stays_offloaded: bool = field(init=False)
    edited: set[str] = field(init=False)
    edited_widths: list[int] = field(init=False)
    estimate: ErasureEstimate | None = field(init=False)
    prompts: ConceptPrompts = field(init=False)
    notes: list[str] = field(init=False)
    warnings: list[str] = field(init=False)

    def __post_init__(self) -> None:
        check_pipeline(self.pipe)
        unknown = self._recall_erasures()
        self.family = family_of(self.pipe)
        concepts, anchor, keep = check_names(self.concept, self.anchor, self.keep, self.family)
        given_types = check_types(self.concept_type, concepts)
        if self.report_images is not None and (self.report_images < 0 or self.report_images == 1):
            raise ValueError(f"report_images={self.report_images} must be 0 for none, or at least 2 to tell change from chance")
        compound = any(
            parts_of(name) for name, kind in zip(concepts, given_types, strict=True) if kind not in ("style", "person")
        )
        values = self._seeded(dict(self.config))
        self.checkpointing = wants_checkpointing(self.family, values)
        with activations_checkpointed(self.family.denoiser, self.checkpointing):
            pass  # refused now where it cannot be
        self.sampling = default_sampling(self.pipe, self.sampling)
        self.family.check_sampling(self.sampling)
        self.args = build_config(self.family, self.recipe, anchor, values, compound)
        readings = Readings(self.family, self.sampling, self.args.seed)
        if self.recipe is None and self.args.recipe == REMOVAL_RECIPE and "forget_objective" not in values:
            # By the types that the prompts are built for: what was read is not read again.
            types = types_of(concepts, given_types, readings, self.family.known_words)
            if any(one.is_look for one in types.values()):
                self.args = build_config(self.family, self.recipe, anchor, values, compound, look=True)
        unknown += warn_of_size(self.family, self.recipe, self.args.learning_rate)
        self.adapter = repair_adapter(self.args.repair_adapter, self.family, self.args.trainable_target_modules)
        self._check_scopes()
        self.estimate = estimate_erasure(self)
        if self.estimate is not None and not self.dry_run:
            self.estimate.check_room(self.family.device)
        if self.judge is not None:
            self.judge = load_judge(self.judge, self.family.device)
        self.prompts = build_prompts(
            concepts,
            anchor,
            keep,
            self._erased_before(concepts),
            self.family,
            self.args.retain_pictures,
            self.args.seed,
            choose_anchor=self.args.forget_objective == "closed_form",
            readings=readings,
            concept_types=given_types,
            neighbours=self.args.neighbours,
            captions=self.args.closed_form_captions if self.args.forget_objective == "closed_form" else 0,
        )
        if self.args.pictures_per_concept is None:
            self.args.pictures_per_concept = default_pictures(len(concepts))
        if self.estimate is not None:
            self.estimate = replace(self.estimate, texts=self._texts())
            if not self.dry_run:
                self.estimate.check_room(self.family.device)
        rows, self.report_images = bounded_report(self.prompts.report, self.report_images)
        self.prompts = replace(self.prompts, report=rows)
        self._tell_types()
        self._tell_avoided(compound)
        self._tell_adapter()
        self._check_neighbours()
        self.warnings += unknown

    def _recall_erasures(self) -> list[str]:
        """What was erased before, also from a pipeline that was loaded since. Returns a warning where that cannot be had."""
        if hasattr(self.pipe, "erasure_reports"):
            self.earlier = list(self.pipe.erasure_reports)
            return []
        self.earlier, unknown = earlier_reports(self.pipe.name_or_path)
        if self.earlier:
            names = [name for report in self.earlier for name in report.concepts]
            logger.info("Erased from this pipeline before it was loaded: %s", ", ".join(names))
        if unknown is not None:
            logger.warning("%s", unknown)
        return [] if unknown is None else [unknown]

    def _tell_types(self) -> None:
        """What each concept was taken for, in the log, and as notes and warnings for the report."""
        types = self.prompts.types
        self.notes = [describe_type(name, types[name]) for name in types]
        self.warnings = [f"{describe_type(name, types[name])} {doubt(types[name])}" for name in types if types[name].weak]
        for text in self.notes:
            logger.info(text)
        for text in self.warnings:
            logger.warning(text)

    def _tell_avoided(self, compound: bool) -> None:
        """That the denoiser keeps what it knows, where it does, as a note; and what removal of a look does, as a warning."""
        looks = [name for name, kind in self.prompts.types.items() if kind.is_look]
        for text in what_is_avoided(self.args.forget_objective, compound, bool(looks), weights_of(self.family)):
            self.notes.append(text)
            logger.info(text)
        if looks and self.args.forget_objective == "removal":
            self.warnings.append(
                f"Removal of a look ({', '.join(map(repr, looks))}) may take others with it: where it was measured, removing "
                "red took orange and green. See the kept prompts; recipe='concept' keeps them."
            )
            logger.warning(self.warnings[-1])

    def _tell_adapter(self) -> None:
        """That an adapter nobody asked for is trained, in the log, and as a note for the report."""
        if self.adapter is None or "repair_adapter" in self.config:
            return
        denoiser = self.family.denoiser
        self.notes.append(
            f"An adapter of rank {self.args.repair_adapter} over {len(self.adapter.layers):,} layers is trained and merged at "
            f"the end, in the place of the {weights_of(self.family):,} weights of the {type(denoiser).__name__}; "
            "trainable_target_modules=['*'] trains these, in several times as much memory."
        )
        logger.info(self.notes[-1])

    def _check_neighbours(self) -> None:
        """Without neighbours there is nothing that pictures could be taken for: then Bayes' rule, which the report says."""
        if self.args.forget_objective != "removal" or self.args.removal_target != "neighbours":
            return
        without = [name for name, own in self.prompts.asking.items() if not self.prompts.others.keys() >= set(own)]
        if without:
            # A strength that the user gave is of the way to neighbours.
            self.args.removal_target, self.args.removal_strength = "bayes", None
            self.warnings.append(
                f"No neighbours are known of {', '.join(map(repr, without))} (neighbours={self.args.neighbours}, of everyday "
                "words that the tokenizer knows): what is left without the concept is found by removal_target='bayes'."
            )
            logger.warning(self.warnings[-1])

    def _seeded(self, config: dict[str, Any]) -> dict[str, Any]:
        if self.generator is None:
            return config
        if "seed" in config:
            raise ValueError(f"generator and seed={config['seed']} are both given; give one of them")
        return {**config, "seed": int(torch.randint(2**31, (1,), generator=self.generator, device=self.generator.device))}

    def _check_scopes(self) -> None:
        with unfrozen(self.family.denoiser):
            scopes = resolve_scopes(self.family.denoiser, self.args)  # patterns that match nothing are refused
        edited, self.edited_widths = set(), []
        if self.args.forget_objective == "closed_form":
            parts = edited_inputs(self.family)
            edited = {f"{layer}.weight" for part in parts for layer in part.layers}
            # One edit is solved for all layers that read the same inputs.
            self.edited_widths = [part.inputs.shape[-1] for part in parts]
            if self.args.trim_ratio:
                check_scope(edited, scopes.reinit)
        self.edited, self.trained, self.reinit = edited, set(scopes.trained), list(scopes.reinit)
        self.held = self.changed = edited
        if self.adapter is not None:
            self.held = edited | (set(scopes.reinit) if self.args.trim_ratio else set())
            self.changed = self.held | self.adapter.weights
        elif self.args.max_steps:
            self.held = self.changed = edited | self.trained
        self.stays_offloaded = (
            self.adapter is not None and not self.args.trim_ratio and offloaded_by_leaves(self.family.denoiser)
        )

    def _texts(self) -> int:
        """Bytes of all prompts, encoded."""
        prompts = self.prompts
        retain = prompts.retain if self.retain_images is None else [""]
        asked = [text for own in prompts.asking.values() for text in own[: self.args.pictures_per_concept]]
        others = [other for text in asked for other in prompts.others.get(text, [])]
        texts = {"", *prompts.forget, *prompts.anchors, *retain, *prompts.near, *others}
        row = sum(value.nbytes for value in self.family.encode_prompts([""]).values())
        states = self.args.adversarial_states if self.args.forget_objective == "removal" else 0
        return (len(texts) + states) * row if self.args.max_steps else 0

    def _erased_before(self, concepts: list[str]) -> list[str]:
        """Concepts of earlier runs that this one does not erase once more."""
        before = [name for report in self.earlier for name in report.concepts]
        if again := set(concepts) & set(before):
            logger.warning("%s was erased from this pipeline before; it is erased once more", ", ".join(sorted(again)))
        return [name for name in before if name not in again]
