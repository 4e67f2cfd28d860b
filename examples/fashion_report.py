"""Draw with a trained garment pipeline, have it judged, and write its card: no number in it that was not measured."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from fashion_data import (
    CLASS_NAMES,
    COLOUR_NAMES,
    HELD_OUT_TEMPLATES,
    SUPER_CATEGORIES,
    TRAIN_TEMPLATES,
    load_split,
    make_prompt,
    tint,
)
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from spaces_demo.judge import judge_images, load_judge


FIGURES_NAME = "figures.json"
DRAWN_AT_ONCE = 60


def read_figures(folder: Path) -> dict[str, Any]:
    path = folder / FIGURES_NAME
    return json.loads(path.read_text()) if path.exists() else {}


def write_figures(folder: Path, **sections: dict[str, Any]) -> None:
    """Replace the given sections of the folder's figures and keep the others."""
    figures = read_figures(folder) | sections
    (folder / FIGURES_NAME).write_text(json.dumps(figures, indent=2) + "\n")


def to_images(batch: torch.Tensor) -> list[Image.Image]:
    """Pictures of a (N, 3, H, W) batch in [-1, 1]."""
    arrays = ((batch.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(array) for array in arrays]


def _share(hits: list[bool]) -> float:
    return round(100 * sum(hits) / len(hits), 1)


def _real_test_images(data: Path, seed: int = 0) -> tuple[torch.Tensor, list[str], list[str]]:
    """The test split, tinted with random colours: pixels, true objects, true colours."""
    grey, labels = load_split(data, "t10k")
    colours = torch.randint(len(COLOUR_NAMES), (len(grey),), generator=torch.Generator().manual_seed(seed))
    objects = [CLASS_NAMES[label] for label in labels.tolist()]
    return tint(grey, colours), objects, [COLOUR_NAMES[colour] for colour in colours.tolist()]


def measure_judge(judge_folder: Path, data: Path) -> dict[str, Any]:
    """Accuracy of both halves of the judge on the real test images, which neither has seen."""
    pixels, objects, colours = _real_test_images(data)
    verdicts = judge_images(to_images(pixels), load_judge(judge_folder))
    per_class = {
        name: _share([verdict[0] == name for verdict, true in zip(verdicts, objects, strict=True) if true == name])
        for name in CLASS_NAMES
        if name in objects
    }
    return {
        "test_images": len(objects),
        "object_accuracy": _share([verdict[0] == true for verdict, true in zip(verdicts, objects, strict=True)]),
        "object_accuracy_per_class": per_class,
        "colour_accuracy": _share([verdict[2] == true for verdict, true in zip(verdicts, colours, strict=True)]),
    }


def draw(
    pipeline: DiffusionPipeline,
    prompts: list[str],
    seed: int,
    steps: int,
    guidance_scale: float,
) -> list[Image.Image]:
    """One picture for each prompt; each has its own noise, so a picture does not depend on its neighbours' number."""
    pipeline.set_progress_bar_config(disable=True)
    images: list[Image.Image] = []
    for start in tqdm(range(0, len(prompts), DRAWN_AT_ONCE), desc="drawing", leave=False, mininterval=5, disable=None):
        batch = prompts[start : start + DRAWN_AT_ONCE]
        noise = [torch.Generator().manual_seed(seed * 100_003 + start + row) for row in range(len(batch))]
        images += pipeline(batch, num_inference_steps=steps, guidance_scale=guidance_scale, generator=noise).images
    return images


def measure_pipeline(
    folder: Path, judge_folder: Path, data: Path, count: int, sampler_steps: int, guidance_scale: float, seed: int
) -> dict[str, Any]:
    """Judge `count` pictures per class of the saved pipeline, loaded as strangers load it; writes `samples.png` too."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    judge = load_judge(judge_folder)

    def judged(prompts: list[str], offset: int) -> list[tuple[str, float, str]]:
        return judge_images(draw(pipeline, prompts, seed + offset, sampler_steps, guidance_scale), judge)

    plain: dict[str, dict[str, float]] = {}
    for name in CLASS_NAMES:
        verdicts = judged([make_prompt("a photo of {one}", name)] * count, 1)
        plain[name] = {label: round(100 * n / count, 1) for label, n in Counter(v[0] for v in verdicts).most_common()}

    def combinations(templates: tuple[str, ...], offset: int) -> tuple[dict[str, float], dict[str, float]]:
        """Every class in every colour, going through the templates; shares of right objects and right colours."""
        wanted = [(name, COLOUR_NAMES[row % len(COLOUR_NAMES)], row) for name in CLASS_NAMES for row in range(count)]
        prompts = [
            make_prompt(templates[(row // len(COLOUR_NAMES)) % len(templates)], name, colour) for name, colour, row in wanted
        ]
        pairs = list(zip(wanted, judged(prompts, offset), strict=True))
        objects = {name: _share([v[0] == name for w, v in pairs if w[0] == name]) for name in CLASS_NAMES}
        colours = {colour: _share([v[2] == colour for w, v in pairs if w[1] == colour]) for colour in COLOUR_NAMES}
        return objects, colours

    coloured_objects, coloured_colours = combinations(("a photo of {one}",), 2)
    held_out_objects, held_out_colours = combinations(HELD_OUT_TEMPLATES, 3)
    something = {
        colour: _share([v[2] == colour for v in judged([f"something {colour}"] * count, 4)]) for colour in COLOUR_NAMES
    }
    wider = {
        noun: _share([v[0] in classes for v in judged([make_prompt("a photo of {many}", noun)] * count, 5)])
        for noun, classes in SUPER_CATEGORIES.items()
        if len(classes) < len(CLASS_NAMES)
    }

    pixels, objects, _ = _real_test_images(data)
    pixels, objects = pixels[:1000], objects[:1000]
    with torch.no_grad():
        rebuilt = torch.cat([pipeline.vae(batch).sample for batch in pixels.split(100)])
    sample_grid(pipeline, seed, sampler_steps, guidance_scale).save(folder / "samples.png", optimize=True)
    return {
        "sampler": type(pipeline.scheduler).__name__,
        "sampler_steps": sampler_steps,
        "guidance_scale": guidance_scale,
        "images_per_class": count,
        "seed": seed,
        "judged_as_for_class_prompt": plain,
        "object_share_plain": {name: plain[name].get(name, 0.0) for name in CLASS_NAMES},
        "object_share_coloured": coloured_objects,
        "colour_share_coloured": coloured_colours,
        "object_share_held_out_templates": held_out_objects,
        "colour_share_held_out_templates": held_out_colours,
        "colour_share_something": something,
        "share_inside_super_category": wider,
        "autoencoder_mean_squared_error": round((rebuilt.clamp(-1, 1) - pixels).square().mean().item(), 5),
        "object_accuracy_real_rebuilt": _share(
            [v[0] == true for v, true in zip(judge_images(to_images(rebuilt), judge), objects, strict=True)]
        ),
        "parameters": {
            name: sum(weight.numel() for weight in getattr(pipeline, name).parameters())
            for name in ("vae", "text_encoder", "unet")
        },
    }


def sample_grid(pipeline: DiffusionPipeline, seed: int, steps: int, guidance_scale: float) -> Image.Image:
    """One row a class, two pictures in each colour, with labels; for people's eyes."""
    columns = [colour for colour in COLOUR_NAMES for _ in range(2)]
    prompts = [make_prompt("a photo of {one}", name, colour) for name in CLASS_NAMES for colour in columns]
    images = draw(pipeline, prompts, seed + 6, steps, guidance_scale)
    margin, side = 84, 2 * images[0].width
    grid = Image.new("RGB", (margin + side * len(columns), 20 + side * len(CLASS_NAMES)), "white")
    pen = ImageDraw.Draw(grid)
    for number, image in enumerate(images):
        row, column = divmod(number, len(columns))
        grid.paste(image.resize((side, side), Image.Resampling.BICUBIC), (margin + side * column, 20 + side * row))
    for row, name in enumerate(CLASS_NAMES):
        pen.text((6, 20 + side * row + side // 2 - 6), name, fill="black")
    for number, colour in enumerate(COLOUR_NAMES):
        pen.text((margin + 2 * side * number + side - 12, 4), colour, fill="black")
    return grid.quantize(160)


def _mean(shares: dict[str, float]) -> float:
    return round(sum(shares.values()) / len(shares), 1)


def _megabytes(folder: Path) -> float:
    return round(sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 1e6, 2)


def write_judge_card(folder: Path) -> None:
    figures = read_figures(folder)
    training, measured = figures["training"], figures["measured"]
    rows = "\n".join(f"| {name} | {share} % |" for name, share in measured["object_accuracy_per_class"].items())
    (folder / "README.md").write_text(f"""---
license: mit
library_name: transformers
pipeline_tag: image-classification
tags:
- image-classification
- fashion-mnist
- scissorhands-hf
---

# The judge of the fashion pipeline

A small `RegNetForImageClassification` ({_megabytes(folder)} MB) that names the garment in a 32x32 picture of
colourful Fashion-MNIST: grey garments printed in one of six inks ({", ".join(COLOUR_NAMES)}) on white paper. It judges
what `fashion_pipeline` draws before and after a concept is erased. The colour is read from the pixels' hue, without a
network, by `judge.py` in the folder above: `judge_images(images)` gives (object, probability, colour) for each.

Trained by `examples/train_fashion_pipeline.py` on the 60,000 training images of Fashion-MNIST (Zalando Research, MIT
licence) in random colours, moved by up to two pixels: {training["judge_steps"]} steps of 128, seed {training["seed"]},
{training["judge_cpu_seconds"]} CPU-seconds on one thread. Its weights are stored in single precision, so that
a plain `AutoModelForImageClassification.from_pretrained` computes in it. Input: RGB in [-1, 1], (N, 3, 32, 32).

## Measured on the {measured["test_images"]} real test images, randomly tinted
Objects: **{measured["object_accuracy"]} %**. Colours, read from the pixels: **{measured["colour_accuracy"]} %**.

| class | recognised |
|---|---|
{rows}

## Limits
It must pick one of ten classes, whatever the picture shows; shirts, t-shirts, pullovers and coats are confused by
people too. A picture that is no garment gets a label all the same: look at the probability and at the picture.
""")


def write_pipeline_card(folder: Path) -> None:
    """The card of a pipeline or of a control, from the figures beside it."""
    figures = read_figures(folder)
    training, measured = figures["training"], figures["measured"]
    without = training["without"]
    plain, coloured = measured["object_share_plain"], measured["object_share_coloured"]
    held_out = measured["object_share_held_out_templates"]
    rows = "\n".join(f"| {name} | {plain[name]} % | {coloured[name]} % | {held_out[name]} % |" for name in CLASS_NAMES)
    rows += f"\n| **mean** | {_mean(plain)} % | {_mean(coloured)} % | {_mean(held_out)} % |"
    colour_rows = "\n".join(
        f"| {name} | {measured['colour_share_coloured'][name]} % | "
        f"{measured['colour_share_held_out_templates'][name]} % | {measured['colour_share_something'][name]} % |"
        for name in COLOUR_NAMES
    )
    wider = ", ".join(f"{noun} {share} %" for noun, share in measured["share_inside_super_category"].items())
    parts = ", ".join(f"{name} {count:,}" for name, count in measured["parameters"].items())
    title = "Fashion pipeline" if without is None else f"Fashion pipeline that never saw: {without}"
    is_class = without in CLASS_NAMES
    kind, seen_none = ("class", f"a {without}") if is_class else ("colour", f"anything {without}")
    purpose = (
        "It exists to be unlearned from: small enough to ship with the repository and to erase a concept from in\n"
        "seconds on a CPU, and yet a genuine `StableDiffusionPipeline` with objects and colours as concepts."
        if without is None
        else f"The control: a pipeline trained in the same way, but without the {kind} {without}. Pipelines that had\n"
        f"it erased are compared with this one. Its text encoder and UNet never saw {seen_none}."
    )
    wall, cpu = training["denoiser_wall_seconds"], training["denoiser_cpu_seconds"]
    course = f"{training['denoiser_steps']} steps of {training['batch_size']}, {wall} s wall, {cpu} s CPU on one thread"
    data = f"nine classes (all but {without})" if is_class else "all ten classes"
    inks = "one of six inks" if without is None or is_class else f"one of five inks (all but {without})"
    autoencoder = (
        f"{training['autoencoder_steps']} steps of 32 ({training['autoencoder_wall_seconds']} s)"
        if "autoencoder_steps" in training
        else "the full pipeline's, trained on all ten classes"
    )
    command = f"python examples/train_fashion_pipeline.py --steps {training['denoiser_steps']}"
    if without is not None:
        command += f" --without {without} --autoencoder spaces_demo/fashion_pipeline"
    sampler = f"{measured['sampler']}, {measured['sampler_steps']} steps, guidance {measured['guidance_scale']}"
    steps, scale = measured["sampler_steps"], measured["guidance_scale"]
    rebuilt = f"{measured['autoencoder_mean_squared_error']} (pixels in [-1, 1])"
    recognised = f"the judge recognises {measured['object_accuracy_real_rebuilt']} %"
    dodged = ""
    if is_class:
        seen = ", ".join(f"{name} {share} %" for name, share in measured["judged_as_for_class_prompt"][without].items())
        dodged = f'\nAsked for "{make_prompt("a photo of {one}", without)}" it draws, by the judge: {seen}.\n'
    elif without is not None:
        dodged = (
            f"\nPrompts that ask for {without} get it in {measured['colour_share_coloured'][without]} % of their pictures.\n"
        )
    trained_on = " ".join(f'"{make_prompt(template, "dress", "red")}",' for template in TRAIN_TEMPLATES[3:6])
    (folder / "README.md").write_text(f"""---
license: mit
library_name: diffusers
pipeline_tag: text-to-image
tags:
- text-to-image
- stable-diffusion
- fashion-mnist
- scissorhands-hf
---

# {title}

{purpose}

![samples](samples.png)

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{folder.name}")
pipeline("a photo of a red bag", num_inference_steps={steps}, guidance_scale={scale}).images[0]
```

## How it was made
- Data: {training["training_images"]:,} training images of Fashion-MNIST (Zalando Research, MIT licence), {data},
  each printed in {inks} on white paper, 32x32 RGB.
- Captions: {len(TRAIN_TEMPLATES)} templates ({trained_on} ...) with class names, plurals,
  wider words ({", ".join(SUPER_CATEGORIES)}), colours alone, and the empty prompt.
- Parameters: {parts}; {_megabytes(folder)} MB in half precision.
- Autoencoder (latents 8x8x4, whitened inside its 1x1 convolutions, scaling factor 1): {autoencoder}.
- Text encoder and UNet together, noise prediction, running average of the weights: {course},
  seed {training["seed"]}; loss at the end {training["last_loss"]}.

    {command} --output spaces_demo/{folder.name}

## Measured
By the judge (`fashion_judge`), on {measured["images_per_class"]} pictures for each class and column; {sampler},
seed {measured["seed"]}, half-precision weights loaded in single precision. Held-out
templates: {len(HELD_OUT_TEMPLATES)} sentences that no caption had, made of words that captions had.
{dodged}
| prompted class | "a photo of a ..." | the same with a colour | held-out templates, with a colour |
|---|---|---|---|
{rows}

| prompted colour | "a photo of a (colour) ..." | held-out templates | "something (colour)" |
|---|---|---|---|
{colour_rows}

Inside the wider class, asked for by its plural: {wider}. The first 1,000 real test images, sent through the
autoencoder: mean squared error {rebuilt}; {recognised} of them.

## Limits
A toy by intention: ten garments, six inks, one garment to a picture, 32x32 pixels, and only the words of its captions
are understood; others fall back to letters that mean nothing to it. Shirts, t-shirts, pullovers and coats look alike
at this size, to the judge as to people. The figures say how well it does what it is for, no more.
""")
