"""The convenience method: an enabled pipeline is its stock class to all that diffusers, pickle and copies do with it."""

import copy
import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from tiny_pipelines import tiny_stable_diffusion

from scissorhands_hf import ConceptErasureMixin, enable_concept_erasure, erase_concept
from scissorhands_hf.hub import save_pipeline


QUICK = {
    "max_steps": 1,
    "evaluations": 1,
    "pictures_per_concept": 2,
    "retain_pictures": 2,
    "per_device_train_batch_size": 2,
    "report_images": 2,
    "disable_tqdm": True,
    "sampling": {"num_inference_steps": 1},
}


@pytest.fixture
def pipe():
    return enable_concept_erasure(tiny_stable_diffusion())


def same_weights(first, second) -> bool:
    pairs = zip(first.unet.state_dict().values(), second.unet.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_enabling_keeps_the_class_name_and_is_repeatable(tmp_path):
    pipe = tiny_stable_diffusion()
    assert enable_concept_erasure(pipe) is pipe and isinstance(pipe, StableDiffusionPipeline)
    kind = type(pipe)
    assert type(enable_concept_erasure(pipe)) is kind and kind.__name__ == "StableDiffusionPipeline"
    pipe.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


class GarmentPipeline(ConceptErasureMixin, StableDiffusionPipeline):
    """What a person who defines a pipeline class writes."""


def test_a_class_with_the_mixin_is_built_erased_and_saved_as_the_stock_class(tmp_path):
    stock = tiny_stable_diffusion()
    pipe = GarmentPipeline(**stock.components, requires_safety_checker=False)
    assert pipe.erase_concept("dress", **QUICK).concepts == ["dress"]
    pipe.save_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is StableDiffusionPipeline


def test_the_functions_leave_the_class_alone(tmp_path):
    pipe = tiny_stable_diffusion()
    erase_concept(pipe, "dress", **QUICK)
    save_pipeline(pipe, tmp_path)
    assert type(pipe) is StableDiffusionPipeline and (tmp_path / "README.md").exists()
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


def by_pickle(pipe):
    return pickle.loads(pickle.dumps(pipe))


def by_torch(pipe):
    file = io.BytesIO()
    torch.save(pipe, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@pytest.mark.parametrize("again", [by_pickle, by_torch, copy.deepcopy, copy.copy])
def test_an_enabled_pipeline_is_pickled_and_copied_with_its_reports(pipe, again):
    pipe.erase_concept("dress", **QUICK)
    other = again(pipe)
    assert type(other) is type(pipe) and other is not pipe and same_weights(other, pipe)
    assert other.components.keys() == pipe.components.keys() and dict(other.config) == dict(pipe.config)
    assert [report.concepts for report in other.erasure_reports] == [["dress"]]
    other.erase_concept("coat", **QUICK)
    assert [report.concepts for report in other.erasure_reports] == [["dress"], ["coat"]]
    assert [report.concepts for report in pipe.erasure_reports] == [["dress"]]
    # A shallow copy has the same denoiser, which the second erasure changed; any other has its own.
    assert same_weights(other, pipe) is (again is copy.copy)


def test_a_class_of_ones_own_is_pickled_by_its_own_name():
    own = GarmentPipeline(**tiny_stable_diffusion().components, requires_safety_checker=False)
    assert type(by_pickle(own)) is GarmentPipeline and same_weights(by_pickle(own), own)


def test_diffusers_makes_other_pipelines_of_an_enabled_one(pipe):
    stock = tiny_stable_diffusion()
    assert pipe.components.keys() == stock.components.keys()
    assert type(StableDiffusionImg2ImgPipeline.from_pipe(pipe)) is StableDiffusionImg2ImgPipeline
    assert type(AutoPipelineForImage2Image.from_pipe(pipe)) is StableDiffusionImg2ImgPipeline
    for other in (StableDiffusionPipeline.from_pipe(pipe), AutoPipelineForText2Image.from_pipe(pipe)):
        assert type(other) is StableDiffusionPipeline and other.unet is pipe.unet
    assert type(type(pipe).from_pipe(pipe)) is type(pipe)
    assert type(type(pipe)(**pipe.components, requires_safety_checker=False)) is type(pipe)


def test_an_enabled_pipeline_is_moved_and_cast(pipe):
    assert pipe.to(torch.bfloat16) is pipe and pipe.unet.dtype == torch.bfloat16
    assert pipe.to("cpu", torch.float32).dtype == torch.float32 and isinstance(pipe, ConceptErasureMixin)


def test_a_second_erasure_after_saving_and_loading_knows_of_the_first(tmp_path):
    """The card names both; what is gone is not drawn, or distilled, as something to be kept."""
    shipped = Path(__file__).parents[2] / "spaces_demo" / "fashion_pipeline"
    quick = QUICK | {"retain_pictures": 64, "report_images": 2}
    pipe = enable_concept_erasure(DiffusionPipeline.from_pretrained(shipped))
    pipe.erase_concept("dress", recipe="concept", **quick)
    pipe.save_pretrained(tmp_path / "once")
    again = enable_concept_erasure(DiffusionPipeline.from_pretrained(tmp_path / "once"))
    report = again.erase_concept("coat", **quick)
    assert [entry.concepts for entry in again.erasure_reports] == [["dress"], ["coat"]]
    assert not [score.prompt for score in report.prompts if score.group != "concept" and "dress" in score.prompt]
    again.save_pretrained(tmp_path / "twice")
    card = (tmp_path / "twice" / "README.md").read_text()
    assert "The concepts `dress`, `coat`." in card and "`dress`, led to" in card
    again.save_pretrained(tmp_path / "twice")  # and does not name them twice
    assert (tmp_path / "twice" / "README.md").read_text() == card
    third = enable_concept_erasure(DiffusionPipeline.from_pretrained(tmp_path / "twice"))
    third.erase_concept("bag", **quick)
    assert [name for entry in third.erasure_reports for name in entry.concepts] == ["dress", "coat", "bag"]
