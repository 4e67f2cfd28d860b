"""Judges against independent computations with tiny real models, saved and loaded as users load them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_bert
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

from scissorhands_hf.audit import load_judge
from scissorhands_hf.audit.judges import BATCH_SIZE


DEMO = Path(__file__).resolve().parents[2] / "spaces_demo"
HALF = [0.5, 0.5, 0.5]
LABELS = ["tabby, tabby cat", "dog", "red fox"]


def noise_images(count: int, size: int = 16) -> list[Image.Image]:
    """Coloured noise of many brightnesses, so that a random model does not answer the same for all."""
    generator = np.random.default_rng(0)
    levels = generator.uniform(0, 255, (count, 1, 1, 3))
    return [
        Image.fromarray(p) for p in np.clip(levels + generator.normal(0, 60, (count, size, size, 3)), 0, 255).astype("uint8")
    ]


def pixels_of(images: list[Image.Image]) -> torch.Tensor:
    """What the processors below should make of pictures of their own size: (n, 3, h, w) in [-1, 1]."""
    return torch.tensor(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_classifier(folder: Path, multi_label: bool = False) -> ResNetForImageClassification:
    torch.manual_seed(1)
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
        problem_type="multi_label_classification" if multi_label else None,
    )
    model = ResNetForImageClassification(config).eval()
    with torch.no_grad():
        head = model.classifier[1]
        head.weight.mul_(20)
        # Centre the scores, so that no class wins for every picture.
        head.bias.sub_(model(pixel_values=pixels_of(noise_images(40))).logits.mean(0))
    model.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=HALF, image_std=HALF).save_pretrained(folder)
    return model


def test_a_classifier_sees_its_most_likely_class_under_any_of_its_names(tmp_path):
    model, images = save_classifier(tmp_path / "my-judge"), noise_images(BATCH_SIZE + 8)
    judge = load_judge(str(tmp_path / "my-judge"))
    with torch.no_grad():
        best = model(pixel_values=pixels_of(images)).logits.argmax(1).tolist()
    assert len(set(best)) == 3
    names = [{"Tabby  cat", "tabby, tabby cat"}, {"dog"}, set()]  # the fox is no candidate
    assert judge(images, ["Tabby  cat", "tabby, tabby cat", "dog"]) == [names[index] for index in best]
    assert [judge.knows(label) for label in ("tabby", "TABBY CAT", "dog", "fox", "")] == [True, True, True, False, False]
    assert judge([], ["dog"]) == []
    assert judge.name == "my-judge"  # the folder's name, not where it is
    with pytest.raises(ValueError, match="no class for .'wolf'."):
        judge(images, ["dog", "wolf"])


def test_a_multi_label_classifier_sees_every_class_above_one_half(tmp_path):
    model, images = save_classifier(tmp_path, multi_label=True), noise_images(20)
    with torch.no_grad():
        shown = model(pixel_values=pixels_of(images)).logits.sigmoid() > 0.5
    assert len({int(row.sum()) for row in shown}) > 1
    expected = [{name for name, seen in zip(("tabby", "dog", "red fox"), row, strict=True) if seen} for row in shown]
    assert load_judge(tmp_path)(images, ["tabby", "dog", "red fox"]) == expected


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "fashion_pipeline" / "tokenizer")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=shape
        | {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 16,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        vision_config=shape | {"image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    model = CLIPModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(8)  # a fresh model says nearly the same of everything
    model.save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size=size, image_mean=HALF, image_std=HALF, do_center_crop=True
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_clip_sees_the_caption_that_fits_best_or_nothing(clip_folder):
    judge, images = load_judge(clip_folder), noise_images(BATCH_SIZE + 8)
    candidates = ["dress", "bag", "red sneaker"]
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(clip_folder)
    texts = [f"a photo of {label}" for label in candidates] + ["a photo"]
    with torch.no_grad():
        # One text at a time and so without padding; cosines by hand.
        text = torch.cat([_pooled(model.get_text_features(**tokenizer(t, return_tensors="pt"))) for t in texts])
        vision = _pooled(model.get_image_features(pixel_values=pixels_of(images)))
        cosines = torch.nn.functional.normalize(vision, dim=1) @ torch.nn.functional.normalize(text, dim=1).T
    best = cosines.argmax(1).tolist()
    assert len(set(best)) >= 3 and 3 in best, "the tiny model must not say the same of every picture"
    assert judge(images, candidates) == [{candidates[i]} if i < 3 else set() for i in best]
    assert judge.name == "tiny-clip" and judge.knows("anything at all") and not judge.knows("  ")


def _pooled(features) -> torch.Tensor:
    return getattr(features, "pooler_output", features)


def test_clip_refuses_what_it_cannot_read(clip_folder):
    judge = load_judge(clip_folder)
    with pytest.raises(ValueError, match="blank"):
        judge(noise_images(1), ["dress", " "])
    with pytest.raises(ValueError, match="reads 16 tokens"):
        judge(noise_images(1), ["the photo of the shop " * 8])


def test_what_is_no_judge_is_refused(tmp_path):
    with pytest.raises(TypeError, match="neither the id or folder of a model nor a judge"):
        load_judge(lambda images, candidates: [])
    tiny_bert()[0].save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="model of type 'bert'"):
        load_judge(tmp_path / "bert")
    model = save_classifier(tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_judge(tmp_path / "pickled")


def test_an_object_with_the_three_members_is_handed_through():
    class Mine:
        name = "mine"

        def knows(self, label):
            return True

        def __call__(self, images, candidates):
            return [set(candidates) for _ in images]

    judge = Mine()
    assert load_judge(judge) is judge


def test_the_fashion_judge_reads_garment_and_colour():
    from spaces_demo.judge import COLOURS, FashionJudge, judge_images

    judge = FashionJudge()
    assert [
        judge.knows(label) for label in ("dress", "Red", "red dress", "dresses", "red sneakers", "trousers", "ankle boot")
    ] == [True] * 7
    assert not any(judge.knows(label) for label in ("", "hat", "dress red", "pink dress", "red red"))
    with pytest.raises(ValueError, match="not .'hat'."):
        judge([], ["dress", "hat"])
    images = [Image.fromarray(np.full((32, 32, 3), 255, "uint8")) for _ in range(3)]
    for image, colour in zip(images, ("red", "green", "red"), strict=True):
        image.paste(COLOURS[colour], (8, 4, 24, 28))
    for verdict, (garment, _, colour) in zip(
        judge(images, ["red", "green", "red dress", *(g for g in judge._garments)]), judge_images(images), strict=True
    ):
        assert verdict == {colour, garment} | ({"red dress"} if (garment, colour) == ("dress", "red") else set())


def test_the_shipped_judge_loads_by_its_folder(tmp_path):
    from spaces_demo.judge import FashionJudge

    judge, images = load_judge(DEMO / "fashion_judge"), noise_images(12, 32)
    garments = ["dress", "bag", "coat", "shirt", "sandal", "sneaker", "trousers", "t-shirt", "pullover", "ankle boot"]
    assert judge(images, garments) == FashionJudge()(images, garments)
    assert judge.name == "fashion_judge" and not judge.knows("red")
