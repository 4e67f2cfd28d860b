"""The shipped garment pipeline, its control and its judge: do they load as a stranger loads them, and do they work?"""

from __future__ import annotations

import gzip
import importlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from transformers import AutoModelForImageClassification


REPO = Path(__file__).resolve().parents[2]
DEMO = REPO / "spaces_demo"
CONTROLS = [DEMO / f"fashion_pipeline_without_{missing}" for missing in ("dress", "sneaker", "red")]
FOLDERS = [DEMO / "fashion_pipeline", *CONTROLS, DEMO / "fashion_judge"]
IMAGES = 12


@pytest.fixture(scope="module", autouse=True)
def import_paths():
    """The demo and the examples are folders of scripts, not installed packages."""
    added = [str(REPO), str(REPO / "examples")]
    sys.path[:0] = added
    yield
    for path in added:
        sys.path.remove(path)


@pytest.fixture(scope="module")
def judge():
    return importlib.import_module("spaces_demo.judge")


@pytest.fixture(scope="module")
def fashion_data():
    return importlib.import_module("fashion_data")


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = DiffusionPipeline.from_pretrained(FOLDERS[0])
    loaded.set_progress_bar_config(disable=True)
    return loaded


def draw(pipeline: StableDiffusionPipeline, prompt: str, seed: int = 0) -> list[Image.Image]:
    noise = [torch.Generator().manual_seed(seed + row) for row in range(IMAGES)]
    return pipeline([prompt] * IMAGES, num_inference_steps=15, guidance_scale=4.0, generator=noise).images


def test_it_is_a_plain_stable_diffusion_pipeline(pipeline):
    assert type(pipeline) is StableDiffusionPipeline
    assert pipeline.safety_checker is None and pipeline.feature_extractor is None
    assert {part.dtype for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet)} == {torch.float32}
    attentions = [name for name, _ in pipeline.unet.named_modules() if name.endswith(("attn1", "attn2"))]
    for block in ("up_blocks.1.attentions.1", "up_blocks.2.attentions.1"):
        assert f"{block}.transformer_blocks.0.attn1" in attentions


def test_the_same_seed_draws_the_same_pictures(pipeline):
    first, second = draw(pipeline, "a photo of a bag"), draw(pipeline, "a photo of a bag")
    other = draw(pipeline, "a photo of a bag", seed=1000)
    assert first[0].size == (32, 32)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(("name", "colour"), [("trousers", "red"), ("bag", "blue"), ("ankle boot", "orange")])
def test_the_judge_recognises_what_was_asked_for(pipeline, judge, fashion_data, name, colour):
    prompt = fashion_data.make_prompt("a photo of {one}", name, colour)
    verdicts = judge.judge_images(draw(pipeline, prompt))
    assert sum(label == name for label, _, _ in verdicts) >= 0.8 * IMAGES
    assert sum(seen == colour for _, _, seen in verdicts) >= 0.8 * IMAGES
    assert all(0 <= confidence <= 1 for _, confidence, _ in verdicts)


def test_a_paraphrase_that_training_never_had_is_understood(pipeline, judge, fashion_data):
    prompt = fashion_data.make_prompt(fashion_data.HELD_OUT_TEMPLATES[0], "dress", "green")
    verdicts = judge.judge_images(draw(pipeline, prompt))
    assert sum(verdict[0] == "dress" for verdict in verdicts) >= 0.7 * IMAGES


@pytest.mark.parametrize(("folder", "missing"), list(zip(CONTROLS, ("dress", "sneaker"), strict=False)))
def test_the_control_does_not_draw_the_class_it_never_saw(folder, missing, judge):
    control = DiffusionPipeline.from_pretrained(folder)
    control.set_progress_bar_config(disable=True)
    asked = judge.judge_images(draw(control, f"a photo of a {missing}"))
    bags = judge.judge_images(draw(control, "a photo of a bag"))
    assert sum(label == missing for label, _, _ in asked) <= 0.3 * IMAGES
    assert sum(label == "bag" for label, _, _ in bags) >= 0.8 * IMAGES


def test_the_control_does_not_draw_the_colour_it_never_saw(judge):
    control = DiffusionPipeline.from_pretrained(CONTROLS[-1])
    control.set_progress_bar_config(disable=True)
    asked, blue = (judge.judge_images(draw(control, f"a photo of a {colour} bag")) for colour in ("red", "blue"))
    assert sum(seen == "red" for _, _, seen in asked) <= 0.4 * IMAGES
    assert sum(seen == "blue" for _, _, seen in blue) >= 0.8 * IMAGES


