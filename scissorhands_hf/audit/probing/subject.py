"""A pipeline under probes: what all of them draw with, and what some of them need to know of it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from ..drawing import for_each_picture, picture_seed
from ..untouched import undisturbed
from .denoising import Denoising
from .wordings import Wording


if TYPE_CHECKING:
    from PIL.Image import Image

    from ..judges import Judge


class NotAvailable(Exception):
    """A probe cannot be run on this pipeline, or with what was given; the message says why."""


@dataclass(frozen=True)
class Drawn:
    """
    What a probe drew.

    Args:
        images (`list[Image]`):
            The pictures.
        setting (`str`, *optional*):
            Of the probe, where it has several.
        step (`int`, *optional*):
            Of training, where the pictures are one of a curve.
    """

    images: list[Image]
    setting: str = ""
    step: int | None = None


Found = Iterator[Drawn]
"""Of a probe: all that it draws, setting by setting."""


@dataclass(frozen=True)
class Subject:
    """
    A pipeline under probes.

    Args:
        pipe (`DiffusionPipeline`):
            The pipeline; a probe that changes something of it puts it back.
        wording (`Wording`):
            What the concept is asked for by.
        pictures (`Sequence[Image]`):
            The attacker's pictures of the concept, of the size that the pipeline draws; may be empty.
        count (`int`):
            Pictures of each share.
        seed (`int`):
            Of everything that is drawn or learned.
        sampling (`Mapping[str, Any]`):
            Further arguments of the pipeline's call.
        batch_size (`int`):
            Pictures drawn at once.
        new_word (`str`):
            A word that means nothing to the model.
        judge (`Judge`):
            Who says what a picture shows.
        label (`str`):
            What it calls the concept.
    """

    pipe: Any
    wording: Wording
    pictures: Sequence[Image]
    count: int
    seed: int
    sampling: Mapping[str, Any]
    batch_size: int
    new_word: str
    judge: Judge
    label: str

    def draw(
        self,
        name: str,
        arguments: Callable[[list[int]], Mapping[str, Any]],
        *,
        pipe: Any = None,
        sampling: Mapping[str, Any] | None = None,
        scheduler: Any = None,
    ) -> list[Image]:
        """
        Draw `count` pictures, each from a generator of its own; the pipeline is [`undisturbed`].

        Args:
            name (`str`):
                What is drawn, for the seeds.
            arguments (`Callable`):
                From the places of a batch's pictures to the arguments of the call that draws them.
            pipe (`DiffusionPipeline`, *optional*):
                Another pipeline around the same parts.
            sampling (`Mapping[str, Any]`, *optional*):
                In the place of the subject's.
            scheduler (`SchedulerMixin`, *optional*):
                In the place of the pipeline's.
        """
        pipe = self.pipe if pipe is None else pipe
        sampling = self.sampling if sampling is None else sampling
        images: list[Image] = []
        with undisturbed(pipe, seed=self.seed):
            pipe.scheduler = scheduler or pipe.scheduler
            for start in range(0, self.count, self.batch_size):
                places = list(range(start, min(start + self.batch_size, self.count)))
                generators = [torch.Generator().manual_seed(picture_seed(name, place, self.seed)) for place in places]
                chosen = {**for_each_picture(sampling, len(places)), **arguments(places)}
                images += pipe(generator=generators, output_type="pil", **chosen).images
        return images

    def draw_prompts(self, prompts: Sequence[str], name: str | None = None) -> list[Image]:
        """Draw `count` pictures of the prompts in turn."""
        return self.draw(
            name or "\n".join(prompts), lambda places: {"prompt": [prompts[place % len(prompts)] for place in places]}
        )

    def pictures_at(self, places: Sequence[int]) -> list[Image]:
        """The attacker's pictures for these places; they begin anew when there are fewer."""
        self.require_pictures()
        return [self.pictures[place % len(self.pictures)] for place in places]

    def require_pictures(self) -> None:
        """
        Raises:
            NotAvailable: there are no pictures of the concept.
        """
        if not self.pictures:
            raise NotAvailable("it needs pictures of the concept: give pictures=, or a reference that draws them")

    @cached_property
    def denoising(self) -> Denoising:
        """
        What learning needs to know of the pipeline.

        Raises:
            NotAvailable: the pipeline is of another kind.
        """
        if (reason := Denoising.unsupported(self.pipe)) is not None:
            raise NotAvailable(reason)
        return Denoising(self.pipe)

    @cached_property
    def latents(self) -> torch.Tensor:
        """The attacker's pictures as the denoiser sees them, (n, channels, height, width)."""
        self.require_pictures()
        return self.denoising.encode(self.pictures)

    @property
    def denoiser(self) -> torch.nn.Module:
        """
        What takes the noise away.

        Raises:
            NotAvailable: the pipeline has none of a name that is known.
        """
        for name in ("unet", "transformer"):
            if (part := getattr(self.pipe, name, None)) is not None:
                return part
        raise NotAvailable(f"a {type(self.pipe).__name__} has neither a unet nor a transformer")

    def sibling(self, task: str) -> Any:
        """
        The stock pipeline for another task around the same parts, on a scheduler of its own.

        Args:
            task (`str`):
                "Img2Img" or "Inpaint", as in the names of diffusers' classes.

        Raises:
            NotAvailable: diffusers has none for this kind of pipeline.
        """
        import diffusers

        for base in type(self.pipe).__mro__:
            kind = getattr(diffusers, f"{base.__name__.removesuffix('Pipeline')}{task}Pipeline", None)
            if kind is not None and base.__name__.endswith("Pipeline"):
                break
        else:
            raise NotAvailable(f"diffusers has no {task} pipeline for a {type(self.pipe).__name__}")
        known = inspect.signature(kind.__init__).parameters
        # Pipelines may correct the settings of a scheduler that they are given.
        parts = {**self.pipe.components, "scheduler": copy.deepcopy(self.pipe.scheduler)}
        if "requires_safety_checker" in known:
            parts |= {"safety_checker": None, "requires_safety_checker": False}
        return kind(**{name: part for name, part in parts.items() if name in known})

    def unguided(self) -> dict[str, Any]:
        """Sampling with the empty prompt by a pipeline whose size is that of a picture: nothing to be guided by."""
        rest = {name: value for name, value in self.sampling.items() if name not in ("height", "width", "negative_prompt")}
        # The guided answer is the empty prompt's own, computed twice.
        return rest | ({"guidance_scale": 1.0} if Denoising.unsupported(self.pipe) is None else {})
