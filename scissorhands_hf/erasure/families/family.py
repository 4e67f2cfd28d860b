"""What erasing needs to know of a kind of pipeline: its text, latents, noise and denoiser."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...audit.drawing import check_sampling, for_each_picture
from ...audit.untouched import undisturbed
from .hooks import execution_device
from .noise import NoiseProcess
from .pipeline_checks import refuse
from .text_inputs import TextInputs, matching_places


# Arguments of a pipeline's call that change what the denoiser is told in a way that `encode_prompts` and `size_conditioning`
# would not follow.
UNFOLLOWED_ARGUMENTS = (
    "prompt_2", "prompt_3", "clip_skip", "max_sequence_length", "clean_caption", "original_size", "target_size",
    "crops_coords_top_left", "ip_adapter_image", "ip_adapter_image_embeds", "cross_attention_kwargs", "joint_attention_kwargs",
)  # fmt: skip


class Family(ABC):
    """
    A supported kind of text-to-image pipeline. Everything is computed as the stock pipeline computes it.

    Args:
        pipe (`Any`):
            The pipeline. It is read, never changed, and no weight is held but through it.

    Raises:
        ValueError: a part of the pipeline is missing or of a kind that is not supported; the message names it.
    """

    name: ClassVar[str]
    denoiser_name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]]
    """Components that must be there."""
    reinit_patterns: ClassVar[list[str]]
    """Default scope of re-initialisation, as patterns for `scopes.match_parameters`."""
    text_patterns: ClassVar[list[str]]
    """Weights that read text, as patterns: what is trained of a large denoiser by default."""
    adapter_patterns: ClassVar[list[str]] = [r"re:\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)\.weight$"]
    """Weights that a low-rank adapter is laid over by default: those of attention."""
    guided_by_two: ClassVar[bool] = True
    """Whether a picture that is guided (`guidance_scale` > 1) takes two predictions a step."""
    call_arguments: ClassVar[dict[str, Any]] = {}
    """What the pipeline's call is given for every picture, beside the prompt and the user's `sampling`."""

    def __init__(self, pipe: Any):
        self.pipe = pipe
        self.check()
        self._noise = self._make_noise_process()

    # -- what a family says of itself

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError for components or configurations that are not supported."""

    @abstractmethod
    def _make_noise_process(self) -> NoiseProcess: ...

    @abstractmethod
    def _text_encoders(self) -> list[tuple[Any, int]]:
        """Tokenizers with the most tokens each one passes on, special ones excluded; the one that reads least first."""

    @abstractmethod
    def _encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]: ...

    @abstractmethod
    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """
        The denoiser's raw output for noisy latents.

        Args:
            denoiser (`nn.Module`):
                `pipe`'s own, a copy of it or a wrapper with the same call.
            noisy (`Tensor`):
                (n, *latent shape), floating point, on the denoiser's device.
            timesteps (`Tensor`):
                (n,) as from `noise_process().sample_timesteps`.
            conditioning (`dict[str, Tensor]`):
                Rows of `encode_prompts`, n of them; moved to the device and dtype of `noisy` when they differ.

        Returns:
            Same shape as `noisy`; comparable with `noise_process().target(...)`.
        """

    def size_conditioning(self, n: int, latents: Tensor) -> dict[str, Tensor]:
        """What the denoiser is told of the picture's size, for n pictures; made by `predict` for each batch. Often nothing."""
        return {}

    # -- text

    def text_limit(self) -> int:
        """How many tokens of a prompt, special ones excluded, the text encoder that reads least of it reads."""
        return self._text_encoders()[0][1]

    @property
    def tokenizer(self) -> Any:
        """Of the text encoder that reads least of a prompt."""
        return self._text_encoders()[0][0]

    def token_overflow(self, text: str) -> str:
        """The end of `text` that `text_limit` cuts off, "" if nothing."""
        tokenizer, limit = self._text_encoders()[0]
        text = self._expanded(text, tokenizer)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
        if len(encoded.input_ids) <= limit:
            return ""
        if tokenizer.is_fast:
            return text[encoded.offset_mapping[limit][0] :].strip()
        return tokenizer.decode(encoded.input_ids[limit:]).strip()

    def known_words(self, words: Sequence[str]) -> list[str]:
        """Those of `words` that are one token, so that the text encoder need not guess at a spelling."""
        tokenizer, words = self.tokenizer, list(words)
        if not words:
            return []
        # A tokenizer may use its end-of-text token for unknown ones.
        special = set(tokenizer.all_special_ids)
        rows = tokenizer(words, add_special_tokens=False).input_ids
        return [word for word, row in zip(words, rows, strict=True) if len(row) == 1 and row[0] not in special]

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        """
        All that the denoiser is told of each prompt, by the pipeline's own `encode_prompt`; "" is what it puts in the place of
        a missing negative prompt.

        Args:
            prompts (`list[str]`):
                n ≥ 1 texts; the end of one that is too long is cut, see `token_overflow`.

        Returns:
            Tensors with n rows each, in the pipeline's dtype, on its device.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts={prompts!r} must be a list of one or more texts")
        return self._encode_prompts(list(prompts))

    @abstractmethod
    def text_inputs(self, conditioning: dict[str, Tensor], latents: Tensor) -> list[TextInputs]:
        """
        What the denoiser's first layers of text read of prompts: all that it is told of them goes through these layers.

        Args:
            conditioning (`dict[str, Tensor]`):
                Of n prompts, from `encode_prompts`.
            latents (`Tensor`):
                (any number, *latent shape), of the size that pictures have.
        """

    @abstractmethod
    def _text_segments(self) -> list[tuple[Any, int, int]]:
        """Tokenizers of the tokens in a prompt's sequence of states, with the first place and number of places of each."""

    def _expanded(self, text: str, tokenizer: Any) -> str:
        """`text` with each token of `load_textual_inversion` that stands for several vectors as its several tokens, as the
        pipeline's call has it."""
        expand = getattr(self.pipe, "maybe_convert_prompt", None)  # not all pipelines load such tokens
        return text if expand is None else expand(text, tokenizer)

    def _text_as_read(self, text: str) -> str:
        return text

    def matching_places(self, text: str, other: str) -> list[tuple[int, int]]:
        """For each place in the states of `text` the place in those of `other` that answers for it, see
        `families.text.matching_places`."""
        pairs = []
        for tokenizer, start, length in self._text_segments():
            tokens = [
                tokenizer(
                    self._expanded(self._text_as_read(t), tokenizer), truncation=True, max_length=length, verbose=False
                ).input_ids
                for t in (text, other)
            ]
            pairs += [(start + old, start + new) for old, new in matching_places(*tokens, length)]
        return pairs

    # -- latents

    def noise_process(self) -> NoiseProcess:
        """The process that the scheduler's configuration describes."""
        return self._noise

    @property
    def denoiser(self) -> nn.Module:
        return getattr(self.pipe, self.denoiser_name)

    @property
    def device(self) -> torch.device:
        """Where the denoiser computes; of an offloaded one the weights may wait elsewhere."""
        return execution_device(self.denoiser)

    def check_sampling(self, sampling: Mapping[str, Any]) -> None:
        """
        Raises:
            ValueError: an argument that is set for every picture, or that erasing would not follow.
        """
        check_sampling(sampling, UNFOLLOWED_ARGUMENTS)

    @torch.no_grad()
    def sample_latents(self, prompts: list[str], seeds: list[int], sampling: dict[str, Any]) -> Tensor:
        """
        Draw one picture for each prompt with the pipeline itself, and return it in the space that the denoiser works in.

        Args:
            prompts (`list[str]`):
                n texts.
            seeds (`list[int]`):
                One per picture, on the CPU, so a picture depends on its own seed and prompt alone.
            sampling (`dict[str, Any]`):
                Further keyword arguments of the pipeline's call (num_inference_steps, guidance_scale, height, width ...).

        Returns:
            (n, *latent shape) in the pipeline's dtype, on its device.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds; give one seed per picture")
        self.check_sampling(sampling)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with undisturbed(self.pipe, seed=seeds[0]):
            arguments = {"prompt": list(prompts), "generator": generators, "output_type": "latent"}
            latents = self.pipe(**arguments, **self.call_arguments, **for_each_picture(sampling, len(prompts))).images
        return self._from_pipeline(latents, sampling)

    def _from_pipeline(self, latents: Tensor, sampling: dict[str, Any]) -> Tensor:
        """The pipeline's latents in the shape that the family works with."""
        return latents

    def size_multiple(self) -> int:
        """Height and width of pictures, in pixels, must be multiples of this."""
        return self.pipe.vae_scale_factor

    def largest_size(self) -> float:
        """Height and width of pictures, in pixels, may be this at most."""
        return math.inf

    @torch.no_grad()
    def encode_images(self, images: Sequence[Any]) -> Tensor:
        """
        Pictures to latents as `sample_latents` returns them: the mean of the autoencoder's posterior, scaled.

        Args:
            images (`Sequence[Any]`):
                PIL images, all of one size.

        Raises:
            ValueError: sizes differ or are no multiples of `size_multiple()`.
        """
        if not images:
            raise ValueError("images is empty; give at least one PIL image")
        sizes = sorted({image.size for image in images})
        multiple = self.size_multiple()
        largest = self.largest_size()
        unfit = [size for size in sizes if any(side % multiple or side > largest for side in size)]
        if len(sizes) > 1 or unfit:
            problem = f"sizes {sizes[0]} and {sizes[1]} differ" if len(sizes) > 1 else f"the size {unfit[0]} does not fit"
            limit = f" up to {largest}" if largest < math.inf else ""
            raise ValueError(
                f"images: {problem}; this pipeline takes pictures of one size with width and height that are multiples of "
                f"{multiple}{limit}. Resize them first, for instance with PIL.ImageOps.fit."
            )
        vae = self.pipe.vae
        pixels = self.pipe.image_processor.preprocess([image.convert("RGB") for image in images]).to(execution_device(vae))
        # Half precision overflows in autoencoders that say so; the pipelines, too, compute those in float32.
        dtype, upcast = vae.dtype, vae.dtype == torch.float16 and vae.config.force_upcast
        if upcast:
            vae.to(torch.float32)
        try:
            latents = vae.encode(pixels.to(vae.dtype)).latent_dist.mode()
        finally:
            if upcast:
                vae.to(dtype)
        return self._scale_latents(latents).to(self.denoiser.dtype)

    def _scale_latents(self, latents: Tensor) -> Tensor:
        """From the autoencoder's space to the denoiser's."""
        config = self.pipe.vae.config
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean = torch.tensor(config.latents_mean, device=latents.device).view(1, -1, 1, 1)
            std = torch.tensor(config.latents_std, device=latents.device).view(1, -1, 1, 1)
            return (latents - mean) * config.scaling_factor / std
        return (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    # -- for the families' own checks

    def _check_channels(self, channels: int, made_for: str) -> None:
        """The denoiser must read as many channels as the autoencoder's latents have."""
        expected = self.pipe.vae.config.latent_channels
        if channels != expected:
            self._refuse(
                f"its {self.denoiser_name} takes {channels} channels where the vae's latents have {expected}: it is made to "
                f"see a picture or mask beside the noise ({made_for})",
                "Erase from the text-to-image model it was made from.",
            )

    def _refuse(self, problem: str, way_out: str) -> None:
        refuse(self.pipe, problem, way_out)

    def _require_parts(self, names: Sequence[str]) -> None:
        for name in names:
            if getattr(self.pipe, name, None) is None:
                self._refuse(f"its {name} is missing", f"Load the pipeline with its {name}.")


def call_default(pipe: Any, argument: str) -> Any:
    """The value that the pipeline's call has for an argument left out."""
    return inspect.signature(type(pipe).__call__).parameters[argument].default


def to_match(conditioning: dict[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    """The tensors on the device of `like`, those of floating point in its dtype."""
    return {
        name: value.to(like.device, like.dtype if value.is_floating_point() else value.dtype)
        for name, value in conditioning.items()
    }


def clip_limit(tokenizer: Any, text_encoder: nn.Module) -> int:
    """Tokens that a CLIP text encoder reads beside the start and end of text."""
    return min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings) - 2
