"""The data of a run: pictures of the concept and of what is kept, as latents, noisy examples and targets. Each made once."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .config import ConceptErasureConfig
from .examples import NoisyExamples, PromptTable, precompute_targets
from .families import Family, NoiseProcess
from .objectives import negative_guidance
from .pictures import read_pictures
from .progress import Reporter
from .prompts import ConceptPrompts


# Held-out noisy examples of each set, on which the trade-off is measured.
EVALUATION_EXAMPLES = 128


@dataclass
class ErasureData:
    """``examples``: retain and forget, to train on; retain and forget, held out."""

    examples: tuple[NoisyExamples, NoisyExamples, NoisyExamples, NoisyExamples]
    table: PromptTable
    seconds: float


def prepare_data(
    family: Family,
    args: ConceptErasureConfig,
    prompts: ConceptPrompts,
    sampling: dict[str, Any],
    forget_images: Any,
    retain_images: Any,
    reporter: Reporter,
) -> ErasureData:
    """Draw or read the pictures, encode the prompts, cover the pictures with noise and fix what is to be predicted on them.

    Raises:
        ValueError: pictures that cannot be used; a denoiser whose predictions are not finite.
    """
    started = time.perf_counter()
    show = not args.disable_tqdm
    if forget_images is not None:
        latents, _ = _read(family, "forget_images", forget_images)
        forget_texts = [prompts.forget[number % len(prompts.forget)] for number in range(len(latents))]
        forget_latents = latents
    else:
        count = args.pictures_per_concept * len(prompts.concepts)
        forget_texts = [prompts.forget[number % len(prompts.forget)] for number in range(count)]
        forget_latents = None
    if retain_images is not None:
        retain_latents, captions = _read(family, "retain_images", retain_images)
        # A picture without words goes with no words: what the original says of it there is kept all the same.
        retain_texts = [caption or "" for caption in captions]
    else:
        retain_latents, retain_texts = None, prompts.retain

    to_draw = (len(forget_texts) if forget_latents is None else 0) + (len(retain_texts) if retain_latents is None else 0)
    with tqdm(total=to_draw, desc="Pictures", disable=not show or not to_draw) as bar:

        def drawn(count: int) -> None:
            bar.update(count)
            reporter.tell("pictures", int(bar.n) if show else drawn.total, to_draw)

        drawn.total = 0

        def draw(texts: list[str], offset: int) -> Tensor:
            parts = []
            for start in range(0, len(texts), batch := 16):
                chunk = texts[start : start + batch]
                seeds = [args.seed * 1_000_003 + offset + start + row for row in range(len(chunk))]
                parts.append(family.sample_latents(chunk, seeds, sampling).float())
                drawn.total += len(chunk)
                drawn(len(chunk))
            return torch.cat(parts)

        if forget_latents is None:
            forget_latents = draw(forget_texts, 0)
        if retain_latents is None:
            retain_latents = draw(retain_texts, 500_000)

    table = PromptTable.encode(family, ["", *prompts.forget, *prompts.anchors, *retain_texts])
    anchor_of = dict(zip(prompts.forget, prompts.anchors, strict=True))
    noise = family.noise_process()
    per_epoch = -(-args.max_steps // int(args.num_train_epochs)) * args.gradient_accumulation_steps * args.world_size
    counts = {
        "retain": per_epoch * args.per_device_train_batch_size,
        "forget": per_epoch * args.per_device_forget_batch_size,
    }

    def examples(latents: Tensor, texts: list[str], count: int, seed: int) -> NoisyExamples:
        rows = torch.tensor([table.rows[text] for text in texts])
        anchors = torch.tensor([table.rows[anchor_of.get(text, "")] for text in texts])
        return _noisy(latents, rows, anchors, noise, count, args.seed * 8 + seed)

    retain = examples(retain_latents, retain_texts, counts["retain"], 1)
    forget = examples(forget_latents, forget_texts, counts["forget"], 2)
    retain_eval = examples(retain_latents, retain_texts, EVALUATION_EXAMPLES, 3)
    forget_eval = examples(forget_latents, forget_texts, EVALUATION_EXAMPLES, 4)
    _fix_targets(family, args, table, (retain, retain_eval), (forget, forget_eval), reporter)
    return ErasureData((retain, forget, retain_eval, forget_eval), table, time.perf_counter() - started)


def _read(family: Family, argument: str, source: Any) -> tuple[Tensor, list[str | None]]:
    pictures, captions = read_pictures(argument, source)
    try:
        parts = [family.encode_images(pictures[start : start + 16]) for start in range(0, len(pictures), 16)]
        return torch.cat(parts).float(), captions
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{argument}: {error}") from error


def _noisy(latents: Tensor, rows: Tensor, anchors: Tensor, noise: NoiseProcess, count: int, seed: int) -> NoisyExamples:
    return NoisyExamples(latents, rows, anchors, noise, count, seed)


def _fix_targets(
    family: Family,
    args: ConceptErasureConfig,
    table: PromptTable,
    retain: tuple[NoisyExamples, NoisyExamples],
    forget: tuple[NoisyExamples, NoisyExamples],
    reporter: Reporter,
) -> None:
    """By the objectives; what keeps its denoising target needs no pass of the original."""

    def predict(batch: dict[str, Tensor], rows: Tensor) -> Tensor:
        return family.predict(family.denoiser, batch["noisy"], batch["timesteps"], table[rows]).float()

    def distilled(batch: dict[str, Tensor]) -> Tensor:
        return predict(batch, batch["prompt"])

    def redirected(batch: dict[str, Tensor]) -> Tensor:
        return predict(batch, batch["anchor"])

    def negated(batch: dict[str, Tensor]) -> Tensor:
        empty = torch.full_like(batch["prompt"], table.rows[""])
        return negative_guidance(predict(batch, batch["prompt"]), predict(batch, empty), args.negative_guidance_strength)

    jobs = []
    if args.retain_objective == "distillation":
        jobs += [(examples, distilled) for examples in retain]
    rule = {"redirect": redirected, "negative_guidance": negated}.get(args.forget_objective)
    if rule is not None:
        jobs += [(examples, rule) for examples in forget]
    total, done = sum(len(examples) for examples, _ in jobs), 0
    family.denoiser.eval()
    for examples, rule in jobs:
        before = done
        precompute_targets(
            examples,
            rule,
            batch=picture_batch(examples.latents),
            on_batch=lambda step, _, before=before: reporter.tell("targets", before + step, total),
            show_progress=not args.disable_tqdm and len(examples) > EVALUATION_EXAMPLES,
            label="Targets",
        )
        done += len(examples)


def picture_batch(latents: Tensor) -> int:
    """Noisy pictures predicted at once: many of a tiny model's, few of a large one's (2^18 latent values in all)."""
    return max(1, min(128, 2**18 // latents[0].numel()))
