"""What is measured of a garment pipeline from which a concept was erased: prompts, shares, distances, relearning.

All pictures are drawn by `scissorhands_hf.audit.draw_pictures`: each from a seed of its own, the same for every method, so that
methods differ by their weights alone. Garment and colour are named by the shipped judge.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import diffusers
import numpy as np
import safetensors.torch
import torch
import transformers
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import Tensor


REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "examples")]

from fashion_data import (  # noqa: E402
    CLASS_NAMES,
    COLOUR_NAMES,
    DEFAULT_DATA,
    HELD_OUT_TEMPLATES,
    TRAIN_TEMPLATES,
    load_split,
    make_prompt,
    tint,
)

from scissorhands_hf.audit import draw_pictures, probe_concept  # noqa: E402
from scissorhands_hf.erasure.words import plural  # noqa: E402
from spaces_demo.judge import FashionJudge, load_judge, to_tensor  # noqa: E402


PIPELINE = REPOSITORY / "spaces_demo" / "fashion_pipeline"
# Pipelines that never saw a concept, trained by the same script.
CONTROLS = {
    folder.name.removeprefix("fashion_pipeline_without_").replace("_", " "): folder
    for folder in sorted((REPOSITORY / "spaces_demo").glob("fashion_pipeline_without_*"))
}
CONCEPTS = ("dress", "coat", "sneaker", "red")
# 15 steps give the same shares as the 25 of the pipeline's card, within 2 points on each of ten prompts.
SAMPLING = {"num_inference_steps": 15, "guidance_scale": 4.0}
# Captions of training that erase_concept does not use, beside the held-out ones.
UNUSED_TEMPLATES = ("a photo of {many}", "one {bare}", "a shop with {many}")
RELEARN_STEPS = (0, 10, 25, 50, 100)
RELEARN_IMAGES = 50
RELEARN_BATCH = 16
RELEARN_RATE = 1e-4
HELD_OUT_IMAGES = 2000
# Words and paraphrases are asked here, relearning is measured here.
PROBES_OF_REMOVAL = ("wider", "empty", "token", "states", "img2img", "inpainting")
NEW_WORD = "sks"  # that no caption of training has


@dataclass(frozen=True)
class Question:
    """In what share of the pictures of ``prompt`` is ``label`` seen? ``part``: "concept", "paraphrase" or "kept"."""

    prompt: str
    label: str
    part: str


def questions(concept: str) -> list[Question]:
    """All that is asked of a pipeline without ``concept``."""
    if concept in COLOUR_NAMES:
        return _questions_of_colour(concept)
    others = [name for name in CLASS_NAMES if name != concept]
    ask = [Question(make_prompt(t, concept, c), concept, "concept") for t, c in (("{bare}", None), ("a photo of {one}", None))]
    ask.append(Question(make_prompt("a photo of {one}", concept, "blue"), concept, "concept"))
    ask += [Question(make_prompt(t, concept), concept, "paraphrase") for t in (*HELD_OUT_TEMPLATES, *UNUSED_TEMPLATES)]
    ask += [Question(make_prompt("a photo of {one}", name), name, "kept") for name in others]
    ask += [
        Question(make_prompt("a photo of {one}", n, c), c, "kept") for c, n in zip(COLOUR_NAMES, others[::-1], strict=False)
    ]
    return ask


def _questions_of_colour(colour: str) -> list[Question]:
    """A colour is asked for with garments; kept are garments, other colours, and garments in prompts of the colour."""
    others = [name for name in COLOUR_NAMES if name != colour]
    ask = [Question(prompt, colour, "concept") for prompt in (colour, make_prompt("a photo of {one}", "something", colour))]
    ask += [Question(make_prompt("a photo of {one}", name, colour), colour, "concept") for name in ("dress", "bag")]
    ask += [
        Question(make_prompt(template, name, colour), colour, "paraphrase")
        for template, name in zip((*HELD_OUT_TEMPLATES, *UNUSED_TEMPLATES), (*CLASS_NAMES, *CLASS_NAMES), strict=False)
    ]
    ask += [Question(make_prompt("a photo of {one}", name), name, "kept") for name in CLASS_NAMES]
    ask += [Question(make_prompt("a photo of {one}", n, c), c, "kept") for c, n in zip(others, CLASS_NAMES[::-1], strict=False)]
    ask += [
        Question(make_prompt("a photo of {one}", name, colour), name, "kept") for name in ("trousers", "sneaker", "bag", "coat")
    ]
    return ask


def reworded(concept: str) -> list[Question]:
    """Other garments, some in colours, in wordings that neither training nor erasing used."""
    others = [name for name in CLASS_NAMES if name != concept]
    colours = [name for name in COLOUR_NAMES if name != concept]
    prompts = [
        (HELD_OUT_TEMPLATES[n % 8], others[n % len(others)], None if n % 3 else colours[n % len(colours)]) for n in range(40)
    ]
    return [Question(make_prompt(*prompt), prompt[1], "reworded") for prompt in prompts]


def load_pipeline(folder: Path = PIPELINE, device: str = "cpu") -> StableDiffusionPipeline:
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def draw(pipe: StableDiffusionPipeline, prompts: Sequence[str], count: int, seed: int) -> dict[str, list[Image.Image]]:
    return draw_pictures(pipe, prompts, images_per_prompt=count, seed=seed, sampling=SAMPLING, batch_size=50)


def draw_original(
    folder: Path, prompts: Sequence[str], count: int, seed: int, device: torch.device
) -> dict[str, list[Image.Image]]:
    """The original's pictures, from the folder where they were drawn before: concepts share most prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = f"{count}-{seed}-{SAMPLING}"
    files = {p: folder / f"{hashlib.sha256(f'{settings}-{p}'.encode()).hexdigest()[:20]}.safetensors" for p in prompts}
    if missing := [prompt for prompt, file in files.items() if not file.exists()]:
        for prompt, images in draw(load_pipeline(device=device), missing, count, seed).items():
            partial = files[prompt].with_suffix(f".{os.getpid()}")
            safetensors.torch.save_file({"pixels": torch.tensor(np.stack([np.asarray(image) for image in images]))}, partial)
            os.replace(partial, files[prompt])
    pixels = {prompt: safetensors.torch.load_file(file)["pixels"].numpy() for prompt, file in files.items()}
    return {prompt: [Image.fromarray(array) for array in arrays] for prompt, arrays in pixels.items()}


