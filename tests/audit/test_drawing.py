"""Drawing that depends on nothing but prompt, index and seed."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler

from scissorhands_hf.audit import draw_pictures


PIPELINE = Path(__file__).resolve().parents[2] / "spaces_demo" / "fashion_pipeline"
SAMPLING = {"num_inference_steps": 3, "guidance_scale": 4.0}


@pytest.fixture(scope="module")
def pipe():
    return DiffusionPipeline.from_pretrained(PIPELINE)


def draw(pipe, prompts, count=3, seed=5, **options):
    return draw_pictures(
        pipe, prompts, images_per_prompt=count, seed=seed, sampling=SAMPLING | options.pop("sampling", {}), **options
    )


def furthest(first, second) -> int:
    """Largest difference of a pixel, in grey levels."""
    assert len(first) == len(second)
    return max(int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("ancestral", [False, True], ids=["shipped sampler", "sampler that draws noise at each step"])
def test_a_picture_depends_on_its_prompt_index_and_seed_alone(pipe, ancestral):
    scheduler = pipe.scheduler
    if ancestral:
        pipe.scheduler = EulerAncestralDiscreteScheduler.from_config(scheduler.config)
    try:
        together = draw(pipe, ["a photo of a bag", "a red dress", "a photo of a bag"], batch_size=16)
        assert list(together) == ["a photo of a bag", "a red dress"]  # each distinct prompt once
        for batch_size in (1, 2):
            torch.manual_seed(batch_size)
            alone = draw(pipe, ["a red dress"], batch_size=batch_size)
            assert furthest(alone["a red dress"], together["a red dress"]) <= 1  # rounding of another batch size
        assert draw(pipe, ["a red dress"], count=1)["a red dress"][0].size == (32, 32)
        assert furthest(draw(pipe, ["a red dress"], seed=6)["a red dress"], together["a red dress"]) > 20
        assert furthest(together["a red dress"][:1], together["a red dress"][1:2]) > 20
    finally:
        pipe.scheduler = scheduler


def test_the_pipelines_own_call_gives_the_same_picture(pipe):
    """The documented seeds are enough to draw a picture of a report again without this package."""
    from scissorhands_hf.audit.drawing import picture_seed

    noise = torch.Generator().manual_seed(picture_seed("a blue bag", 2, 5))
    own = pipe("a blue bag", generator=noise, **SAMPLING).images
    assert furthest(draw(pipe, ["a blue bag"])["a blue bag"][2:], own) <= 1


def test_nothing_is_changed_by_drawing(pipe):
    pipe.set_progress_bar_config(desc="mine", disable=True)
    pipe.unet.train()
    pipe.vae.eval()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = (torch.rand(2).tolist(), np.random.rand(), random.random())
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    steps = []
    in_training = draw(pipe, ["bag"], on_batch=lambda done, total: steps.append((done, total)), batch_size=2)
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == expected
    assert steps == [(2, 3), (3, 3)]
    assert pipe._progress_bar_config == {"desc": "mine", "disable": True}
    assert pipe.unet.training and all(part.training for part in pipe.unet.modules()) and not pipe.vae.training
    pipe.unet.eval()
    del pipe._progress_bar_config
    assert furthest(draw(pipe, ["bag"], batch_size=2)["bag"], in_training["bag"]) == 0
    assert not hasattr(pipe, "_progress_bar_config")


def test_a_safety_checker_is_left_out_and_put_back_even_after_an_error(pipe):
    class Checker(torch.nn.Module):
        def forward(self, *inputs, **others):
            raise AssertionError("the pictures were checked")

    checker, plain = Checker(), draw(pipe, ["bag"])
    pipe.safety_checker = checker
    try:
        assert furthest(draw(pipe, ["bag"])["bag"], plain["bag"]) == 0
        with pytest.raises(RuntimeError, match="stop"):
            draw(pipe, ["bag"], on_batch=_stop)
        assert pipe.safety_checker is checker
    finally:
        pipe.safety_checker = None


def _stop(done: int, total: int) -> None:
    raise RuntimeError("stop")


def test_one_negative_prompt_serves_every_picture(pipe):
    drawn = draw(pipe, ["a photo of a bag"], sampling={"negative_prompt": "red"})["a photo of a bag"]
    listed = pipe(
        ["a photo of a bag"] * 3,
        negative_prompt=["red"] * 3,
        generator=[torch.Generator().manual_seed(_seed("a photo of a bag", index)) for index in range(3)],
        **SAMPLING,
    ).images
    assert furthest(drawn, listed) == 0
    in_a_list = draw(pipe, ["a photo of a bag"], sampling={"negative_prompt": ["red"]})["a photo of a bag"]
    assert furthest(drawn, in_a_list) == 0
    assert furthest(drawn, draw(pipe, ["a photo of a bag"])["a photo of a bag"]) > 5


def _seed(prompt: str, index: int) -> int:
    from scissorhands_hf.audit.drawing import picture_seed

    return picture_seed(prompt, index, 5)


def test_bad_arguments_are_named(pipe):
    with pytest.raises(ValueError, match="images_per_prompt=0"):
        draw(pipe, ["bag"], count=0)
    with pytest.raises(ValueError, match="batch_size=0"):
        draw(pipe, ["bag"], batch_size=0)
    with pytest.raises(ValueError, match="prompts is empty"):
        draw(pipe, [])
    with pytest.raises(ValueError, match="generator"):
        draw(pipe, ["bag"], sampling={"generator": None})
    for several in (["red", "blue"], [], [None], 3):
        with pytest.raises(ValueError, match="one text serves every picture"):
            draw(pipe, ["bag"], sampling={"negative_prompt": several})
