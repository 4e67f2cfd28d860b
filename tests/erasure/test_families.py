"""Each family computes what the stock pipeline and scheduler of diffusers compute, on tiny real pipelines."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)
from PIL import Image
from tiny_pipelines import TINY, tiny_flux, tiny_pixart, tiny_sd3, tiny_sdxl, tiny_stable_diffusion
from torch import Tensor

from scissorhands_hf.erasure.families import Family, NoiseProcess, check_pipeline, family_of
from scissorhands_hf.trainer.scopes import match_parameters


PROMPTS = ["a photo of a red dress", "the blue shoe"]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=list(TINY))
def case(request: pytest.FixtureRequest) -> tuple[Any, Family, dict[str, Any]]:
    """A pipeline, its family, and the arguments with which it draws tiny pictures."""
    make, name, sampling = TINY[request.param]
    pipe = make()
    check_pipeline(pipe)
    family = family_of(pipe)
    assert family.name == name
    return pipe, family, sampling


def record_denoiser(family: Family, **arguments: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Latents, timesteps and outputs of the denoiser at each step of a real call of the pipeline."""
    calls = []

    def record(module, args, kwargs, output):
        latents = args[0] if args else kwargs["hidden_states"]
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        calls.append((latents.clone(), timestep.clone(), output[0].clone()))

    handle = family.denoiser.register_forward_hook(record, with_kwargs=True)
    try:
        family.pipe(**arguments)
    finally:
        handle.remove()
    return calls


def test_prediction_is_that_of_the_pipeline(case):
    pipe, family, sampling = case
    # A picture that is not square tells height from width.
    sampling = {**sampling, "height": 32, "width": 48}
    calls = record_denoiser(
        family,
        prompt=PROMPTS,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
        output_type="latent",
        **sampling,
    )
    assert len(calls) == 2
    guided = len(calls[0][0]) == 2 * len(PROMPTS)
    assert guided == (family.name != "flux")
    conditioning = family.encode_prompts(["", "", *PROMPTS] if guided else PROMPTS)
    for latents, timestep, output in calls:
        if family.name == "flux":
            latents = pipe._unpack_latents(latents, 32, 48, pipe.vae_scale_factor)
            output = pipe._unpack_latents(output, 32, 48, pipe.vae_scale_factor)
        if family.name == "stable-diffusion-3":
            timestep = timestep / 1000
        predicted = family.predict(family.denoiser, latents, timestep.expand(len(latents)), conditioning)
        assert predicted.shape == latents.shape
        torch.testing.assert_close(predicted, output[:, : latents.shape[1]], atol=1e-5, rtol=1e-4)


FAST = {
    "lcm": (LCMScheduler, {}),
    "turbo": (EulerAncestralDiscreteScheduler, {"timestep_spacing": "trailing"}),
    "lightning": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
}


@pytest.mark.parametrize("make", [tiny_stable_diffusion, tiny_sdxl])
@pytest.mark.parametrize("name", FAST)
def test_samplers_of_few_steps_draw_and_the_noise_stays_that_of_the_model(name, make):
    pipe = make()
    noise = family_of(pipe).noise_process()
    scheduler, settings = FAST[name]
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **settings)
    family = family_of(pipe)
    latents = family.sample_latents(PROMPTS, [0, 1], {"num_inference_steps": 2, "guidance_scale": 0.0})
    assert torch.isfinite(latents).all() and torch.equal(latents, family.sample_latents(
        PROMPTS, [0, 1], {"num_inference_steps": 2, "guidance_scale": 0.0}
    ))  # fmt: skip
    assert torch.equal(family.noise_process().alphas_cumprod, noise.alphas_cumprod)


def test_prediction_depends_on_the_prompt_and_passes_gradients(case):
    _, family, sampling = case
    latents = family.sample_latents(PROMPTS, [0, 1], {"num_inference_steps": 2, **sampling})
    timesteps = family.noise_process().sample_timesteps(2, torch.Generator().manual_seed(0))
    rows = family.encode_prompts(PROMPTS)
    predicted = family.predict(family.denoiser, latents, timesteps, rows)
    swapped = family.predict(family.denoiser, latents, timesteps, {name: value.flip(0) for name, value in rows.items()})
    assert not torch.allclose(predicted, swapped, atol=1e-5)
    family.denoiser.zero_grad()
    predicted.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in family.denoiser.parameters())
    family.denoiser.zero_grad()
    assert not any(value.requires_grad for value in rows.values())


