"""`audit_language_model`: what a language model still knows of a forget set, beside the original and a retrained one."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from ... import __version__
from ...report.language_figures import LANGUAGE_GROUPS
from ...report.language_report import AnswerExample, LanguageReport
from ..untouched import left_as_found
from .answer_figures import check_rouge
from .audit_settings import LanguageAuditSettings
from .audited_models import DTYPES, Model, check_model, loaded
from .benchmark_figures import forget_quality, priv_leak
from .language_measures import Measured, ModelMeasure, attack_scores
from .language_sets import AuditSets, asked_set, general_texts
from .membership_figures import MIN_K, area_interval, area_under_curve
from .relearning import split_for_relearning
from .text_rows import read_row


logger = logging.getLogger(__name__)

Rows = Iterable[Mapping[str, Any]]
# Names of models in a report, in its order.
ORIGINAL, RETRAINED, REFERENCE = "original", "retrained", "reference"
TOFU_UTILITY_PARTS = 9
# Below this, not even what is known is told from what is wrong.
TOLD_APART = 0.05


def audit_language_model(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    *,
    forget: Rows,
    retain: Rows,
    general: Iterable[str | Mapping[str, Any]] | None = None,
    holdout: Rows | None = None,
    original: Model | None = None,
    retrained: Model | None = None,
    reference: Model | None = None,
    utility_sets: Mapping[str, Rows] | None = None,
    shots: Rows = (),
    name: str = "unlearned",
    dtype: str = "auto",
    device: str | None = None,
    progress: Callable[[str, str], None] | None = None,
    **settings: Any,
) -> LanguageReport:
    """
    Measure what a causal language model still knows of a forget set, what it kept, and whether it still speaks.

    Rows are in any of the formats of [`~scissorhands_hf.audit.language.text_rows.read_row`]: `question` and `answer` (TOFU's),
    `prompt` and `completion`, `messages`, `instruction` and `output`, or `text`. What can be measured depends on what there is:

    - of any rows: loss, probability, ROUGE-L, extraction strength, exact memorisation, repetition; relearning, rounded weights;
    - with a column `fact`: extraction, the answers that hold it;
    - with `paraphrased_question`, `translated_question`: the same, asked otherwise;
    - with `perturbed_answer` (a list of wrong ones; and `paraphrased_answer`): the truth ratio, and with `retrained` TOFU's
      forget quality;
    - with `holdout`: membership attacks, and with `retrained` MUSE's PrivLeak;
    - with `general`: perplexity and repetition of other texts.

    Answers are greedy, scored on their own tokens and asked by the tokenizer's chat template where it has one. Models and the
    tokenizer are left as they were found: weights bit for bit, modes, gradients and the global random states, after errors,
    too.

    Args:
        model ([`~transformers.PreTrainedModel`], `str` or `os.PathLike`):
            The model in question, or its Hub id or folder. Other models that are given so are loaded when their turn comes, so
            that there is one of them in memory at a time.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Of all the models.
        forget, retain (iterable of `Mapping[str, Any]`):
            What was to be forgotten, and what was to stay.
        general (iterable of `str` or `Mapping[str, Any]`, *optional*):
            Texts that have nothing to do with either.
        holdout (iterable of `Mapping[str, Any]`, *optional*):
            Rows of the forget set's kind that no model learned.
        original ([`~transformers.PreTrainedModel`], `str` or `os.PathLike`, *optional*):
            The model before, to be measured in the same way.
        retrained ([`~transformers.PreTrainedModel`], `str` or `os.PathLike`, *optional*):
            A model that was trained without the forget set: what all figures of forgetting are read against.
        reference ([`~transformers.PreTrainedModel`], `str` or `os.PathLike`, *optional*):
            A model that never saw the forget set, for the reference attack; not reported itself. Default: `retrained`.
        utility_sets (`Mapping[str, Rows]`, *optional*):
            Further sets with `perturbed_answer` for the model utility, by name; TOFU has "real authors" and "world facts".
        shots (iterable of `Mapping[str, Any]`, *optional*):
            Questions with answers that come first in MUSE's prompt (`muse=True`).
        name (`str`, *optional*, defaults to `"unlearned"`):
            Of the model in question, in the report.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Of models that are given by name: `"float32"`, `"float16"`, `"bfloat16"`, or as they were saved.
        device (`str`, *optional*):
            Of models that are given by name; default: where `model` is, or the CPU.
        progress (`Callable[[str, str], None]`, *optional*):
            Is told a model's name and a stage's before each stage.
        settings (*optional*):
            Fields of [`~scissorhands_hf.audit.language.audit_settings.LanguageAuditSettings`]: `batch_size`, `max_length`,
            `max_new_tokens`, `min_k`, `muse`, `relearn_steps`, `relearn_examples`, `relearn_learning_rate`, `rounding`,
            `examples`, `seed`.

    Returns:
        [`~scissorhands_hf.report.LanguageReport`]: the figures of each model, with their intervals. It holds forget data only
        if `examples` are asked for, and no push publishes them.

    Raises:
        TypeError, ValueError: before any model is run, for models, rows or settings that cannot be used; the message names the
            argument.
        ImportError: rouge-score is missing.

    Example:

    ```python
    report = audit_language_model(model, tokenizer, forget=forget, retain=retain, retrained="me/retrained", general=texts)
    print(report.to_markdown())
    report.save("out"), report.plot("out/audit.png")
    ```
    """
    options = _settings(settings)
    check_rouge()
    if name in (ORIGINAL, RETRAINED, REFERENCE):
        raise ValueError(f"name={name!r} is what another model is called in the report; use such as 'unlearned'")
    sets = _sets(tokenizer, options, forget, retain, general, holdout, utility_sets, shots)
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is none of {', '.join(DTYPES)}")
    place = device or (next(model.parameters()).device if isinstance(model, torch.nn.Module) else "cpu")
    given = {RETRAINED: retrained, REFERENCE: reference, ORIGINAL: original, name: model}
    given = {kind: one for kind, one in given.items() if one is not None}
    if holdout is None:
        given.pop(REFERENCE, None)
    for kind, one in given.items():
        check_model(kind if kind != name else "model", one, tokenizer, sets, options)
    if options.relearn_steps:
        split_for_relearning(len(sets.forget), options.relearn_examples, options.seed)
    found: dict[str, Measured] = {}
    types: dict[str, str] = {}
    for kind, one in given.items():
        with loaded(one, dtype, place) as ready, left_as_found(ready):
            measure = ModelMeasure(ready, tokenizer, sets, options, _teller(progress, kind))
            found[kind] = measure.reference() if kind == REFERENCE else measure.measure()
            types[kind] = str(next(ready.parameters()).dtype).removeprefix("torch.")
    for kind in found:
        if kind != REFERENCE:
            _compare(found, kind, sets, options)
    order = [kind for kind in (ORIGINAL, RETRAINED, name) if kind in found]
    return LanguageReport(
        metrics={kind: _in_order(found[kind].figures) for kind in order},
        intervals={kind: found[kind].intervals for kind in order if found[kind].intervals},
        notes=_notes(sets, options, found, name),
        sets=_sizes(sets),
        measure={
            **dataclasses.asdict(options),
            "chat_template": tokenizer.chat_template is not None,
            "dtype": ", ".join(dict.fromkeys(types.values())),
        },
        versions={"scissorhands_hf": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        examples=[
            AnswerExample(row.question, row.answer, {kind: found[kind].answers[place] for kind in order})
            for place, row in enumerate(sets.forget.rows[: options.examples])
        ],
    )


# ---- What is given ----


def _settings(given: Mapping[str, Any]) -> LanguageAuditSettings:
    known = [item.name for item in dataclasses.fields(LanguageAuditSettings)]
    if unknown := [name for name in given if name not in known]:
        raise TypeError(f"audit_language_model has no argument {unknown[0]!r}; its settings are {', '.join(known)}")
    return LanguageAuditSettings(**given)


def _sets(
    tokenizer: PreTrainedTokenizerBase,
    options: LanguageAuditSettings,
    forget: Rows,
    retain: Rows,
    general: Iterable[str | Mapping[str, Any]] | None,
    holdout: Rows | None,
    utility: Mapping[str, Rows] | None,
    shots: Rows,
) -> AuditSets:
    def read(part: str, rows: Rows, others: bool = False):
        return asked_set(part, rows, tokenizer, options.max_length, others)

    sets = AuditSets(read("forget", forget, others=True), read("retain", retain))
    sets.holdout = None if holdout is None else read("holdout", holdout)
    sets.general = None if general is None else general_texts(general, tokenizer, options.max_length)
    for part, rows in (utility or {}).items():
        if part in ("forget", "retain"):
            raise ValueError(f"utility_sets: {part!r} is a set of its own; give further ones, such as 'real authors'")
        sets.utility[part] = read(part, rows)
        if sets.utility[part].wrong is None:
            raise ValueError(f"utility_sets: {part!r} has no column 'perturbed_answer', the wrong answers to choose from")
    sets.shots = [read_row(row) for row in shots]
    return sets


def _teller(progress: Callable[[str, str], None] | None, model: str) -> Callable[[str], None]:
    def tell(stage: str) -> None:
        logger.info("Auditing the %s model: %s", model, stage)
        if progress is not None:
            progress(model, stage)

    return tell


# ---- What comes of it ----


def _compare(found: dict[str, Measured], kind: str, sets: AuditSets, options: LanguageAuditSettings) -> None:
    """Figures of a model that need another one, or both the forget and the holdout set."""
    mine, control = found[kind], found.get(RETRAINED)
    if control is not None and mine.ratios and kind != RETRAINED:
        mine.figures["forget quality"] = forget_quality(mine.ratios, control.ratios)
    if sets.holdout is None:
        return
    reference = found.get(REFERENCE, control)
    for attack in ("loss", "zlib", "Min-K%", "Min-K%++", "reference"):
        if attack == "reference" and (reference is None or reference is mine):
            continue
        area = _area(attack, mine, sets, options, reference)
        mine.figures[f"MIA {attack}"] = area
        mine.intervals[f"MIA {attack}"] = list(area_interval(area, len(sets.forget), len(sets.holdout)))
    if control is not None and kind != RETRAINED:
        muse = dataclasses.replace(options, min_k=MIN_K)
        areas = [_area("Min-K%", one, sets, muse, None) for one in (mine, control)]
        mine.figures["PrivLeak"] = priv_leak(*areas)


def _area(attack: str, mine: Measured, sets: AuditSets, options: LanguageAuditSettings, reference: Measured | None) -> float:
    scores = attack_scores(attack, mine, sets, options, reference)
    return area_under_curve(scores["forget"], scores["holdout"])


def _in_order(figures: dict[str, float]) -> dict[str, float]:
    """As in tables; what was left out is not there."""
    return {row["name"]: figures[row["name"]] for group in LANGUAGE_GROUPS for row in group.rows if row["name"] in figures}


def _sizes(sets: AuditSets) -> dict[str, int]:
    sizes = {"forget": len(sets.forget), "retain": len(sets.retain)}
    if sets.holdout is not None:
        sizes["holdout"] = len(sets.holdout)
    if sets.general is not None:
        sizes["general"] = len(sets.general)
    return sizes | {name: len(asked) for name, asked in sets.utility.items()}


def _notes(sets: AuditSets, options: LanguageAuditSettings, found: dict[str, Measured], name: str) -> list[str]:
    """What of the figures a reader has to know, and what could not be measured."""
    notes = []
    parts = list(found[name].utility)
    known = max((one.figures.get("retain truth ratio", 1.0) for one in found.values()), default=1.0)
    if known < TOLD_APART:
        notes.append(
            "Truth ratio and forget quality say little here: on the retain set, too, no model prefers right answers in these "
            f"words to wrong ones (retain truth ratio {known:.3f} at best)."
        )
    if "model utility" in found[name].figures and len(parts) != TOFU_UTILITY_PARTS:
        notes.append(
            f"Model utility is over {', '.join(parts)}; TOFU's own is over nine parts, so it cannot be laid beside it."
        )
    if sets.holdout is None:
        notes.append("No membership attack was tried: there is no holdout set.")
    if RETRAINED not in found:
        notes.append(
            "No retrained model was given, so how far these figures are from forgetting is not known: "
            "low ones alone do not show it."
        )
    if options.relearn_steps:
        taught = options.relearn_examples or max(1, len(sets.forget) // 4)
        notes.append(
            f"Relearning: {options.relearn_steps} steps of AdamW at {options.relearn_learning_rate:g} on {taught} of the "
            f"forget pairs, then the other {len(sets.forget) - taught} were asked for."
        )
    return notes
