"""The data of a run: pictures of the concept and of what is kept, as latents, noisy examples and targets. Each made once."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..audit.drawing import pictures_at_once, pictures_of_size
from ..audit.pictures import read_captions, read_pictures
from ..trainer.run_progress import Reporter
from .compounds import clear_of
from .erasure_config import ConceptErasureConfig
from .families import Family
from .noisy_examples import NoisyExamples, PromptTable, picture_batch, precompute_targets
from .objectives import negative_guidance
from .prompts import ConceptPrompts
from .recognition import Recognition
from .request import ErasureRequest
from .text_edit import TextEdit
from .vocabulary import with_captions_of


# Held-out noisy examples predicted at once, at most.
EVALUATED_AT_ONCE = 32


@dataclass
class Material:
    """Pictures as latents, float32 (n, *latent shape) on the CPU, each with its prompt; all prompts encoded; the edit of text
    layers, if there is to be one; seconds it took."""

    forget_latents: Tensor
    forget_texts: list[str]
    retain_latents: Tensor
    retain_texts: list[str]
    table: PromptTable
    edit: TextEdit | None
    seconds: float


Examples = tuple[NoisyExamples, NoisyExamples, NoisyExamples, NoisyExamples]


def gather_material(request: ErasureRequest, reporter: Reporter) -> Material:
    """Draw or read the pictures and encode the prompts, with the pipeline as it is, in its own dtype.

    Raises:
        ValueError: pictures that cannot be used.
    """
    started = time.perf_counter()
    family, args, prompts, sampling = request.family, request.args, request.prompts, request.sampling
    if "guidance_scale" in sampling:
        sampling = {**sampling, "guidance_scale": min(sampling["guidance_scale"], args.picture_guidance)}
    forget_count = args.pictures_per_concept * len(prompts.concepts)
    forget_latents = retain_latents = None
    retain_texts = prompts.retain
    if request.forget_images is not None:
        forget_latents, _ = _read(family, "forget_images", request.forget_images)
        forget_count = len(forget_latents)
    if request.retain_images is not None:
        retain_latents, captions = _read(family, "retain_images", request.retain_images)
        # A picture without words goes with no words: what the original says of it there is kept all the same.
        retain_texts = [caption or "" for caption in captions]
    forget_texts = _forget_texts(list(prompts.asking.values()), forget_count)

    to_draw = [texts for texts, given in ((forget_texts, forget_latents), (retain_texts, retain_latents)) if given is None]
    total, at_once = sum(map(len, to_draw)), pictures_at_once(request.pipe, sampling)
    with tqdm(total=total, desc="Pictures", disable=args.disable_tqdm or not total) as bar:
        done = 0

        def draw(texts: list[str], offset: int) -> Tensor:
            nonlocal done
            parts = []
            for start in range(0, len(texts), at_once):
                chunk = texts[start : start + at_once]
                seeds = [args.seed * 1_000_003 + offset + start + row for row in range(len(chunk))]
                parts.append(family.sample_latents(chunk, seeds, sampling).float().cpu())
                done += len(chunk)
                bar.update(len(chunk))
                reporter.tell("pictures", done, total)
            return torch.cat(parts)

        if total:
            reporter.tell("pictures", 0, total)
        if forget_latents is None:
            forget_latents = draw(forget_texts, 0)
        if retain_latents is None:
            retain_latents = draw(retain_texts, 500_000)
    table = PromptTable.encode(
        family, ["", *prompts.forget, *prompts.anchors, *retain_texts, *prompts.near, *_in_place(prompts, forget_texts)]
    )
    edit = None
    if args.forget_objective == "closed_form":
        edit = TextEdit(family, args)
        kept = _kept_by_edit(prompts, retain_texts if request.retain_images is not None else [], args.seed)
        edit.gather(prompts.edits, kept, retain_latents, partial(reporter.tell, "prompts"))
    seconds = time.perf_counter() - started
    return Material(forget_latents, forget_texts, retain_latents, retain_texts, table, edit, seconds)


def gather_edit(request: ErasureRequest, reporter: Reporter) -> TextEdit:
    """The edit of text layers alone, for which no picture is needed but one, for its size."""
    family, prompts, args = request.family, request.prompts, request.args
    latents = family.sample_latents([""], [args.seed], {**request.sampling, "num_inference_steps": 2})
    edit = TextEdit(family, args)
    given = [] if request.retain_images is None else read_captions("retain_images", request.retain_images)
    kept = _kept_by_edit(prompts, [text for text in given if text is not None], args.seed)
    edit.gather(prompts.edits, kept, latents, partial(reporter.tell, "prompts"))
    return edit


def _kept_by_edit(prompts: ConceptPrompts, given: Sequence[str], seed: int) -> list[str]:
    """What text layers are to answer as before; `given` are the captions of the user's pictures."""
    captions = with_captions_of(given, prompts.captions, lambda text: clear_of(text, prompts.concepts), seed)
    return list(dict.fromkeys([*prompts.kept_texts, *captions]))