def test_conditioning_may_be_kept_in_half_precision(case):
    _, family, sampling = case
    latents = family.sample_latents(PROMPTS, [0, 1], {"num_inference_steps": 2, **sampling})
    timesteps = family.noise_process().sample_timesteps(2, torch.Generator().manual_seed(0))
    rows = family.encode_prompts(PROMPTS)
    halves = {name: value.to(torch.float16) if value.is_floating_point() else value for name, value in rows.items()}
    with torch.no_grad():
        full, half = (family.predict(family.denoiser, latents, timesteps, given) for given in (rows, halves))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("make", [tiny_stable_diffusion, tiny_sdxl, tiny_sd3, tiny_flux, tiny_pixart])
def test_pipelines_in_half_precision_stay_in_it(make):
    family = family_of(make().to(torch.bfloat16))
    latents = family.encode_images([Image.new("RGB", (32, 32), "red")] * 2)
    timesteps = family.noise_process().sample_timesteps(2, torch.Generator().manual_seed(0))
    rows = family.encode_prompts(PROMPTS)
    assert family.predict(family.denoiser, latents, timesteps, rows).dtype == torch.bfloat16
    # A denoiser that is trained in float32 meanwhile gets what it needs in float32.
    assert family.predict(family.denoiser.float(), latents.float(), timesteps, rows).dtype == torch.float32


def test_prompts_are_encoded_row_by_row(case):
    _, family, _ = case
    together, alone = family.encode_prompts(PROMPTS), family.encode_prompts(PROMPTS[1:])
    for name, value in together.items():
        assert len(value) == 2
        torch.testing.assert_close(value[1:], alone[name], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="list of one or more texts"):
        family.encode_prompts("a dress")


def test_pictures_depend_on_their_own_seed_and_leave_no_trace(case):
    pipe, family, sampling = case
    sampling = {**sampling, "num_inference_steps": 3}
    state, attributes = torch.get_rng_state(), dict(vars(pipe))
    schedule = copy.deepcopy(vars(pipe.scheduler))
    # In float64: in float32 a batch of another size is rounded otherwise, on some processors by more than this.
    exact = family_of(copy.deepcopy(pipe).to(torch.float64))
    both, alone = exact.sample_latents(PROMPTS, [5, 6], sampling), exact.sample_latents(PROMPTS[1:], [6], sampling)
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)
    both = family.sample_latents(PROMPTS, [5, 6], sampling)
    assert torch.equal(both, family.sample_latents(PROMPTS, [5, 6], sampling))
    assert not torch.allclose(both, family.sample_latents(PROMPTS, [5, 7], sampling), atol=1e-2)
    assert torch.equal(state, torch.get_rng_state())
    assert vars(pipe).keys() == attributes.keys() and all(vars(pipe)[name] is attributes[name] for name in attributes)
    assert all(np.array_equal(vars(pipe.scheduler)[name], schedule[name]) for name in schedule)


def test_latents_decode_to_the_pictures_of_the_pipeline(case):
    pipe, family, sampling = case
    sampling = {**sampling, "num_inference_steps": 2, "height": 32, "width": 48}
    latents = family.sample_latents(PROMPTS, [5, 6], sampling)
    assert latents.shape == (2, 4, 16, 24)
    config = pipe.vae.config
    with torch.no_grad():
        decoded = pipe.vae.decode(latents / config.scaling_factor + (config.shift_factor or 0.0)).sample
    pictures = torch.from_numpy((decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy())
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    expected = pipe(prompt=PROMPTS, generator=generators, output_type="np", **sampling).images
    torch.testing.assert_close(pictures, torch.from_numpy(expected), atol=1e-4, rtol=1e-4)


def test_images_become_latents_that_the_pipeline_decodes(case):
    pipe, family, _ = case
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)) for _ in range(2)]
    images[1] = images[1].convert("RGBA")
    latents = family.encode_images(images)
    pixels = torch.from_numpy(np.stack([np.array(image.convert("RGB")) for image in images])).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(pixels).latent_dist.mean
    config = pipe.vae.config
    torch.testing.assert_close(latents / config.scaling_factor + (config.shift_factor or 0.0), mean, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "message"), [([(32, 32), (48, 32)], "differ"), ([(33, 32)], "does not fit"), ([], "images is empty")]
)
def test_images_that_do_not_fit_are_refused(case, sizes, message):
    with pytest.raises(ValueError, match=message):
        case[1].encode_images([Image.new("RGB", size) for size in sizes])


