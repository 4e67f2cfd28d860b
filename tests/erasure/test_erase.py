"""`erase_concept` on tiny real pipelines of every family: what it changes, what it leaves, and what it is computed from."""

import copy
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline
from tiny_pipelines import tiny_flux, tiny_pixart, tiny_sd3, tiny_sdxl, tiny_stable_diffusion

from scissorhands_hf import ErasureProgress, UnlearningDivergedError, enable_concept_erasure, erase_concept
from scissorhands_hf.erasure import STAGES


QUICK = {
    "max_steps": 2,
    "evaluations": 1,
    "pictures_per_concept": 3,
    "retain_pictures": 4,
    "per_device_train_batch_size": 2,
    "trim_ratio": 0.01,
    "report_images": 0,
    "disable_tqdm": True,
    "sampling": {"num_inference_steps": 2, "height": 32, "width": 32},
}
FAMILIES = {
    "sd": tiny_stable_diffusion,
    "sd-v": lambda: tiny_stable_diffusion(prediction_type="v_prediction"),
    "sdxl": tiny_sdxl,
    "sd3": tiny_sd3,
    "flux": tiny_flux,
    "pixart": tiny_pixart,
}


def weights(pipe, name):
    return {key: value.clone() for key, value in getattr(pipe, name).state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def denoiser_name(pipe):
    return "unet" if hasattr(pipe, "unet") else "transformer"


@pytest.mark.parametrize("recipe", ["removal", "concept"])
@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
def test_every_family_changes_its_denoiser_and_nothing_else(make, recipe, tmp_path):
    pipe = make()
    parts = [name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)]
    before = {name: weights(pipe, name) for name in parts}
    settings = (
        {**QUICK, "sampling": {"num_inference_steps": 2, "use_resolution_binning": False}} if make is tiny_pixart else QUICK
    )
    report = erase_concept(pipe, "dress", keep=["coat"], recipe=recipe, **settings)
    changed = {name for name in parts if not equal(before[name], weights(pipe, name))}
    assert changed == {denoiser_name(pipe)}
    assert report.concepts == ["dress"] and report.trim["trimmed"] > 0 and report.history
    pipe.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(again) is type(pipe)
    assert equal(weights(pipe, denoiser_name(pipe)), weights(again, denoiser_name(pipe)))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    results = []
    for seed in (3, 3, 4):
        pipe = tiny_stable_diffusion()
        erase_concept(pipe, "dress", generator=torch.Generator().manual_seed(seed), **QUICK)
        results.append(weights(pipe, "unet"))
    assert equal(results[0], results[1]) and not equal(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_pipeline_is_left_as_it_was_found(dtype):
    pipe = tiny_stable_diffusion().to(dtype)
    pipe.unet.train()
    pipe.unet.mid_block.eval()
    pipe.unet.conv_in.weight.requires_grad_(False)
    pipe.scheduler.set_timesteps(7)
    scheduler, timesteps = pipe.scheduler, pipe.scheduler.timesteps.clone()
    handle = pipe.unet.conv_in.register_forward_hook(lambda *_: None)
    modes = {name: module.training for name, module in pipe.unet.named_modules()}
    wanted = {name: p.requires_grad for name, p in pipe.unet.named_parameters()}
    names, attributes = set(vars(pipe)), set(vars(pipe.unet))
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()

    erase_concept(pipe, "dress", **QUICK)

    assert {p.dtype for p in pipe.unet.parameters()} == {dtype} and pipe.unet.dtype == dtype
    assert modes == {name: module.training for name, module in pipe.unet.named_modules()}
    assert wanted == {name: p.requires_grad for name, p in pipe.unet.named_parameters()}
    assert all(p.grad is None for p in pipe.unet.parameters())
    assert pipe.scheduler is scheduler and torch.equal(scheduler.timesteps, timesteps)
    assert set(vars(pipe)) - names == {"erasure_reports"} and set(vars(pipe.unet)) == attributes
    assert list(pipe.unet.conv_in._forward_hooks) == [handle.id]
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1]) and torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_at_any_stage_puts_the_weights_back_exactly(stage, error):
    pipe = tiny_stable_diffusion().to(torch.bfloat16)
    before = weights(pipe, "unet")

    def stop(progress: ErasureProgress):
        if progress.stage == stage and progress.step == progress.total:
            raise error("enough")

    with pytest.raises(error, match="enough"):
        # Prompts are read for the closed-form edit alone.
        recipe = "concept" if stage == "prompts" else None
        erase_concept(pipe, "dress", recipe=recipe, callback=stop, **{**QUICK, "report_images": 2})
    assert equal(before, weights(pipe, "unet"))
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.bfloat16} and not hasattr(pipe, "erasure_reports")


