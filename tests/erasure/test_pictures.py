"""Users' pictures: the sources, their captions, and what is damaged."""

import logging

import datasets
import numpy as np
import pytest
from PIL import Image
from tiny_pipelines import tiny_stable_diffusion

from scissorhands_hf import erase_concept
from scissorhands_hf.audit.pictures import read_pictures


def picture(seed: int, size: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def folder(path, count: int):
    path.mkdir()
    for number in range(count):
        picture(number).save(path / f"{number:02}.png")
    return path


def same(first, second):
    return len(first) == len(second) and all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(first, second, strict=True)
    )


def test_list_folder_and_dataset_give_the_same_pictures(tmp_path):
    files = folder(tmp_path / "pictures", 4)
    (files / "01.txt").write_text("a red coat\n")
    wanted = [picture(number) for number in range(4)]
    assert same(read_pictures("x", wanted)[0], wanted)
    assert same(read_pictures("x", [files / f"{n:02}.png" for n in range(4)])[0], wanted)
    pictures, captions = read_pictures("x", str(files))
    assert same(pictures, wanted) and captions == [None, "a red coat", None, None]
    dataset = datasets.Dataset.from_dict(
        {"picture": wanted, "caption": list("abcd")},
        features=datasets.Features({"picture": datasets.Image(), "caption": datasets.Value("string")}),
    )
    pictures, captions = read_pictures("x", dataset)
    assert same(pictures, wanted) and captions == list("abcd")


def test_a_damaged_picture_is_left_out_and_counted_and_many_are_refused(tmp_path, caplog):
    files = folder(tmp_path / "pictures", 8)
    (files / "03.png").write_bytes(b"no picture")
    whole = (files / "05.png").read_bytes()
    (files / "05.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        pictures, _ = read_pictures("forget_images", files)
    assert len(pictures) == 6 and "left out 2 of 8" in caplog.text
    (files / "06.png").write_bytes(b"")
    with pytest.raises(ValueError, match="forget_images: 3 of 8 pictures cannot be read"):
        read_pictures("forget_images", files)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([], ValueError, "holds no picture"),
        ("nowhere", ValueError, "'nowhere' is no folder"),
        ([3], TypeError, "holds a int"),
        (7, TypeError, "is a int"),
        (datasets.Dataset.from_dict({"text": ["a"]}), ValueError, "no image column"),
    ],
)
def test_other_sources_are_refused(source, error, message):
    with pytest.raises(error, match=message):
        read_pictures("retain_images", source)


def test_users_pictures_take_the_place_of_drawn_ones(monkeypatch):
    from scissorhands_hf.erasure.families.unet import StableDiffusionFamily

    quick = {
        "max_steps": 1, "evaluations": 1, "per_device_train_batch_size": 2, "report_images": 0, "disable_tqdm": True,
        "pictures_per_concept": 2, "retain_pictures": 2, "sampling": {"num_inference_steps": 2, "height": 32, "width": 32},
        "recipe": "concept",  # removal draws one, to know the shape of noise
    }  # fmt: skip
    monkeypatch.setattr(StableDiffusionFamily, "sample_latents", None)  # nothing may be drawn
    pictures = [picture(number) for number in range(3)]
    report = erase_concept(tiny_stable_diffusion(), "dress", forget_images=pictures, retain_images=pictures, **quick)
    assert report.history
    with pytest.raises(ValueError, match="forget_images: .*33"):
        erase_concept(tiny_stable_diffusion(), "dress", forget_images=[picture(0, 33)], retain_images=pictures, **quick)
