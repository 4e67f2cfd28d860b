"""How near is what `recipe="removal"` aims at to what a model says that never saw the concept? Nothing is trained.

    python benchmarks/removal_targets.py --concepts dress sneaker

On noisy real pictures of a concept, without words: the mean squared distance of the original's prediction, and of the targets
that are made of it, to the prediction of the control, which the same script trained without the concept. Needs the raw
Fashion-MNIST files (Debian package dataset-fashion-mnist); about half a minute of one thread for each concept.
"""

from __future__ import annotations

import argparse

import torch
from erasure_measure import CONTROLS, load_pipeline, real_images
from erasure_table import table
from tqdm.auto import tqdm

from scissorhands_hf.erasure.families import family_of
from scissorhands_hf.erasure.material import gather_material
from scissorhands_hf.erasure.noisy_examples import PromptTable
from scissorhands_hf.erasure.objectives import capped_odds, taken_for_others, without_concept
from scissorhands_hf.erasure.posterior import TIMES
from scissorhands_hf.erasure.recognition import Recognition
from scissorhands_hf.erasure.request import ErasureRequest
from scissorhands_hf.trainer.run_progress import Reporter


HEADS = ("time", "γ", "original", "Bayes, η ≤ 1", "Bayes, η ≤ 2", "neighbours, s = 1", "neighbours, s = 1.75")


@torch.no_grad()
def distances(concept: str, count: int, seed: int) -> list[list[str]]:
    """A row for each time, from little noise to much."""
    pictures = real_images("train", count, seed, only=concept).pictures()
    config = {"seed": seed, "disable_tqdm": True, "retain_pictures": 8}
    request = ErasureRequest(load_pipeline(), concept, recipe="removal", forget_images=pictures, report_images=0, config=config)
    material = gather_material(request, Reporter(None, 0.0))
    recognition = Recognition.of(request, material)
    family, prompts, latents = request.family, material.table, material.forget_latents
    control = family_of(load_pipeline(CONTROLS[concept]))
    unknown = PromptTable.encode(control, [""])
    noise_process = family.noise_process()
    own = torch.tensor([prompts.rows[text] for text in material.forget_texts])
    others = torch.stack([recognition.stand_ins[int(row)] for row in own])
    rows = []
    for time in tqdm(noise_process.grid(TIMES), desc=concept):
        times = time.expand(count)
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed * 1000 + int(time)))
        noisy = noise_process.add_noise(latents, noise, times)

        def ask(asked: torch.Tensor, noisy: torch.Tensor = noisy, times: torch.Tensor = times) -> torch.Tensor:
            return family.predict(family.denoiser, noisy, times, prompts[asked])

        truth = control.predict(control.denoiser, noisy, times, unknown[torch.zeros(count, dtype=torch.long)])
        empty, words = ask(torch.full_like(own, prompts.rows[""])), ask(own)
        nearest = torch.stack([ask(column) for column in others.unbind(1)]).mean(0)
        known = recognition.own[0].at(times)
        targets = [
            empty,
            *(without_concept(words, empty, capped_odds(known, cap)) for cap in (1.0, 2.0)),
            *(taken_for_others(words, empty, nearest, known.exp(), reach) for reach in (1.0, 1.75)),
        ]
        found = [f"{1000 * (target - truth).square().mean():.2f}" for target in targets]
        rows.append([str(int(time)), f"{known[0].exp():.2f}", *found])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="+", default=list(CONTROLS), choices=CONTROLS)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for concept in options.concepts:
        print(f"{concept}: mean squared distance to the control's prediction, in thousandths\n")
        print(table(HEADS, distances(concept, options.images, options.seed)) + "\n")


if __name__ == "__main__":
    main()
