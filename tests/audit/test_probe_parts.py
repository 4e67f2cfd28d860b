"""The parts of probes against what they are defined by."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import nn

from scissorhands_hf import probe_concept
from scissorhands_hf.audit import load_judge
from scissorhands_hf.audit.probing import denoising, trajectory_probes, weight_probes
from scissorhands_hf.audit.probing.weight_probes import round_weights
from scissorhands_hf.audit.untouched import weights_kept
from scissorhands_hf.report import ProbeReport, ProbeScore


SPACE = Path(__file__).resolve().parents[2] / "spaces_demo"
SAMPLING = {"num_inference_steps": 15, "guidance_scale": 4.0}


def test_rounding_is_to_the_nearest_step_of_each_output_channel():
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[7.0, 3.4, -3.6, 0.2], [0.0, 0.07, -0.034, 0.051]]))
        layer.bias.copy_(torch.tensor([0.123, 0.456]))
    round_weights(layer, 4)  # seven steps on either side
    expected = torch.tensor([[7.0, 3.0, -4.0, 0.0], [0.0, 0.07, -0.03, 0.05]])
    torch.testing.assert_close(layer.weight.detach(), expected)
    torch.testing.assert_close(layer.bias.detach(), torch.tensor([0.123, 0.456]))
    zeros = nn.Linear(3, 1)
    nn.init.zeros_(zeros.weight)
    round_weights(zeros, 8)
    assert torch.equal(zeros.weight, torch.zeros(1, 3))


def test_eight_bits_move_no_weight_by_more_than_half_a_step():
    layer = nn.Conv2d(3, 5, 3)
    before = layer.weight.detach().clone()
    round_weights(layer, 8)
    moved = (layer.weight.detach() - before).abs().amax(dim=(1, 2, 3))
    step = before.abs().amax(dim=(1, 2, 3)) / 127
    assert (moved <= step / 2 + 1e-7).all() and (moved > 0).all()


@pytest.mark.parametrize("fails", [False, True])
def test_weights_come_back_with_their_bits_gradients_and_flags(fails):
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    module[0].weight.requires_grad_(False)
    module[0].bias.grad = torch.ones(3)
    with torch.no_grad():
        module[0].weight[0, 0] = float("nan")
    before = {name: value.numpy().tobytes() for name, value in module.state_dict().items()}
    gradient = module[0].bias.grad

    def run():
        with weights_kept(module):
            module.requires_grad_(True)
            module(torch.randn(4, 3)).sum().backward()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(1)
            if fails:
                raise RuntimeError("enough")

    if fails:
        with pytest.raises(RuntimeError, match="enough"):
            run()
    else:
        run()
    assert {name: value.numpy().tobytes() for name, value in module.state_dict().items()} == before
    assert module[0].bias.grad is gradient and module[1].weight.grad is None
    assert not module[0].weight.requires_grad and module[0].bias.requires_grad


def test_the_noise_of_a_step_is_the_ancestral_samplers():
    """Of consecutive timesteps it is what `DDPMScheduler` adds."""
    ddim, ddpm = (kind(beta_schedule="scaled_linear") for kind in (DDIMScheduler, DDPMScheduler))
    ddim.set_timesteps(1000)
    for step in (0, 500, 990):
        now = int(ddim.timesteps[step])
        # diffusers' DDPM leaves the last of the signal's weights out of its variance at t = 0.
        alpha, following = ddpm.alphas_cumprod[now], ddpm.alphas_cumprod[now - 1]
        expected = ((1 - following) / (1 - alpha) * (1 - alpha / following)).sqrt()
        assert trajectory_probes._of_diffusion(ddim, step) == pytest.approx(float(expected), rel=1e-4)
        assert float(expected) ** 2 == pytest.approx(float(ddpm._get_variance(now)), rel=1e-4)
    assert trajectory_probes._of_diffusion(ddim, 999) == 0


def test_the_noise_of_a_flow_is_that_of_the_diffusion_it_is():
    """Scaled to unit variance, a flow is a diffusion with the same share of signal."""
    flow = FlowMatchEulerDiscreteScheduler()
    flow.set_timesteps(10)
    levels = [trajectory_probes._of_flow(flow, step) for step in range(10)]
    now, following = flow.sigmas[4].double(), flow.sigmas[5].double()
    shares = [(1 - sigma) ** 2 / ((1 - sigma) ** 2 + sigma**2) for sigma in (now, following)]
    unit = ((1 - shares[1]) / (1 - shares[0]) * (1 - shares[0] / shares[1])).sqrt()
    assert levels[4] == pytest.approx(float(unit * ((1 - following) ** 2 + following**2).sqrt()), rel=1e-5)
    assert levels[-1] == 0 and all(level > 0 for level in levels[:-1])


def test_a_judge_climbs_by_the_probability_that_it_judges_by():
    judge = load_judge(SPACE / "fashion_judge")
    noise = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    labels = ["dress", "bag", "coat", "shirt", "sandal", "sneaker", "trousers", "t-shirt", "pullover", "ankle boot"]
    pixels = torch.from_numpy(noise).permute(0, 3, 1, 2).float() / 255
    scores = torch.stack([judge.log_probability(pixels, label) for label in labels], 1)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3))
    seen = judge([Image.fromarray(array) for array in noise], labels)
    assert [{labels[index]} for index in scores.argmax(1).tolist()] == seen
    pixels = torch.rand(1, 3, 48, 48, requires_grad=True)  # resized on the way
    judge.log_probability(pixels, "dress").sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_fitting_finds_the_least_squares_and_leaves_no_gradient():
    target = torch.tensor([1.0, -2.0])
    learned, other = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    steps = []

    def loss(batch, generator):
        return ((learned - target) * other).square().sum() * batch.mean()

    with torch.inference_mode(False), torch.no_grad():
        denoising.fit([learned], loss, torch.ones(20, 1), steps=200, rate=5e-2, seed=0, after_step=steps.append)
    torch.testing.assert_close(learned.detach(), target, atol=1e-2, rtol=0)
    assert learned.grad is None and other.grad is None and steps == list(range(1, 201))


def test_the_area_below_a_curve_is_its_mean_share():
    def scores(shares, model):
        return [
            ProbeScore("relearning", "new word", model, s, 100, 0, step) for step, s in zip((0, 10, 100), shares, strict=True)
        ]

    report = ProbeReport("dress", [*scores((0, 50, 50), "pipeline"), *scores((20, 20, 20), "control")])
    assert report.areas() == {"relearning: new word": {"pipeline": pytest.approx(47.5), "control": pytest.approx(20)}}
    assert "| `relearning` | new word, area below the curve | 47.5 | 20.0 |" in report.to_markdown()
    assert "| `relearning` | new word, 10 steps | 50.0 (40–60; 100) | 20.0 (13–29; 100) |" in report.to_markdown()
    assert ProbeReport.from_dict(report.to_dict()).areas() == report.areas()
    assert report.score("relearning", "new word", step=10).seen == 50


@pytest.mark.slow
def test_a_concept_that_is_known_comes_back_in_a_few_steps_and_under_any_word(monkeypatch):
    """The original is taught under a new word what it knows, the control what it never saw; both with the same pictures."""
    monkeypatch.setattr(weight_probes, "RELEARN_STEPS", (30,))
    judge, pipe = load_judge(SPACE / "fashion_judge"), DiffusionPipeline.from_pretrained(SPACE / "fashion_pipeline")
    report = probe_concept(
        pipe, "dress", judge=judge, reference=pipe, control=SPACE / "fashion_pipeline_without_dress", drawn_pictures=24,
        probes=["relearning"], count=32, sampling=SAMPLING, batch_size=32,
    )  # fmt: skip
    assert report.score("relearning", "same word", step=0).share >= 90
    assert report.score("relearning", "new word", step=0).share <= 30
    after = [report.score("relearning", "new word", model, step=30).share for model in ("pipeline", "control")]
    assert after[0] > after[1] + 10
    assert [score.seen for score in report.scores if score.model == "pipeline"] == [
        score.seen for score in report.scores if score.model == "reference"
    ]  # the same pipeline twice: nothing of the first time is left


@pytest.mark.slow
def test_masked_pictures_and_rounded_weights_show_what_the_control_does_not():
    judge, pipe = load_judge(SPACE / "fashion_judge"), DiffusionPipeline.from_pretrained(SPACE / "fashion_pipeline")
    report = probe_concept(
        pipe, "dress", judge=judge, reference=pipe, control=SPACE / "fashion_pipeline_without_dress", drawn_pictures=24,
        probes=["inpainting", "rounding", "added_noise"], count=32, sampling=SAMPLING, batch_size=32,
    )  # fmt: skip
    for probe, setting in (("inpainting", "the concept's words"), ("rounding", "8 bits"), ("added_noise", "noise × 1.1")):
        assert report.score(probe, setting).share >= report.score(probe, setting, "control").share + 30, (probe, setting)