def test_colours_are_read_from_the_pixels(judge):
    for name, ink in judge.COLOURS.items():
        picture = Image.new("RGB", (32, 32), "white")
        picture.paste(ink, (12, 8, 20, 28))
        assert judge.read_colour(picture) == name
    assert judge.read_colour(Image.new("RGB", (32, 32), "white")) == judge.NO_COLOUR
    assert judge.read_colour(Image.new("RGB", (32, 32), (90, 90, 90))) == judge.NO_COLOUR


def test_the_judge_reloads_with_the_stock_class(judge, fashion_data):
    model = AutoModelForImageClassification.from_pretrained(FOLDERS[-1])
    assert tuple(model.config.id2label[number] for number in range(10)) == fashion_data.CLASS_NAMES
    assert judge.judge_images([], model) == []


def test_every_caption_word_is_one_token_and_held_out_templates_use_no_other(pipeline, fashion_data):
    words = set(fashion_data.training_words())
    assert all(len(pipeline.tokenizer(word).input_ids) == 3 for word in words)
    assert not set(fashion_data.HELD_OUT_TEMPLATES) & set(fashion_data.TRAIN_TEMPLATES)
    for template in fashion_data.HELD_OUT_TEMPLATES:
        for name in fashion_data.CLASS_NAMES:
            prompt = fashion_data.make_prompt(template, name, "orange")
            assert set(prompt.replace("-", " - ").split()) <= words
            assert len(pipeline.tokenizer(prompt).input_ids) <= pipeline.tokenizer.model_max_length


def test_what_ships_is_small_and_safe():
    files = [file for folder in FOLDERS for file in folder.rglob("*") if file.is_file()]
    for folder in FOLDERS:
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 4_000_000
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".md", ".png"}
    for folder in FOLDERS:
        assert (folder / "README.md").read_text().startswith("---\nlicense: mit\n")


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def test_the_training_script_runs_from_end_to_end(tmp_path):
    chance = np.random.default_rng(0)
    for split, count in (("train", 60), ("t10k", 20)):
        pictures = np.zeros((count, 28, 28))
        pictures[:, 6:22, 8:20] = chance.integers(100, 255, (count, 16, 12))
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", pictures)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    command = [
        sys.executable, str(REPO / "examples" / "train_fashion_pipeline.py"),
        "--data", str(tmp_path), "--judge", str(tmp_path / "judge"), "--judge-epochs", "1", "--autoencoder-steps", "2",
        "--steps", "2", "--batch-size", "4", "--tints-per-image", "1", "--images-per-class", "6",
        "--sampler-steps", "2",
    ]  # fmt: skip
    full, control = tmp_path / "full", tmp_path / "control"
    subprocess.run([*command, "--output", str(full)], check=True, cwd=tmp_path)
    subprocess.run(
        [*command, "--output", str(control), "--without", "dress", "--autoencoder", str(full)], check=True, cwd=tmp_path
    )
    assert type(DiffusionPipeline.from_pretrained(control)) is StableDiffusionPipeline
    training = json.loads((control / "figures.json").read_text())["training"]
    assert (training["training_images"], training["without"]) == (54, "dress")
    assert "never saw" in (control / "README.md").read_text() and (full / "samples.png").exists()
    weights = [(folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() for folder in (full, control)]
    assert weights[0] == weights[1]
    inkless = tmp_path / "inkless"
    subprocess.run(
        [*command, "--output", str(inkless), "--without", "red", "--autoencoder", str(full)], check=True, cwd=tmp_path
    )
    training = json.loads((inkless / "figures.json").read_text())["training"]
    assert (training["training_images"], training["without"]) == (60, "red")
    card = (inkless / "README.md").read_text()
    assert "five inks (all but red)" in card and "all ten classes" in card


def test_a_colour_that_is_left_out_is_in_no_training_picture(pipeline):
    script = importlib.import_module("train_fashion_pipeline")
    fashion_data = importlib.import_module("fashion_data")
    grey = torch.zeros(40, 28, 28, dtype=torch.uint8)
    with torch.no_grad():
        _, colours = script.encode_dataset(pipeline.vae, grey, 3, without="red")
        _, every = script.encode_dataset(pipeline.vae, grey, 3)
    names = set(fashion_data.COLOUR_NAMES)
    assert {fashion_data.COLOUR_NAMES[colour] for colour in colours.flatten().tolist()} == names - {"red"}
    assert {fashion_data.COLOUR_NAMES[colour] for colour in every.flatten().tolist()} == names
