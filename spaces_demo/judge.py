"""Say what is in a small picture: which garment (a shipped classifier) and which colour (read from the pixels).

The colour needs no network: the garments lie on white paper, so whatever is not white is ink, and its hue has a name.

    from spaces_demo.judge import judge_images
    judge_images([image])        # [("dress", 0.998, "red")]
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, PreTrainedModel


JUDGE_FOLDER = Path(__file__).resolve().parent / "fashion_judge"
IMAGE_SIZE = 32
BATCH_SIZE = 128
# The inks of the pictures, on white. They are far enough apart in hue to be told from any picture with ink on it.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 25, 30),
    "green": (25, 145, 55),
    "blue": (25, 80, 205),
    "yellow": (245, 200, 0),
    "purple": (130, 40, 165),
    "orange": (245, 115, 0),
}
NO_COLOUR = "none"
# Mean chroma (0..1) below which a picture counts as colourless: the palest real picture has several times as much.
LEAST_CHROMA = 0.01

_NAMES = tuple(COLOURS)
_HUES = np.array([colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))[0] for rgb in COLOURS.values()])


@lru_cache(maxsize=2)
def load_judge(folder: Path = JUDGE_FOLDER) -> PreTrainedModel:
    """The classifier, ready to use; loaded once, since every audit asks it many times."""
    return AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()


def read_colour(image: Image.Image) -> str:
    """Name of the ink's colour, or `"none"` where there is next to no coloured ink.

    Averaging before taking the hue weighs each pixel by its ink, so paper and pale noise do not vote.
    """
    red, green, blue = (np.asarray(image.convert("RGB"), dtype=np.float32) / 255).reshape(-1, 3).mean(axis=0)
    if max(red, green, blue) - min(red, green, blue) < LEAST_CHROMA:
        return NO_COLOUR
    distance = np.abs(_HUES - colorsys.rgb_to_hsv(red, green, blue)[0])
    return _NAMES[int(np.minimum(distance, 1 - distance).argmin())]  # hue is a circle


def to_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """Pixels in [-1, 1] as the classifier was trained on them, without needing torchvision."""
    arrays = []
    for image in images:
        image = image.convert("RGB")
        if image.size != (IMAGE_SIZE, IMAGE_SIZE):
            image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR)
        arrays.append(np.asarray(image, dtype=np.float32))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1


@torch.no_grad()
def judge_images(images: Sequence[Image.Image], model: PreTrainedModel | None = None) -> list[tuple[str, float, str]]:
    """(object, its probability, colour) for each picture; the same pictures always give the same answer."""
    images = list(images)
    model = model if model is not None else load_judge()
    verdicts: list[tuple[str, float, str]] = []
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        logits = model(pixel_values=to_tensor(batch).to(model.device, model.dtype)).logits
        confidence, label = logits.float().softmax(dim=-1).max(dim=-1)
        verdicts += [
            (model.config.id2label[int(index)], float(share), read_colour(image))
            for image, index, share in zip(batch, label, confidence, strict=True)
        ]
    return verdicts


class FashionJudge:
    """The judge that a concept's audit asks: sees a garment, a colour, and a garment in a colour ("red dress").

    A label is the name of a garment, of a colour, or of both in this order; case does not matter, nor does a plural.

    Args:
        model: the classifier of garments; the shipped one where it is left out.
    """

    name = "fashion-judge"

    def __init__(self, model: PreTrainedModel | None = None) -> None:
        self._model = model if model is not None else load_judge()
        self._garments = set(self._model.config.id2label.values())

    def _parse(self, label: str) -> tuple[str | None, str | None] | None:
        """(garment, colour), either of which may be None, or None where the label is not understood."""
        words = label.casefold().split()
        colour = words.pop(0) if words and words[0] in COLOURS else None
        if not words:
            return (None, colour) if colour else None
        noun = " ".join(words)
        spellings = (noun, noun.removesuffix("s"), noun.removesuffix("es"))
        garment = next((spelling for spelling in spellings if spelling in self._garments), None)
        return (garment, colour) if garment else None

    def knows(self, label: str) -> bool:
        """Whether the label can be looked for."""
        return self._parse(label) is not None

    def __call__(self, images: Sequence[Image.Image], candidates: Sequence[str]) -> list[set[str]]:
        """For each picture those candidates that it shows.

        Raises:
            ValueError: a candidate is neither a garment nor a colour nor both.
        """
        wanted = {label: self._parse(label) for label in candidates}
        if unknown := [label for label, meaning in wanted.items() if meaning is None]:
            raise ValueError(f"the judge knows garments {sorted(self._garments)} in {sorted(COLOURS)}, but not {unknown}")
        return [
            {
                label
                for label, (garment, colour) in wanted.items()
                if garment in (None, seen_garment) and colour in (None, seen_colour)
            }
            for seen_garment, _, seen_colour in judge_images(images, self._model)
        ]