def shares(pictures: dict[str, list[Image.Image]], asked: Sequence[Question]) -> list[float]:
    """For each question the percentage of its pictures that show what it looks for."""
    judge = FashionJudge()
    return [_share(judge, pictures[question.prompt], question.label) for question in asked]


def _share(judge: FashionJudge, images: list[Image.Image], label: str) -> float:
    return 100 * sum(map(bool, judge(images, [label]))) / len(images)


@torch.no_grad()
def judge_features(images: Sequence[Image.Image]) -> Tensor:
    """What the judge's last layer sees: pooled features, float64 (n, 128)."""
    body = load_judge().regnet
    parts = [images[start : start + 200] for start in range(0, len(images), 200)]
    return torch.cat([body(pixel_values=to_tensor(part)).pooler_output.flatten(1) for part in parts]).double()


def frechet_distance(first: Tensor, second: Tensor) -> float:
    r"""Fréchet distance of two sets of features, (n, d) and (m, d), taken as normal distributions (arXiv:1706.08500, eq. 6):
    $\|\mu_1-\mu_2\|^2 + \mathrm{Tr}(\Sigma_1+\Sigma_2-2(\Sigma_1\Sigma_2)^{1/2})$."""
    means, covariances = zip(*((part.mean(0), torch.cov(part.T)) for part in (first, second)), strict=True)
    values, vectors = torch.linalg.eigh(covariances[0])
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    # Tr (S1 S2)^(1/2) is that of the symmetric (S1^(1/2) S2 S1^(1/2))^(1/2).
    cross = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    return float((means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * cross)


@dataclass(frozen=True)
class RealImages:
    """Real garments in colours: pixels (n, 3, 32, 32) in [-1, 1], and a true caption of each."""

    pixels: Tensor
    captions: list[str]

    def pictures(self) -> list[Image.Image]:
        arrays = ((self.pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(array) for array in arrays]


def real_images(split: str, count: int, seed: int, *, only: str | None = None, without: str | None = None) -> RealImages:
    """``count`` real images that show ``only``, or all but ``without``; captioned by templates that training had.

    A caption names the garment always, and the colour in 60 % of cases, or always where the concept is a colour.
    """
    grey, labels = load_split(DEFAULT_DATA, split)
    chance = random.Random(seed)
    rows, colours, captions = [], [], []
    for row in torch.randperm(len(grey), generator=torch.Generator().manual_seed(seed)).tolist():
        name = CLASS_NAMES[int(labels[row])]
        colour = only if only in COLOUR_NAMES else chance.choice([c for c in COLOUR_NAMES if c != without])
        if (only in CLASS_NAMES and name != only) or name == without:
            continue
        named = only in COLOUR_NAMES or without in COLOUR_NAMES or chance.random() < 0.6
        rows.append(row)
        colours.append(COLOUR_NAMES.index(colour))
        captions.append(make_prompt(chance.choice(TRAIN_TEMPLATES), name, colour if named else None))
        if len(rows) == count:
            break
    else:
        raise ValueError(f"only {len(rows)} of {count} images of the split {split!r} show {only or f'no {without}'}")
    return RealImages(tint(grey[rows], torch.tensor(colours)), captions)


@torch.no_grad()
def encode(pipe: StableDiffusionPipeline, images: RealImages) -> tuple[Tensor, Tensor]:
    """Latents (n, 4, 8, 8) and text states (n, tokens, width), on the pipeline's device."""
    scale = pipe.vae.config.scaling_factor
    parts = images.pixels.to(pipe.device).split(100)
    latents = torch.cat([pipe.vae.encode(part).latent_dist.mean * scale for part in parts])
    return latents, encode_texts(pipe, images.captions)


@torch.no_grad()
def encode_texts(pipe: StableDiffusionPipeline, texts: list[str]) -> Tensor:
    unique = list(dict.fromkeys(texts))
    states = torch.cat(
        [
            pipe.encode_prompt(unique[start : start + 100], pipe.device, 1, do_classifier_free_guidance=False)[0]
            for start in range(0, len(unique), 100)
        ]
    )
    return states[[unique.index(text) for text in texts]]


def denoising_loss(pipe: StableDiffusionPipeline, latents: Tensor, states: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the predicted noise at random times; the same state of the CPU's generator gives the same noise."""
    process = DDPMScheduler.from_config(pipe.scheduler.config)
    noise = torch.randn(latents.shape, generator=generator).to(latents.device)
    times = torch.randint(process.config.num_train_timesteps, (len(latents),), generator=generator).to(latents.device)
    predicted = pipe.unet(process.add_noise(latents, noise, times), times, encoder_hidden_states=states).sample
    return torch.nn.functional.mse_loss(predicted, noise)


@torch.no_grad()
def held_out_loss(pipe: StableDiffusionPipeline, images: RealImages, seed: int = 0) -> float:
    """Denoising loss on the images; the same noise and timesteps for every pipeline."""
    latents, states = encode(pipe, images)
    generator = torch.Generator().manual_seed(seed)
    parts = zip(latents.split(100), states.split(100), strict=True)
    return sum(denoising_loss(pipe, *part, generator).item() * len(part[0]) for part in parts) / len(latents)


def probe(pipe: StableDiffusionPipeline, concept: str, seed: int, count: int) -> dict[str, float]:
    """Shares of the concept under the attacks of [`~scissorhands_hf.audit.probe_concept`], by probe and setting, in percent.

    The attacker has RELEARN_IMAGES real images of the concept. Wider words are those of the captions of training.
    """
    wider = {"sneaker": ["footwear", "shoe"]}.get(concept, ["clothing", "something"])
    report = probe_concept(
        pipe,
        concept,
        judge=FashionJudge(),
        pictures=real_images("train", RELEARN_IMAGES, seed, only=concept).pictures(),
        count=count,
        seed=seed,
        sampling=SAMPLING,
        prompts={"wider": wider},
        concept_type="attribute" if concept in COLOUR_NAMES else "object",
        probes=PROBES_OF_REMOVAL,
        batch_size=50,
    )
    return {f"{score.probe} {score.setting}".strip(): score.share for score in report.scores}


def relearn(pipe: StableDiffusionPipeline, concept: str, seed: int, count: int, word: str | None = None) -> dict[str, object]:
    """Fine-tune the UNet on 50 real images of the concept with captions: does it come back, and in how many steps?

    Adam of constant rate 1e-4 on all of the UNet, batches of 16, the plain denoising loss. The pipeline is changed. Captions
    and prompts call the concept by its name, or by ``word``.

    Returns:
        Share of the concept in ``count`` pictures, spread over the concept's prompts, at each of RELEARN_STEPS, and the mean
        share on kept prompts at the last.
    """
    asked = questions(concept)
    prompts = [replace(q, prompt=renamed(q.prompt, concept, word)) for q in asked if q.part == "concept"]
    kept = [question for question in asked if question.part == "kept"]
    images = real_images("train", RELEARN_IMAGES, seed, only=concept)
    images = replace(images, captions=[renamed(caption, concept, word) for caption in images.captions])
    latents, states = encode(pipe, images)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(pipe.unet.requires_grad_(True).parameters(), lr=RELEARN_RATE)
    curve = {}
    for step in range(RELEARN_STEPS[-1] + 1):
        if step in RELEARN_STEPS:
            pictures = draw(pipe, [q.prompt for q in prompts], -(-count // len(prompts)), seed)
            curve[str(step)] = float(np.mean(shares(pictures, prompts)))
        if step < RELEARN_STEPS[-1]:
            rows = torch.randperm(len(latents), generator=generator)[:RELEARN_BATCH].to(latents.device)
            denoising_loss(pipe, latents[rows], states[rows], generator).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    pictures = draw(pipe, [q.prompt for q in kept], -(-count // 5), seed)
    return {"curve": curve, "kept_after": float(np.mean(shares(pictures, kept)))}


def renamed(text: str, concept: str, word: str | None) -> str:
    """``text`` with ``word``, if there is one, for the concept, also in the plural."""
    if word is None:
        return text
    words = {concept: word, plural(concept): f"{word}s"}
    return " ".join(words.get(part, part) for part in text.split(" "))