def test_sizes_beyond_the_position_embedding_are_refused():
    with pytest.raises(ValueError, match=r"\(96, 32\) does not fit.*multiples of 4 up to 64"):
        family_of(tiny_sd3()).encode_images([Image.new("RGB", (96, 32))])


def test_images_of_a_trained_autoencoder_come_back():
    pipe = DiffusionPipeline.from_pretrained(REPOSITORY / "spaces_demo" / "fashion_pipeline")
    family = family_of(pipe)
    latents = family.sample_latents(["a photo of a red dress", "a blue bag"], [0, 1], {"num_inference_steps": 15})

    def decode(values: Tensor) -> Tensor:
        with torch.no_grad():
            return pipe.vae.decode(values / pipe.vae.config.scaling_factor).sample.clamp(-1, 1)

    first = decode(latents)
    images = pipe.image_processor.postprocess(first, output_type="pil")
    again = decode(family.encode_images(images))
    error, spread = (again - first).pow(2).mean().sqrt(), first.std()
    assert error < 0.25 * spread


def ddim(pipe: Any) -> DDIMScheduler:
    """The scheduler that knows a diffusion's every timestep, with the pipeline's own configuration."""
    return DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)


def test_noise_is_that_of_the_scheduler(case):
    pipe, family, _ = case
    process, generator = family.noise_process(), torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(5, 4, 6, 6, generator=generator) for _ in range(2))
    if process.prediction_type == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=process.shift)
        chosen = scheduler.timesteps[[0, 17, 400, 801, 998]]
        expected = scheduler.scale_noise(latents, chosen, noise)
        torch.testing.assert_close(process.add_noise(latents, noise, chosen / 1000), expected, atol=1e-5, rtol=1e-5)
    else:
        chosen = torch.tensor([0, 17, 400, 801, 999])
        expected = ddim(pipe).add_noise(latents, noise, chosen)
        torch.testing.assert_close(process.add_noise(latents, noise, chosen), expected, atol=1e-6, rtol=1e-6)


def test_a_denoiser_that_hits_the_target_gives_the_scheduler_the_picture(case):
    pipe, family, _ = case
    process, generator = family.noise_process(), torch.Generator().manual_seed(1)
    latents, noise = (torch.randn(1, 4, 6, 6, generator=generator) for _ in range(2))
    if process.prediction_type == "flow":
        scheduler = FlowMatchEulerDiscreteScheduler(shift=process.shift)
        scheduler.set_timesteps(1)  # one step, from pure noise to the picture
        target = process.target(latents, noise, torch.ones(1))
        recovered = scheduler.step(target, scheduler.timesteps[0], noise).prev_sample
    else:
        scheduler = ddim(pipe)
        assert process.prediction_type == scheduler.config.prediction_type
        scheduler.set_timesteps(1000)
        time = torch.tensor([300])
        target, noisy = process.target(latents, noise, time), process.add_noise(latents, noise, time)
        recovered = scheduler.step(target, time.item(), noisy).pred_original_sample
        if process.prediction_type == "v_prediction":
            torch.testing.assert_close(target, scheduler.get_velocity(latents, noise, time))
    torch.testing.assert_close(recovered, latents, atol=1e-4, rtol=1e-4)


def test_timesteps_cover_what_the_sampler_visits(case):
    process = case[1].noise_process()
    times = process.sample_timesteps(20000, torch.Generator().manual_seed(0))
    assert torch.equal(times, process.sample_timesteps(20000, torch.Generator().manual_seed(0)))
    if process.prediction_type == "flow":
        assert times.min() > 0 and times.max() < 1
        visited = FlowMatchEulerDiscreteScheduler(shift=process.shift).sigmas[:-1]
    else:
        assert times.dtype == torch.int64 and times.min() == 0 and times.max() == 999
        visited = torch.arange(1000)
    places = torch.linspace(0.05, 0.95, 10)
    torch.testing.assert_close(
        torch.quantile(times.float(), places),
        torch.quantile(visited.float(), places),
        rtol=0.05,
        atol=0.01 * visited.max().item(),
    )
    # What is left above a share of the time is visited as before.
    end = 0.25 * (1 if process.prediction_type == "flow" else 1000)
    above = process.sample_timesteps(20000, torch.Generator().manual_seed(0), above=0.25)
    assert above.dtype == times.dtype and above.min() >= end
    torch.testing.assert_close(
        torch.quantile(above.float(), places),
        torch.quantile(times[times >= end].float(), places),
        rtol=0.05,
        atol=0.01 * visited.max().item(),
    )


