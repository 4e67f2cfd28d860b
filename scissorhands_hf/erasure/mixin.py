"""`pipe.erase_concept(…)`: for any pipeline at hand, and for people who define pipeline classes."""

from functools import cache
from typing import Any

from huggingface_hub import CommitInfo

from ..hub import push_pipeline, save_pipeline
from ..report import ConceptErasureReport
from .erase import erase_concept
from .estimate import ErasureEstimate
from .families import family_of


class ConceptErasureMixin:
    """
    Gives a pipeline class the method `erase_concept`. Put it first:
    `class MyPipeline(ConceptErasureMixin, StableDiffusionPipeline)`.

    It has no `__init__`, from whose signature diffusers reads a pipeline's components.
    """

    def erase_concept(self, concept: Any, **kwargs: Any) -> ConceptErasureReport | ErasureEstimate:
        """Remove a concept, in place; see [`erase_concept`]."""
        return erase_concept(self, concept, **kwargs)

    def save_pretrained(
        self, save_directory: Any, safe_serialization: bool = True, variant: str | None = None, **kwargs: Any
    ) -> None:
        """As the stock pipeline's, under the stock class's name, and beside it the card of what was erased; see
        `scissorhands_hf.hub.save_pipeline` for the card's options."""
        save_pipeline(self, save_directory, safe_serialization=safe_serialization, variant=variant, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> CommitInfo:
        """Save, check by reloading, and push, with the card; see `scissorhands_hf.hub.push_pipeline`."""
        return push_pipeline(self, repo_id, **kwargs)


def enable_concept_erasure(pipe: Any) -> Any:
    """
    Give this one pipeline the method `erase_concept`. It stays what it is: its class keeps its name, so that it is saved as
    the stock class and loads without this package.

    Args:
        pipe (`DiffusionPipeline`):
            Of a supported family.

    Returns:
        The same object.

    Raises:
        TypeError, ValueError: no pipeline, or one that is not supported; the message says why.
    """
    family_of(pipe)
    if not isinstance(pipe, ConceptErasureMixin):
        pipe.__class__ = _enabled_class(type(pipe))
    return pipe


@cache
def _enabled_class(kind: type) -> type:
    """The class with the mixin in front, under the same name and module: diffusers writes the one into model_index.json and
    looks the other up."""

    def __reduce_ex__(self: Any, protocol: int) -> tuple[Any, ...]:
        # By that name pickle finds the stock class, which is another one.
        return _blank, (kind,), self.__getstate__()

    body = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce_ex__": __reduce_ex__}
    return type(kind.__name__, (ConceptErasureMixin, kind), body)


def _blank(kind: type) -> Any:
    """An enabled pipeline that pickle, or copy, gives its attributes."""
    enabled = _enabled_class(kind)
    return enabled.__new__(enabled)
