"""Which probes each family of pipelines allows, that the report says why not, and that nothing of it is left behind."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn


sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "erasure"))

from tiny_pipelines import tiny_flux, tiny_pixart, tiny_sd3, tiny_sdxl, tiny_stable_diffusion

from scissorhands_hf import probe_concept
from scissorhands_hf.audit import PROBES
from scissorhands_hf.audit.probing import learned_probes, weight_probes


IN_WORDS = {"words", "paraphrases", "misspellings", "wider", "empty"}
EVERYWHERE = IN_WORDS | {"added_noise", "rounding"}
AVAILABLE = {
    "stable diffusion": (tiny_stable_diffusion, set(PROBES)),
    "xl": (tiny_sdxl, EVERYWHERE | {"img2img", "inpainting", "guidance"}),
    "stable diffusion 3": (tiny_sd3, EVERYWHERE | {"img2img"}),  # with 16 latent channels, as the real one, inpainting too
    "flux": (tiny_flux, EVERYWHERE | {"img2img", "inpainting"}),
    "pixart": (tiny_pixart, EVERYWHERE | {"guidance"}),
}


class Dark:
    """Sees what it is asked for in dark pictures; it can be differentiated."""

    name = "dark"

    def knows(self, label):
        return True

    def __call__(self, images, candidates):
        return [{candidates[0]} if sum(image.convert("L").histogram()[:128]) > 0 else set() for image in images]

    def log_probability(self, pixels, label):
        return -pixels.mean(dim=(1, 2, 3))


def bits(pipe) -> str:
    digest = hashlib.sha256()
    for name, part in sorted(pipe.components.items()):
        if isinstance(part, nn.Module):
            for key, value in part.state_dict().items():
                digest.update(f"{name}.{key}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize(("make", "available"), AVAILABLE.values(), ids=list(AVAILABLE))
def test_each_family_has_its_probes_and_says_why_the_others_are_missing(make, available, monkeypatch):
    monkeypatch.setattr(learned_probes, "STEPS", 1)
    monkeypatch.setattr(weight_probes, "RELEARN_STEPS", (1, 2))
    pipe = make()
    before, parts, state = bits(pipe), {name: id(part) for name, part in pipe.components.items()}, torch.get_rng_state()
    sampling = {"num_inference_steps": 3, "height": 32, "width": 32}
    if make is tiny_pixart:
        sampling["use_resolution_binning"] = False  # to the sizes of the real one
    report = probe_concept(
        pipe, "horse", judge=Dark(), pictures=[Image.new("RGB", (64, 64), "grey")] * 3, count=1, sampling=sampling,
        prompts={"synonyms": ["pony"]},
    )  # fmt: skip
    # A few pixels are enough, and are what was asked for, also of the pipelines for other tasks.
    assert {image.size for images in report.pictures.values() for image in images} == {(32, 32)}
    assert {score.probe for score in report.scores} == available | {"synonyms"}
    assert set(report.unavailable) == set(PROBES) - available - {"synonyms"}
    assert all(len(reason) > 20 for reason in report.unavailable.values())
    assert bits(pipe) == before and torch.equal(torch.get_rng_state(), state)
    assert {name: id(part) for name, part in pipe.components.items()} == parts


def test_training_is_refused_in_half_precision():
    pipe = tiny_stable_diffusion().to(torch.bfloat16)
    picture = Image.new("RGB", (64, 64), "grey")
    report = probe_concept(
        pipe, "horse", judge=Dark(), pictures=[picture], probes=["relearning"], count=1, sampling={"num_inference_steps": 2}
    )
    assert "load the pipeline in float32" in report.unavailable["relearning"]
