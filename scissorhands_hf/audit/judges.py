"""Who says what a picture shows: any image classifier, or CLIP asked about the words themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, AutoTokenizer, CLIPModel
from transformers.image_processing_utils import BaseImageProcessor


if TYPE_CHECKING:
    from PIL.Image import Image

BATCH_SIZE = 32
CLIP_TEMPLATE = "a photo of {}"
# What stands in for "none of the candidates": without it CLIP would have to see one of them in every picture.
CLIP_NOTHING = "a photo"


@runtime_checkable
class Judge(Protocol):
    """Says which of the candidate labels each picture shows. Anything with these three members is one.

    `name` goes into reports and cards, so it holds no path.
    """

    name: str

    def __call__(self, images: Sequence[Image], candidates: Sequence[str]) -> list[set[str]]:
        """For each picture the set of those `candidates` (spelled as given) that it shows, which may be empty."""
        ...

    def knows(self, label: str) -> bool:
        """Whether `label` may be among the candidates."""
        ...


def load_judge(judge: Judge | str | Path, device: torch.device | str = "cpu") -> Judge:
    """A judge from a model's Hub id or folder; a judge is handed through.

    Args:
        judge (`Judge` or `str` or `Path`):
            An image classifier of transformers (its labels are the `id2label` of its configuration) or a CLIP model (any
            label, zero-shot). Only safetensors weights are read.
        device (`torch.device` or `str`, *optional*, defaults to `"cpu"`):
            Where a loaded model computes.

    Raises:
        TypeError: neither a string nor an object with `name`, `__call__` and `knows`.
        ValueError: the model is neither an image classifier nor CLIP.
        OSError: there is no such model, or it has no safetensors weights or no `preprocessor_config.json`.
    """
    if not isinstance(judge, str | Path):
        if isinstance(judge, Judge) and callable(judge):
            return judge
        raise TypeError(
            f"judge={judge!r} is neither the id or folder of a model nor a judge: an object with `name`, "
            "`__call__(images, candidates) -> list of sets of labels` and `knows(label) -> bool`"
        )
    config = AutoConfig.from_pretrained(judge)
    # A folder's own name identifies the model; where it lies on this machine is nobody's business.
    name = Path(judge).resolve().name if Path(judge).exists() else str(judge)
    architectures = config.architectures or []
    if any(architecture.endswith("ForImageClassification") for architecture in architectures):
        model = AutoModelForImageClassification.from_pretrained(judge, use_safetensors=True, dtype=torch.float32)
        return ClassifierJudge(model.eval().to(device), AutoImageProcessor.from_pretrained(judge), name)
    if config.model_type == "clip":
        model = CLIPModel.from_pretrained(judge, use_safetensors=True, dtype=torch.float32)
        return ClipJudge(
            model.eval().to(device), AutoImageProcessor.from_pretrained(judge), AutoTokenizer.from_pretrained(judge), name
        )
    raise ValueError(
        f"judge={str(judge)!r} is a model of type {config.model_type!r} ({', '.join(architectures) or 'of no named class'}): "
        "give an image classifier (…ForImageClassification), a CLIP model, or a judge of your own"
    )


class ClassifierJudge:
    """An image classifier as a judge: a picture shows the class it finds most likely.

    A multi-label classifier (`problem_type="multi_label_classification"`) sees every class above one half. A label is
    known by any of the names of its class, of which there may be several with commas between ("tabby, tabby cat"); case and
    outer blanks do not matter.

    Args:
        model (`torch.nn.Module`):
            Returns `logits` (n, classes) from `pixel_values`; in evaluation mode.
        processor (`BaseImageProcessor`):
            Turns PIL pictures into `pixel_values`.
        name (`str`):
            For reports.
    """

    def __init__(self, model: torch.nn.Module, processor: BaseImageProcessor, name: str) -> None:
        self.name, self._model, self._processor = name, model, processor
        self._classes: dict[str, set[int]] = {}
        for index, names in model.config.id2label.items():
            for spelling in {names, *names.split(",")}:
                self._classes.setdefault(_normal(spelling), set()).add(int(index))

    def knows(self, label: str) -> bool:
        return _normal(label) in self._classes

    @torch.no_grad()
    def __call__(self, images: Sequence[Image], candidates: Sequence[str]) -> list[set[str]]:
        """See [`Judge`].

        Raises:
            ValueError: a candidate is no class of the model.
        """
        if unknown := [label for label in candidates if not self.knows(label)]:
            raise ValueError(f"the judge {self.name!r} has no class for {unknown}; its classes: {sorted(self._classes)[:40]}")
        multi_label = getattr(self._model.config, "problem_type", None) == "multi_label_classification"
        verdicts: list[set[str]] = []
        for pixels in _pixel_batches(images, self._processor, self._model):
            logits = self._model(pixel_values=pixels).logits
            seen = logits > 0 if multi_label else logits == logits.max(dim=-1, keepdim=True).values
            verdicts += [
                {label for label in candidates if any(row[index] for index in self._classes[_normal(label)])}
                for row in seen.tolist()
            ]
        return verdicts

    def log_probability(self, pixels: Tensor, label: str) -> Tensor:
        """
        The logarithm of the probability that pictures show a label; differentiable, for probes that climb it.

        Args:
            pixels (`Tensor`):
                (n, 3, height, width) in [0, 1]. They are resized and normalised as the processor says, not cropped.
            label (`str`):
                One that the judge knows; where several classes have the name, any of them.

        Returns:
            (n,).
        """
        processor, config = self._processor, self._model.config
        if processor.do_resize:
            size = dict(processor.size)
            side = size.get("shortest_edge", size.get("height"))
            shape = (size.get("height", side), size.get("width", side))
            if tuple(pixels.shape[-2:]) != shape:
                pixels = torch.nn.functional.interpolate(pixels, shape, mode="bilinear", antialias=True)
        if processor.do_normalize:
            mean, spread = (torch.tensor(v).view(1, -1, 1, 1).to(pixels) for v in (processor.image_mean, processor.image_std))
            pixels = (pixels - mean) / spread
        logits = self._model(pixel_values=pixels.to(self._model.device, self._model.dtype)).logits.float()
        wanted = sorted(self._classes[_normal(label)])
        if getattr(config, "problem_type", None) == "multi_label_classification":
            return torch.nn.functional.logsigmoid(logits[:, wanted]).amax(dim=-1)
        return logits.log_softmax(dim=-1)[:, wanted].logsumexp(dim=-1)


class ClipJudge:
    """CLIP as a zero-shot judge: a picture shows the candidate whose caption fits it best, unless "a photo" alone fits better.

    So it sees at most one candidate in a picture; candidates that can be seen together (a garment and its colour) compete.

    Args:
        model (`CLIPModel`):
            In evaluation mode.
        processor (`BaseImageProcessor`):
            Turns PIL pictures into `pixel_values`.
        tokenizer (`PreTrainedTokenizerBase`):
            Of the model.
        name (`str`):
            For reports.
    """

    def __init__(self, model: CLIPModel, processor: BaseImageProcessor, tokenizer, name: str) -> None:
        self.name, self._model, self._processor, self._tokenizer = name, model, processor, tokenizer

    def knows(self, label: str) -> bool:
        return bool(label.strip())

    @torch.no_grad()
    def __call__(self, images: Sequence[Image], candidates: Sequence[str]) -> list[set[str]]:
        """See [`Judge`].

        Raises:
            ValueError: a candidate is blank, or longer than the text encoder reads.
        """
        if blank := [label for label in candidates if not self.knows(label)]:
            raise ValueError(f"the candidates {blank} are blank")
        candidates = list(candidates)
        texts = [*(CLIP_TEMPLATE.format(label) for label in candidates), CLIP_NOTHING]
        limit = self._model.config.text_config.max_position_embeddings
        if long := [text for text in texts if len(self._tokenizer(text).input_ids) > limit]:
            raise ValueError(f"the judge {self.name!r} reads {limit} tokens at most; these are longer: {long}")
        tokens = self._tokenizer(texts, padding=True, return_tensors="pt").to(self._model.device)
        verdicts: list[set[str]] = []
        for pixels in _pixel_batches(images, self._processor, self._model):
            best = self._model(pixel_values=pixels, **tokens).logits_per_image.argmax(dim=-1)
            verdicts += [{candidates[index]} if index < len(candidates) else set() for index in best.tolist()]
        return verdicts


def _pixel_batches(images: Sequence[Image], processor: BaseImageProcessor, model: torch.nn.Module) -> Iterator[Tensor]:
    for start in range(0, len(images), BATCH_SIZE):
        batch = [image.convert("RGB") for image in images[start : start + BATCH_SIZE]]
        yield processor(images=batch, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)


def _normal(label: str) -> str:
    return " ".join(label.casefold().split())