def test_noise_keeps_half_precision_latents_half():
    process = NoiseProcess("flow")
    latents = torch.ones(2, 3, dtype=torch.float16)
    assert process.add_noise(latents, latents, torch.tensor([0.1, 0.9])).dtype == torch.float16


@pytest.mark.parametrize(("prediction_type", "alphas"), [("noise", torch.ones(3)), ("flow", torch.ones(3)), ("epsilon", None)])
def test_noise_process_refuses_contradictions(prediction_type, alphas):
    with pytest.raises(ValueError, match="prediction_type="):
        NoiseProcess(prediction_type, alphas)


@pytest.mark.parametrize(
    ("make", "limit"), [(tiny_stable_diffusion, 14), (tiny_sdxl, 14), (tiny_sd3, 14), (tiny_flux, 511), (tiny_pixart, 119)]
)
def test_the_part_of_a_prompt_that_is_not_read(make, limit):
    family = family_of(make())
    assert family.text_limit() == limit
    words = ["red", "dress"] * limit
    assert family.token_overflow(" ".join(words[:limit])) == ""
    assert family.token_overflow(" ".join([*words[:limit], "blue", "shoe"])) == "blue shoe"


@pytest.mark.parametrize("make", [tiny_stable_diffusion, tiny_flux])
def test_known_words(make):
    assert family_of(make()).known_words(["dress", "zebra", "shoe", "red dress"]) == ["dress", "shoe"]


def test_default_scopes_name_weights(case):
    family = case[1]
    if family.name == "stable-diffusion-xl":
        pytest.skip("the tiny unet has fewer attention blocks than XL's")
    named = match_parameters(dict(family.denoiser.named_parameters()), family.reinit_patterns, "reinit_patterns")
    assert 0 < len(named) < len(list(family.denoiser.parameters()))


def test_guidance_of_a_distilled_flux_follows_the_sampling():
    family = family_of(tiny_flux())
    assert family.guidance_scale == 3.5
    sampling = {"num_inference_steps": 1, "height": 32, "width": 32, "guidance_scale": 2.0}
    family.sample_latents(["a dress"], [0], sampling)
    assert family.size_conditioning(3, torch.zeros(3, 4, 16, 16))["guidance"].tolist() == [2.0] * 3


def test_xl_states_the_size_of_the_picture():
    ids = family_of(tiny_sdxl()).size_conditioning(2, torch.zeros(2, 4, 16, 24))["time_ids"]
    assert ids.tolist() == [[32, 48, 0, 0, 32, 48]] * 2


def test_statistics_of_an_autoencoder_are_undone_as_the_pipeline_does():
    pipe = tiny_sdxl()
    mean, std = [0.5, -1.0, 2.0, 0.0], [2.0, 3.0, 0.5, 1.0]
    pipe.vae.register_to_config(latents_mean=mean, latents_std=std)
    latents = family_of(pipe).encode_images([Image.new("RGB", (32, 32), "red")])
    shape = (1, -1, 1, 1)
    undone = latents * torch.tensor(std).view(shape) / pipe.vae.config.scaling_factor + torch.tensor(mean).view(shape)
    pixels = torch.tensor([1.0, -1.0, -1.0]).view(shape).expand(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(undone, pipe.vae.encode(pixels).latent_dist.mean, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["prompt", "generator", "clip_skip", "original_size"])
def test_sampling_arguments_that_would_not_be_followed_are_refused(name):
    with pytest.raises(ValueError, match=f"sampling has '{name}'"):
        family_of(tiny_stable_diffusion()).sample_latents(["a dress"], [0], {name: 1})


def test_every_picture_needs_a_seed():
    with pytest.raises(ValueError, match="2 prompts but 1 seeds"):
        family_of(tiny_stable_diffusion()).sample_latents(PROMPTS, [0], {})


@pytest.mark.parametrize("make", [tiny_stable_diffusion, tiny_sdxl])
def test_one_negative_prompt_serves_every_picture(make):
    family, sampling = family_of(make()), {"num_inference_steps": 2, "guidance_scale": 5.0}
    one = family.sample_latents(PROMPTS, [1, 2], {**sampling, "negative_prompt": "red"})
    assert torch.equal(one, family.sample_latents(PROMPTS, [1, 2], {**sampling, "negative_prompt": ["red"]}))
    assert not torch.equal(one, family.sample_latents(PROMPTS, [1, 2], sampling))
