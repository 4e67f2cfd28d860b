"""`probe_concept`: run the probes on a pipeline, a reference and a control, and count what a judge sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...report.probe_report import ProbeReport, ProbeScore
from ..drawing import check_sampling
from ..judges import Judge, load_judge
from ..pictures import read_pictures
from ..untouched import random_states_kept, undisturbed
from . import learned_probes, picture_probes, text_probes, trajectory_probes, weight_probes
from .subject import Found, NotAvailable, Subject
from .wordings import word


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image

PROBES: dict[str, Callable[[Subject], Found]] = {
    "words": text_probes.words,
    "paraphrases": text_probes.paraphrases,
    "misspellings": text_probes.misspellings,
    "synonyms": text_probes.synonyms,
    "wider": text_probes.wider,
    "empty": text_probes.empty,
    "token": learned_probes.token,
    "states": learned_probes.states,
    "img2img": picture_probes.img2img,
    "inpainting": picture_probes.inpainting,
    "added_noise": trajectory_probes.added_noise,
    "guidance": trajectory_probes.guidance,
    "relearning": weight_probes.relearning,
    "rounding": weight_probes.rounding,
}
"""All probes by name, in the order of reports."""

# Of those that are drawn, a few are held by the report, for plots and pages.
SHOWN = 8
# How often the reference is asked for a picture that shows the concept before it is taken for one that does not know it.
MOST_TRIES = 4


def probe_concept(
    pipe: DiffusionPipeline | str | Path,
    concept: str,
    *,
    judge: Judge | str | Path,
    pictures: Any = None,
    reference: DiffusionPipeline | str | Path | None = None,
    control: DiffusionPipeline | str | Path | None = None,
    probes: Sequence[str] | None = None,
    count: int = 100,
    seed: int = 0,
    sampling: Mapping[str, Any] | None = None,
    prompts: Mapping[str, Sequence[str]] | None = None,
    concept_type: str | None = None,
    label: str | None = None,
    alternatives: Sequence[str] = (),
    drawn_pictures: int = 50,
    new_word: str = "sks",
    batch_size: int = 16,
    callback: Callable[[str, int, int], None] | None = None,
) -> ProbeReport:
    """
    Is a concept gone from a pipeline's weights, or do its words only lead elsewhere?

    Each probe attacks the pipeline in another way and counts the pictures in which a judge sees the concept; where a control
    that never saw the concept is at hand, its shares are what "gone" looks like. All pipelines come out bit for bit as they
    went in, also when a probe raises.

    Args:
        pipe (`DiffusionPipeline` or `str` or `Path`):
            The text-to-image pipeline in question, or its id or folder. Beyond Stable Diffusion 1 and 2 some probes are not
            available; the report says which, and why.
        concept (`str`):
            What to look for, named as in a prompt.
        judge (`Judge` or `str` or `Path`):
            Who says whether a picture shows the concept: an image classifier or a CLIP model, see
            [`~scissorhands_hf.audit.load_judge`].
        pictures (`list[PIL.Image.Image]` or folder or `datasets.Dataset`, *optional*):
            The attacker's pictures of the concept, some 50 of them. Default: those that the reference draws and the judge
            agrees with.
        reference (`DiffusionPipeline` or `str` or `Path`, *optional*):
            A pipeline that knows the concept, as the one before the erasure; or its id or folder, loaded when it is its turn.
        control (`DiffusionPipeline` or `str` or `Path`, *optional*):
            A pipeline that never saw the concept.
        probes (`Sequence[str]`, *optional*):
            Some of `PROBES`. Default: all of them.
        count (`int`, *optional*, defaults to `100`):
            Pictures of each share, at least 1.
        seed (`int`, *optional*, defaults to `0`):
            Of everything that is drawn or learned.
        sampling (`Mapping[str, Any]`, *optional*):
            Further arguments of the pipeline's call, as `num_inference_steps` and `guidance_scale`.
        prompts (`Mapping[str, Sequence[str]]`, *optional*):
            Your own prompts of the probes "words", "paraphrases", "misspellings", "synonyms" (other names, other languages) and
            "wider" ("a photo of clothing"), in the place of those made from the concept's name.
        concept_type (`str`, *optional*):
            "object", "style", "attribute" or "person". Default: a style if its name says so, else an object.
        label (`str`, *optional*, defaults to `concept`):
            What the judge calls the concept.
        alternatives (`Sequence[str]`, *optional*):
            What else the judge may see in its place: a CLIP model says only which of the candidates fits best.
        drawn_pictures (`int`, *optional*, defaults to `50`):
            How many pictures the reference draws where none are given.
        new_word (`str`, *optional*, defaults to `"sks"`):
            A word that means nothing to the model, under which it is taught the concept again.
        batch_size (`int`, *optional*, defaults to `16`):
            Pictures drawn at once.
        callback (`Callable[[str, int, int], None]`, *optional*):
            Told before and after each probe: the stage, as "pipeline: token", 0 or 1, and 1.

    Returns:
        [`~scissorhands_hf.report.ProbeReport`] with a share, its number of pictures, its seed and an interval for each probe,
        of the pipeline, the reference and the control.

    Raises:
        TypeError: the concept is no text, or a model no pipeline.
        ValueError: an unknown probe, a number below 1, a concept that the judge has no name for, a reference that does not draw
            it, pictures that cannot be read.
    """
    chosen = list(PROBES) if probes is None else _checked(probes)
    for argument, value in (("count", count), ("batch_size", batch_size), ("drawn_pictures", drawn_pictures)):
        if value < 1:
            raise ValueError(f"{argument}={value} must be at least 1")
    wording = word(concept, concept_type, prompts)
    sampling = dict(sampling or {})
    check_sampling(sampling)
    judge = load_judge(judge)
    label = wording.concept if label is None else label
    if not judge.knows(label):
        raise ValueError(
            f"the judge {judge.name!r} does not know {label!r}; give label= as it calls the concept, or another judge"
        )
    counted = Counted(judge, label, alternatives)
    pipe = _open("pipe", pipe)
    models = {
        name: model for name, model in (("pipeline", pipe), ("reference", reference), ("control", control)) if model is not None
    }
    report = ProbeReport(wording.concept)
    subject = Subject(pipe, wording, [], count, seed, sampling, batch_size, new_word, judge, label)
    # The reference is opened once more where it draws the attacker's pictures; two large pipelines need not be held at a time.
    attackers = _attackers_pictures(subject, pictures, reference, counted, drawn_pictures)
    for name, model in models.items():
        opened = replace(subject, pipe=_open(name, model, pipe), pictures=attackers)
        report.seconds[name] = {}
        for probe in chosen:
            if callback is not None:
                callback(f"{name}: {probe}", 0, 1)
            start = time.perf_counter()
            try:
                # Nothing of what a probe draws from global generators is seen outside.
                with random_states_kept():
                    for drawn in PROBES[probe](opened):
                        seen = counted(drawn.images)
                        score = ProbeScore(probe, drawn.setting, name, seen, len(drawn.images), seed, drawn.step)
                        report.scores.append(score)
                        report.pictures[probe, score.place, name] = drawn.images[:SHOWN]
            except NotAvailable as reason:
                report.unavailable[probe if name == "pipeline" else f"{probe} ({name})"] = str(reason)
            report.seconds[name][probe] = round(time.perf_counter() - start, 2)
            if callback is not None:
                callback(f"{name}: {probe}", 1, 1)
    report.measure = {
        "judge": judge.name,
        "label": label,
        "pictures_a_share": count,
        "seed": seed,
        "attackers_pictures": len(attackers),
        "attackers_pictures_from": None if not attackers else "the reference" if pictures is None else "the caller",
        **{name: value for name, value in sampling.items() if isinstance(value, str | int | float)},
    }
    report.versions = {name: version(name) for name in ("scissorhands_hf", "diffusers", "transformers", "torch")}
    return report


class Counted:
    """In how many pictures a judge sees the concept."""

    def __init__(self, judge: Judge, label: str, alternatives: Sequence[str]) -> None:
        self._judge, self._label = judge, label
        self._candidates = [label, *(other for other in alternatives if other != label)]

    def __call__(self, images: Sequence[Image]) -> int:
        return sum(self.each(images))

    def each(self, images: Sequence[Image]) -> list[bool]:
        return [self._label in seen for seen in self._judge(images, self._candidates)]


def _checked(probes: Sequence[str]) -> list[str]:
    if isinstance(probes, str) or not probes:
        raise ValueError(f"probes={probes!r} must be a list of one or more of {', '.join(PROBES)}")
    if unknown := [probe for probe in probes if probe not in PROBES]:
        raise ValueError(f"probes has {unknown}; those known are {', '.join(PROBES)}")
    return [probe for probe in PROBES if probe in probes]


def _open(argument: str, model: Any, like: Any = None) -> Any:
    """The pipeline, or that of an id or folder, on the device and in the dtype of another one."""
    import torch
    from diffusers import DiffusionPipeline

    if isinstance(model, str | Path):
        dtype = torch.float32 if like is None else like.dtype
        # diffusers below 0.42 knows this argument by this name alone; its own default is float32.
        kind = {} if dtype == torch.float32 else {"torch_dtype": dtype}
        opened = DiffusionPipeline.from_pretrained(model, use_safetensors=True, **kind)
        return opened if like is None else opened.to(like.device)
    if not isinstance(model, DiffusionPipeline):
        raise TypeError(f"{argument} is a {type(model).__name__}; give a diffusers pipeline, or its id or folder")
    return model


def _attackers_pictures(subject: Subject, given: Any, reference: Any, counted: Counted, wanted: int) -> list[Image]:
    """The pictures given, brought to the pipeline's size; else those of the reference that show the concept; else none."""
    if given is not None:
        return fitted(read_pictures("pictures", given)[0], subject)
    if reference is None:
        return []
    drawing = replace(subject, pipe=_open("reference", reference, subject.pipe), count=wanted)
    images: list[Image] = []
    for attempt in range(MOST_TRIES):
        drawn = drawing.draw_prompts(subject.wording.prompts["words"], f"attacker's pictures {attempt}")
        images += [image for image, seen in zip(drawn, counted.each(drawn), strict=True) if seen]
        if len(images) >= wanted:
            return images[:wanted]
    raise ValueError(
        f"reference: the judge sees {subject.wording.concept!r} in {len(images)} of {MOST_TRIES * wanted} of its pictures, "
        f"where {wanted} are needed; give pictures=, another reference or judge, or drawn_pictures={max(1, len(images))}"
    )


def fitted(pictures: Sequence[Image], subject: Subject) -> list[Image]:
    """Pictures of the size that the pipeline draws, their middle if they have another shape."""
    from PIL import ImageOps

    size = picture_size(subject)
    return [picture if picture.size == size else ImageOps.fit(picture, size) for picture in pictures]


def picture_size(subject: Subject) -> tuple[int, int]:
    """Width and height, in pixels, of what the pipeline draws: one picture of a single step tells."""
    quick = {**subject.sampling, "num_inference_steps": 2}
    one = replace(subject, count=1, sampling=quick)
    with undisturbed(subject.pipe):
        return one.draw("size", lambda places: {"prompt": [""]})[0].size