def test_a_run_that_diverges_puts_the_weights_back():
    pipe = tiny_stable_diffusion()
    before = weights(pipe, "unet")
    with pytest.raises(UnlearningDivergedError):
        erase_concept(pipe, "dress", **{**QUICK, "learning_rate": 1e15, "max_steps": 4, "evaluations": 1})
    assert equal(before, weights(pipe, "unet"))


@pytest.mark.parametrize("recipe", ["removal", "concept"])
def test_progress_is_told_in_order_and_to_the_end(recipe):
    seen = []
    erase_concept(tiny_stable_diffusion(), "dress", recipe=recipe, callback=seen.append, **{**QUICK, "report_images": 2})
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    # Prompts are read for the closed-form edit alone.
    assert stages == [stage for stage in STAGES if stage != "prompts" or recipe == "concept"]
    for stage in stages:
        steps = [progress.step for progress in seen if progress.stage == stage]
        last = [progress for progress in seen if progress.stage == stage][-1]
        assert steps == sorted(steps) and last.step == last.total
    repair = [progress for progress in seen if progress.stage == "repair"]
    assert repair[-1].retain_loss is not None and repair[-1].forget_loss is not None
    assert [p.seconds for p in seen] == sorted(p.seconds for p in seen)


def test_the_report_holds_pictures_of_equal_seeds_and_no_path(tmp_path):
    pipe = tiny_stable_diffusion()
    original = copy.deepcopy(pipe)
    report = erase_concept(pipe, "dress", **{**QUICK, "report_images": 2})
    prompt = next(score.prompt for score in report.prompts if score.group == "concept")
    assert len(report.pictures[prompt]["original"]) == len(report.pictures[prompt]["unlearned"]) == 2
    from scissorhands_hf.audit import draw_pictures

    again = draw_pictures(
        original,
        [prompt],
        images_per_prompt=2,
        seed=report.settings["seed"],
        sampling={"guidance_scale": 7.5, **QUICK["sampling"]},
    )
    for first, second in zip(report.pictures[prompt]["original"], again[prompt], strict=True):
        assert np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).max() <= 1
    text = report.save(tmp_path).read_text()
    assert str(tmp_path) not in text and "scissorhands-" not in text and "/tmp" not in text
    assert json.loads(text)["concepts"] == ["dress"]


def test_a_second_concept_keeps_what_the_first_run_left(monkeypatch):
    pipe = enable_concept_erasure(tiny_stable_diffusion())
    pipe.erase_concept("dress", **QUICK)
    drawn = []
    from scissorhands_hf.erasure.families.unet import StableDiffusionFamily

    stock = StableDiffusionFamily.sample_latents

    def listen(self, prompts, *args):
        drawn.extend(prompts)
        return stock(self, prompts, *args)

    monkeypatch.setattr(StableDiffusionFamily, "sample_latents", listen)
    pipe.erase_concept("coat", **{**QUICK, "retain_pictures": 16})
    assert any("dress" in prompt for prompt in drawn) and any("coat" in prompt for prompt in drawn)
    assert [report.concepts for report in pipe.erasure_reports] == [["dress"], ["coat"]]


def test_trimming_is_in_the_scope_and_can_be_left_out():
    pipe = tiny_stable_diffusion()
    before = weights(pipe, "unet")
    settings = {**QUICK, "learning_rate": 1e-30, "trim_ratio": 0.2, "reinit_target_modules": ["mid_block"]}
    settings["forget_objective"] = "negative_guidance"  # which changes no weight before the first step
    report = erase_concept(pipe, "dress", **settings)
    after = weights(pipe, "unet")
    # The learning rate is too small for a float32 weight that is not zero.
    changed = {name for name in before if not torch.allclose(before[name], after[name], rtol=0, atol=1e-20)}
    assert changed and all(name.startswith("mid_block") for name in changed)
    assert report.trim["trimmed"] >= sum(int(((before[n] - after[n]).abs() > 1e-20).sum()) for n in changed) > 0
    untouched = tiny_stable_diffusion()
    report = erase_concept(untouched, "dress", **{**settings, "trim_ratio": 0})
    for name, value in weights(untouched, "unet").items():
        assert torch.allclose(before[name], value, rtol=0, atol=1e-20)
    assert report.trim["trimmed"] == 0


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        ("ascent", {"retain_objective": "data"}),
        ("redirect", {"redirect_teacher": "live"}),
        ("redirect", {}),
        ("closed_form", {"sharpness_radius": 0.01, "memory_every": 1}),
        ("negative_guidance", {"sensitivity_guidance": 3.0, "projection": True, "memory_batches": 2}),
    ],
)
def test_every_objective_runs_and_moves_the_weights(objective, settings):
    pipe = tiny_stable_diffusion()
    before = weights(pipe, "unet")
    report = erase_concept(pipe, "dress", forget_objective=objective, **settings, **QUICK)
    assert not equal(before, weights(pipe, "unet")) and report.settings["forget_objective"] == objective


