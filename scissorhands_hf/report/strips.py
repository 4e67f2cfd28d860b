"""Pictures side by side, as reports and cards show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from PIL.Image import Image

CELL = 128  # pixels of a picture's longer side, unless another is asked for
GAP = 6  # pixels between pictures
FRAME = (222, 222, 222)


def compose_strip(images: Sequence[Image], count: int | None = None, side: int = CELL) -> Image:
    """
    Pictures side by side on white, each brought to the size of the first.

    Args:
        images (`list[PIL.Image.Image]`):
            At least one.
        count (`int`, *optional*):
            Places in the strip; those without a picture stay white. Default: one for each picture.
        side (`int`, *optional*, defaults to 128):
            Pixels of a picture's longer side.
    """
    from PIL import Image as Images
    from PIL import ImageDraw

    size = shown_size(images[0], side)
    strip = Images.new("RGB", ((count or len(images)) * (size[0] + GAP) - GAP, size[1]), "white")
    pen = ImageDraw.Draw(strip)
    for place, image in enumerate(images):
        # Few pixels are kept as they are, each a square: smoothing would show detail that was not drawn.
        smooth = Images.Resampling.NEAREST if image.width * 2 <= size[0] else Images.Resampling.LANCZOS
        left = place * (size[0] + GAP)
        strip.paste(image.convert("RGB").resize(size, smooth), (left, 0))
        pen.rectangle((left, 0, left + size[0] - 1, size[1] - 1), outline=FRAME)
    return strip


def shown_size(image: Image, side: int = CELL) -> tuple[int, int]:
    """Width and height of a picture in a strip, in pixels."""
    scale = side / max(image.size)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))
