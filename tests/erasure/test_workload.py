"""How much is drawn for one concept and for a hundred, counted in the calls, and what is said of it beforehand."""

import logging
from itertools import islice, product

import pytest
import torch
from PIL import Image
from tiny_pipelines import tiny_stable_diffusion

from scissorhands_hf import erase_concept
from scissorhands_hf.erasure import erase, workload
from scissorhands_hf.erasure.families import Family
from scissorhands_hf.erasure.material import gather_material
from scissorhands_hf.erasure.request import ErasureRequest
from scissorhands_hf.erasure.workload import MOST_LEARNED, MOST_REPORTED, bounded_report, default_pictures
from scissorhands_hf.trainer.run_progress import Reporter


NAMES = ["".join(letters) for letters in islice(product("bcdfghjklm", "vwxzq", "kp"), 100)]
SETTINGS = {
    "anchor": "coat", "forget_objective": "redirect", "max_steps": 1, "evaluations": 1, "retain_pictures": 4,
    "disable_tqdm": True, "concept_type": "object",  # to ask the model what a name is takes a picture of its own
}  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """Instead of drawing, prompts are counted: those to learn from, and those of the report."""
    learned: list[str] = []
    reported: list[tuple[str, int]] = []

    def sample_latents(self, prompts, seeds, sampling):
        learned.extend(prompts)
        return torch.randn(len(prompts), 4, 16, 16)

    def draw_pictures(pipe, prompts, images_per_prompt, on_batch, **kwargs):
        reported.extend((prompt, images_per_prompt) for prompt in prompts)
        on_batch(1, len(prompts))
        return {prompt: [Image.new("RGB", (8, 8))] * images_per_prompt for prompt in prompts}

    monkeypatch.setattr(Family, "sample_latents", sample_latents)
    monkeypatch.setattr(erase, "draw_pictures", draw_pictures)
    return learned, reported


@pytest.mark.parametrize(("count", "each"), [(1, 64), (5, 64), (20, 51), (100, 10)])
def test_pictures_stay_bounded_however_many_concepts_are_erased(count, each, drawn, caplog, monkeypatch):
    monkeypatch.setattr(workload, "LONG", float("inf"))  # how fast this machine is matters to the other test
    learned, reported = drawn
    concepts = NAMES[:count]
    with caplog.at_level(logging.INFO, logger="scissorhands_hf"):
        report = erase_concept(tiny_stable_diffusion(), concepts, **SETTINGS)
    of_concepts = learned[: each * count]
    assert len(learned) == each * count + SETTINGS["retain_pictures"] and len(of_concepts) <= MOST_LEARNED
    assert report.settings["pictures_per_concept"] == each
    pictures = sum(images for _, images in reported)
    assert pictures <= MOST_REPORTED
    before = reported[: len(reported) // 2]
    assert before == reported[len(before) :]
    for name in concepts:
        assert sum(name in text.split() or f"{name}s" in text.split() for text in of_concepts) == each
        assert sum(images for text, images in before if name in text.split() or f"{name}s" in text.split()) >= 2
    total = len(learned) + pictures
    estimates = [record for record in caplog.records if record.name == workload.__name__]
    assert [record.levelno for record in estimates] == [logging.INFO, logging.INFO]
    assert f"{total:,} pictures to draw ({len(of_concepts):,} of what is erased" in estimates[0].getMessage()
    assert f"{pictures:,} for the report" in estimates[0].getMessage() and f"to draw {total:,}" in estimates[1].getMessage()


def test_settings_that_make_it_large_are_a_warning_before_anything_is_drawn(drawn, caplog):
    learned, reported = drawn
    settings = {**SETTINGS, "pictures_per_concept": 64, "report_images": 8}

    def stop(progress):
        if progress.step:  # the stage is told when it begins, too
            raise InterruptedError

    with pytest.raises(InterruptedError):
        erase_concept(tiny_stable_diffusion(), NAMES, callback=stop, **settings)
    warning = next(record for record in caplog.records if record.name == workload.__name__)
    assert warning.levelno == logging.WARNING and "6,400 of what is erased" in warning.getMessage()
    assert "pictures_per_concept=64" in warning.getMessage() and "report_images" in warning.getMessage()
    assert not learned and {images for _, images in reported} == {8}  # the user's own number stays


def test_hours_of_drawing_are_a_warning_after_the_first_pictures(drawn, caplog, monkeypatch):
    monkeypatch.setattr(workload, "LONG", 0.0)
    erase_concept(tiny_stable_diffusion(), "dress", **SETTINGS)
    texts = [record.getMessage() for record in caplog.records if record.name == workload.__name__]
    assert len(texts) == 1 and "s a picture: about" in texts[0] and "report_images" in texts[0]


def test_each_concept_has_equally_many_pictures_and_a_look_is_taken_from_things_all_over_the_list(drawn):
    learned, _ = drawn
    config = {"pictures_per_concept": 3, "retain_pictures": 1, "disable_tqdm": True, "max_steps": 4}
    request = ErasureRequest(tiny_stable_diffusion(), ["red", "dress", "shoe"], config=config)
    gather_material(request, Reporter(None, 0.0))
    asking = request.prompts.asking
    for name in asking:
        assert sum(text in asking[name] for text in learned[:9]) == 3
    assert len(asking["red"]) > 3 and len({text.split()[-1] for text in learned[:9] if text in asking["red"]}) > 1


def test_a_report_becomes_shorter_by_prompts_first_and_then_by_pictures():
    def rows(concepts, kept):
        asked = [
            [(f"{c} plain", "concept", f"{c}"), *((f"{c} {n}", "paraphrase", f"{c}") for n in range(3))]
            for c in range(concepts)
        ]
        return [*(row for own in asked for row in own), *((f"kept {n}", "kept", None) for n in range(kept))]

    assert bounded_report(rows(1, 9), None) == (rows(1, 9), 8)
    some, images = bounded_report(rows(20, 9), None)
    assert images == 8 and [row[1] for row in some[:4]] == ["concept", "paraphrase", "concept", "paraphrase"]
    assert some[-9:] == rows(20, 9)[-9:]
    many, images = bounded_report(rows(100, 300), None)
    assert {row[2] for row in many} == {*map(str, range(100)), None} and len(many) == 116 and images == 4
    assert bounded_report(rows(100, 9), 8)[1] == 8 and bounded_report(rows(3, 9), 0)[1] == 0
    assert bounded_report(rows(5000, 9), None)[1] == 2 and default_pictures(5000) == 4