@pytest.mark.parametrize(
    ("recipe", "objective", "projection"),
    [
        ("stable-diffusion-nudity", "redirect", False),
        ("stable-diffusion-class", "ascent", False),
        ("small-diffusion-nudity", "redirect", True),
        ("small-diffusion-class", "ascent", True),
    ],
)
def test_the_papers_systems_run_as_published_and_sized_for_a_small_denoiser(recipe, objective, projection):
    report = erase_concept(tiny_stable_diffusion(), "dress", recipe=recipe, **{**QUICK, "max_steps": 5})
    settings = report.settings
    assert (settings["recipe"], settings["forget_objective"], settings["projection"]) == (recipe, objective, projection)
    if recipe.startswith("small"):  # the published share of two blocks is none of so small a denoiser's weights
        assert report.trim["trimmed"] > 0


def test_a_denoiser_shared_with_another_pipeline_is_named():
    pipe = tiny_stable_diffusion()
    parts = {**pipe.components}
    other = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    report = erase_concept(pipe, "dress", **QUICK)
    assert any(type(other).__name__ in warning for warning in report.warnings)
    assert not any("shared" in warning for warning in erase_concept(tiny_stable_diffusion(), "dress", **QUICK).warnings)


def test_damage_beyond_the_limit_is_a_warning():
    loud = {**QUICK, "learning_rate": 0.05, "max_steps": 6, "divergence_factor": float("inf")}
    report = erase_concept(tiny_stable_diffusion(), "dress", damage_limit=1e-6, **loud)
    assert any("damage_limit" in warning for warning in report.warnings)


RELOAD = """
import sys
sys.modules["scissorhands_hf"] = None  # importing it is an error
import numpy as np, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
noise = [torch.Generator().manual_seed(seed) for seed in range(4)]
images = pipe(["a photo of a dress", "a photo of a bag"] * 2, num_inference_steps=6, guidance_scale=4.0, generator=noise).images
np.save(sys.argv[2], np.stack([np.asarray(image) for image in images]))
"""


@pytest.mark.slow
def test_the_shipped_pipeline_forgets_dresses_keeps_the_rest_and_reloads_without_this_package(tmp_path):
    from pathlib import Path

    repository = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(repository))
    try:
        from spaces_demo.judge import FashionJudge
    finally:
        sys.path.remove(str(repository))
    pipe = enable_concept_erasure(DiffusionPipeline.from_pretrained(repository / "spaces_demo" / "fashion_pipeline"))
    report = pipe.erase_concept(
        "dress",
        keep=["coat", "trousers", "sneaker"],
        judge=FashionJudge(),
        sampling={"guidance_scale": 4.0, "num_inference_steps": 15},
        report_images=10,
        disable_tqdm=True,
    )
    figures = report.metrics
    assert figures["original"]["concept"] >= 80 and figures["original"]["kept"] >= 85
    assert figures["unlearned"]["concept"] <= 20 and figures["unlearned"]["kept"] >= figures["original"]["kept"] - 15
    pipe.save_pretrained(tmp_path / "no-dress")
    subprocess.run(
        [sys.executable, "-c", RELOAD, str(tmp_path / "no-dress"), str(tmp_path / "images.npy")], check=True, cwd=tmp_path
    )
    pipe.set_progress_bar_config(disable=True)
    noise = [torch.Generator().manual_seed(seed) for seed in range(4)]
    own = pipe(
        ["a photo of a dress", "a photo of a bag"] * 2, num_inference_steps=6, guidance_scale=4.0, generator=noise
    ).images
    theirs = np.load(tmp_path / "images.npy").astype(int)
    assert np.abs(np.stack([np.asarray(image) for image in own]).astype(int) - theirs).max() <= 2


def test_a_run_that_changes_almost_nothing_says_so_and_one_that_does_says_how_much():
    pipe = tiny_stable_diffusion()
    before = weights(pipe, "unet")
    settings = {**QUICK, "forget_objective": "redirect"}
    report = erase_concept(pipe, "dress", **{**settings, "trim_ratio": 0.0, "learning_rate": 1e-9})
    assert any("hardly changed" in text and "0 weights were re-initialised" in text for text in report.warnings)
    # The same from the weights themselves.
    pipe = tiny_stable_diffusion()
    report = erase_concept(pipe, "dress", **{**settings, "learning_rate": 1e-2, "max_steps": 30})
    after = weights(pipe, "unet")
    way = sum((after[name] - before[name]).double().square().sum() for name in before) ** 0.5
    moved = 100 * way / sum(value.double().square().sum() for value in before.values()) ** 0.5
    (note,) = [text for text in report.notes if "re-initialised" in text]
    assert f"{report.trim['trimmed']:,} weights" in note and f"moved by {moved:.2g} %" in note
    assert not any("hardly changed" in text for text in report.warnings)
