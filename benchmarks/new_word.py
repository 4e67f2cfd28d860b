"""Beyond the word that was erased: do other prompts still draw it, and is it relearned sooner under a word of its own?

    python benchmarks/new_word.py --word gown

For "dress", on the shipped pipeline, the control that never saw a dress, and the pipeline after `erase_concept` with all
defaults: the share of dresses for the empty prompt and for "clothing", and while the UNet is fine-tuned on 50 real dresses that
the captions call by the new word (as in `erasure_measure.relearn`), the share for that word.
"""

import argparse

import torch
from diffusers import StableDiffusionPipeline
from erasure_measure import (
    CONTROLS,
    RELEARN_BATCH,
    RELEARN_IMAGES,
    RELEARN_RATE,
    RELEARN_STEPS,
    Question,
    RealImages,
    denoising_loss,
    draw,
    encode,
    load_pipeline,
    real_images,
    shares,
)

from scissorhands_hf import erase_concept


CONCEPT = "dress"
OTHER_PROMPTS = ("", "clothing", "a photo of clothing")


def show(pipe: StableDiffusionPipeline, prompts: list[str], count: int, seed: int) -> str:
    """Share of dresses for each prompt, percent."""
    asked = [Question(prompt, CONCEPT, "concept") for prompt in prompts]
    return " / ".join(f"{share:.0f}" for share in shares(draw(pipe, prompts, count, seed), asked))


def relearn_as(pipe: StableDiffusionPipeline, word: str, count: int, seed: int) -> list[str]:
    """Share of dresses for the word after each number of steps."""
    images = real_images("train", RELEARN_IMAGES, seed, only=CONCEPT)
    captions = [caption.replace(f"{CONCEPT}es", f"{word}s").replace(CONCEPT, word) for caption in images.captions]
    latents, states = encode(pipe, RealImages(images.pixels, captions))
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(pipe.unet.requires_grad_(True).parameters(), lr=RELEARN_RATE)
    found = []
    for step in range(RELEARN_STEPS[-1] + 1):
        if step in RELEARN_STEPS:
            found.append(show(pipe, [f"a photo of a {word}"], count, seed))
        rows = torch.randperm(len(latents), generator=generator)[:RELEARN_BATCH]
        denoising_loss(pipe, latents[rows], states[rows], generator).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--word", default="gown")
    parser.add_argument("--images", type=int, default=50, help="pictures for each prompt")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("original", "control", "erased"):
        pipe = load_pipeline(*([CONTROLS["dress"]] if name == "control" else []))
        if name == "erased":
            erase_concept(pipe, CONCEPT, report_images=0, seed=options.seed, disable_tqdm=True)
        pipe.unet.eval()
        others = show(pipe, list(OTHER_PROMPTS), options.images, options.seed)
        curve = relearn_as(pipe, options.word, options.images, options.seed)
        print(f"{name}: {', '.join(map(repr, OTHER_PROMPTS))}: {others}; {options.word!r} after", end=" ")
        print(f"{' / '.join(map(str, RELEARN_STEPS))} steps: {' / '.join(curve)}", flush=True)


if __name__ == "__main__":
    main()
