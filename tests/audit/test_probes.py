"""Drawing that depends on nothing but prompt, index and seed; and the measure of change against brute force."""

import itertools
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EulerAncestralDiscreteScheduler
from PIL import Image

from scissorhands_hf.audit import AuditPrompt, audit_metrics, compare_pictures, draw_pictures
from scissorhands_hf.audit.probes import same_seed_change
from scissorhands_hf.report import PromptScore


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
    from scissorhands_hf.audit.probes import picture_seed

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
    assert furthest(drawn, draw(pipe, ["a photo of a bag"])["a photo of a bag"]) > 5


def _seed(prompt: str, index: int) -> int:
    from scissorhands_hf.audit.probes import picture_seed

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
    with pytest.raises(ValueError, match="group='other'"):
        AuditPrompt("bag", "other")


def noise(count: int, seed: int, size: tuple[int, int] = (6, 5)) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(count)]


def test_change_is_the_distance_at_equal_seeds_in_units_of_that_between_seeds():
    before, after = noise(4, 0), noise(4, 1)

    def squared(a, b):
        return [(int(x) - int(y)) ** 2 for x, y in zip(a.tobytes(), b.tobytes(), strict=True)]

    moved = [d for a, b in zip(before, after, strict=True) for d in squared(a, b)]
    apart = [d for a, b in itertools.combinations(before, 2) for d in squared(a, b)]
    expected = math.sqrt(sum(moved) / len(moved)) / math.sqrt(sum(apart) / len(apart))
    assert same_seed_change(before, after) == pytest.approx(expected, rel=1e-5)
    assert same_seed_change(before, before) == 0
    # Each picture exchanged for another seed's of the same model: as far as seeds are apart.
    many = noise(40, 2)
    assert same_seed_change(many, many[1:] + many[:1]) == pytest.approx(1, abs=0.05)


def test_change_of_a_model_that_draws_one_picture_is_counted_in_grey_levels():
    grey, brighter = Image.new("RGB", (4, 4), (100,) * 3), Image.new("RGB", (4, 4), (103,) * 3)
    assert same_seed_change([grey, grey], [brighter, brighter]) == pytest.approx(3)
    assert same_seed_change([grey, grey], [grey, grey]) == 0


def test_change_refuses_what_cannot_be_compared():
    with pytest.raises(ValueError, match="'bag' has 1 original and 1"):
        same_seed_change(noise(1, 0), noise(1, 0), "bag")
    with pytest.raises(ValueError, match="2 original and 3 unlearned"):
        same_seed_change(noise(2, 0), noise(3, 0))
    with pytest.raises(ValueError, match="differ in size"):
        same_seed_change(noise(2, 0), noise(2, 0, (7, 5)))


class BrightnessJudge:
    """Sees "bright" and "dark"; remembers what it was asked."""

    name = "brightness"

    def __init__(self):
        self.asked = []

    def knows(self, label):
        return label in ("bright", "dark")

    def __call__(self, images, candidates):
        self.asked.append(tuple(candidates))
        return [{"bright" if np.asarray(image).mean() > 127 else "dark"} & set(candidates) for image in images]


def test_scores_count_the_pictures_in_which_the_judge_sees_the_label():
    def flat(*levels):
        return [Image.new("RGB", (4, 4), (level,) * 3) for level in levels]

    prompts = [
        AuditPrompt("a", "concept", "bright"),
        AuditPrompt("b", "kept", "dark"),
        AuditPrompt("c", "kept", "round"),  # the judge does not know this one
        AuditPrompt("d", "neighbour"),
    ]
    original = {"a": flat(200, 210, 220, 10), "b": flat(0, 1), "c": flat(0, 9), "d": flat(0, 9)}
    unlearned = {"a": flat(20, 210, 20, 10), "b": flat(0, 255), "c": flat(0, 9), "d": flat(0, 9)}
    judge = BrightnessJudge()
    scores = compare_pictures(prompts, original, unlearned, judge)
    assert [(s.prompt, s.original, s.unlearned, s.images) for s in scores] == [
        ("a", 75.0, 25.0, 4),
        ("b", 100.0, 50.0, 2),
        ("c", None, None, 2),
        ("d", None, None, 2),
    ]
    assert set(judge.asked) == {("bright", "dark")}
    assert scores[0].drop == 50.0 and scores[2].drop is None
    assert scores[2].change == 0
    without = compare_pictures(prompts, original, unlearned)
    assert all(s.original is None and s.unlearned is None for s in without)
    assert [s.change for s in without] == [s.change for s in scores]
    with pytest.raises(ValueError, match="'b' has 0 original"):
        compare_pictures(prompts, {"a": original["a"]}, unlearned)


def test_metrics_are_means_over_prompts():
    scores = [
        PromptScore("a", "concept", "x", 5, 100.0, 0.0, 0.8),
        PromptScore("b", "concept", "x", 5, 90.0, 10.0, 0.4),
        PromptScore("c", "paraphrase", "x", 5, 80.0, 20.0, 0.5),
        PromptScore("d", "kept", "y", 5, 100.0, 98.0, 0.1),
        PromptScore("e", "kept", None, 5, None, None, 0.3),
    ]
    metrics = audit_metrics(scores)
    assert metrics["original"] == {"concept": 95.0, "paraphrases": 80.0, "kept": 100.0}
    assert metrics["unlearned"] == pytest.approx(
        {
            "concept": 5.0,
            "concept change": 0.6,
            "paraphrases": 20.0,
            "paraphrases change": 0.5,
            "kept": 98.0,
            "kept change": 0.2,
        }
    )
    assert audit_metrics(scores[4:]) == {"unlearned": {"kept change": 0.3}}
    assert audit_metrics([]) == {}