def make_examples(request: ErasureRequest, material: Material, reporter: Reporter) -> Examples:
    """Cover the pictures with noise and fix what is to be predicted on them while the model still is the original.

    Returns:
        Retain and forget examples to train on, and retain and forget examples held out: other noise, the same pictures.

    Raises:
        ValueError: the denoiser's predictions are not finite.
    """
    family, args, prompts = request.family, request.args, request.prompts
    recognition = None
    if args.forget_objective == "removal":
        recognition = Recognition.of(request, material)
        material = recognition.kept_alone(material)
    empty_share = args.empty_prompt_share
    anchor_of = dict(zip(prompts.forget, prompts.anchors, strict=True))
    rows, noise = material.table.rows, family.noise_process()
    per_epoch = -(-args.max_steps // int(args.num_train_epochs)) * args.gradient_accumulation_steps * args.world_size

    def examples(
        latents: Tensor, texts: list[str], count: int, number: int, empty_share: float, above: float = 0.0
    ) -> NoisyExamples:
        own = torch.tensor([rows[text] for text in texts])
        anchors = torch.tensor([rows[anchor_of.get(text, "")] for text in texts])
        return NoisyExamples(latents, own, anchors, noise, count, args.seed * 8 + number, empty_share, rows[""], above)

    retain_set = material.retain_latents, material.retain_texts
    if args.retain_objective == "distillation" and prompts.near:
        retain_set = _with_contrast(material, prompts.near)
    forget_set = material.forget_latents, material.forget_texts
    # Of what is kept only "removal" tells, without words, how much of it is the concept's.
    kept_share = 0.0 if recognition is None else empty_share
    above = 0.0 if recognition is None else args.removal_least_noise
    retain = examples(*retain_set, per_epoch * args.per_device_train_batch_size, 1, kept_share)
    forget = examples(*forget_set, per_epoch * args.forget_batch_size, 2, empty_share, above)
    retain_eval = examples(*retain_set, args.evaluation_examples, 3, kept_share)
    forget_eval = examples(*forget_set, args.evaluation_examples, 4, empty_share, above)
    if args.per_device_eval_batch_size is None:
        args.per_device_eval_batch_size = min(EVALUATED_AT_ONCE, picture_batch(material.retain_latents))
    _fix_targets(family, args, material, (retain, retain_eval), (forget, forget_eval), reporter, prompts.compounds, recognition)
    return retain, forget, retain_eval, forget_eval


def _with_contrast(material: Material, near: list[str]) -> tuple[Tensor, list[str]]:
    """The retain set and, of a compound's pictures, some with prompts that are near to its own: there, too, the model is to say
    what it said, so that the words alone make the difference."""
    count = max(1, min(len(material.forget_latents), len(material.retain_latents) // 2))
    chosen = torch.linspace(0, len(material.forget_latents) - 1, count).round().long()
    texts = [near[number % len(near)] for number in range(count)]
    return torch.cat([material.retain_latents, material.forget_latents[chosen]]), [*material.retain_texts, *texts]


def _in_place(prompts: ConceptPrompts, forget_texts: list[str]) -> list[str]:
    """What is asked for in the place of the forget pictures' prompts, and of each concept's first, which names it."""
    asked = [*forget_texts, *(own[0] for own in prompts.asking.values())]
    return [text for prompt in dict.fromkeys(asked) for text in prompts.others.get(prompt, [])]


def _forget_texts(asking: list[list[str]], count: int) -> list[str]:
    """A prompt for each of `count` pictures: the concepts in turn, and of each its prompts in turn or, where there are more of
    them than pictures, evenly over their list."""
    most = -(-count // len(asking))
    texts = []
    for number in range(count):
        prompts, turn = asking[number % len(asking)], number // len(asking)
        texts.append(prompts[turn * len(prompts) // most if most < len(prompts) else turn % len(prompts)])
    return texts


def _read(family: Family, argument: str, source: Any) -> tuple[Tensor, list[str | None]]:
    pictures, captions = read_pictures(argument, source)
    try:
        at_once = pictures_of_size(*pictures[0].size)
        parts = [family.encode_images(pictures[at : at + at_once]).float().cpu() for at in range(0, len(pictures), at_once)]
        return torch.cat(parts), captions
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{argument}: {error}") from error


def _fix_targets(
    family: Family,
    args: ConceptErasureConfig,
    material: Material,
    retain: tuple[NoisyExamples, NoisyExamples],
    forget: tuple[NoisyExamples, NoisyExamples],
    reporter: Reporter,
    compounds: list[str],
    recognition: Recognition | None,
) -> None:
    """By the objectives; what keeps its denoising target needs no pass of the original."""
    table = material.table

    def predict(batch: dict[str, Tensor], rows: Tensor) -> Tensor:
        return family.predict(family.denoiser, batch["noisy"].to(family.device), batch["timesteps"], table[rows]).float().cpu()

    def distilled(batch: dict[str, Tensor]) -> Tensor:
        return predict(batch, batch["prompt"])

    def redirected(batch: dict[str, Tensor]) -> Tensor:
        return predict(batch, batch["anchor"])

    def beyond(batch: dict[str, Tensor]) -> Tensor:
        return negative_guidance(predict(batch, batch["prompt"]), predict(batch, batch["anchor"]), args.closed_form_overshoot)

    def negated(batch: dict[str, Tensor]) -> Tensor:
        empty = torch.full_like(batch["prompt"], table.rows[""])
        return negative_guidance(predict(batch, batch["prompt"]), predict(batch, empty), args.negative_guidance_strength)

    def removed(batch: dict[str, Tensor]) -> Tensor:
        return recognition.forget_target(batch, predict)

    def kept(batch: dict[str, Tensor]) -> Tensor:
        return recognition.kept_target(batch, predict)

    jobs = []
    if args.retain_objective == "distillation":
        jobs += [(examples, distilled if recognition is None else kept) for examples in retain]
    rules = {"redirect": redirected, "negative_guidance": negated, "closed_form": distilled, "removal": removed}
    rule = rules.get(args.forget_objective)
    if rule is not None:
        jobs += [(examples, rule) for examples in forget]
    total, done = sum(len(examples) for examples, _ in jobs), 0
    family.denoiser.eval()
    if total:
        reporter.tell("targets", 0, total)
    for examples, rule in jobs:
        before = done
        # Forget examples: what the edited text layers make the rest of the original say.
        with nullcontext() if material.edit is None or examples in retain else material.edit.applied():
            precompute_targets(
                examples,
                rule,
                batch=picture_batch(examples.latents),
                on_batch=lambda step, _, before=before: reporter.tell("targets", before + step, total),
                show_progress=not args.disable_tqdm and len(examples) > args.evaluation_examples,
                label="Targets",
            )
        done += len(examples)
    if material.edit is not None and compounds:
        _lead_apart(forget, {table.rows[text] for text in compounds}, beyond, args)


def _lead_apart(
    forget: Sequence[NoisyExamples],
    compounds: set[int],
    rule: Callable[[dict[str, Tensor]], Tensor],
    args: ConceptErasureConfig,
) -> None:
    """Other targets for examples of compounds. Linear layers that read states of "red" and of "dress" cannot answer the two
    together without the one and the other; what the whole original says of both prompts can be told apart."""
    for examples in forget:
        own = torch.tensor([int(examples.prompts[picture]) in compounds for picture in examples.pictures])
        if not own.any():
            continue
        edited = examples.targets
        precompute_targets(
            examples, rule, picture_batch(examples.latents), lambda step, total: None, False, "Targets of compounds"
        )
        own = own.view(-1, *[1] * (edited.ndim - 1)).to(edited.device)
        examples.targets = torch.where(own, examples.targets, edited)
