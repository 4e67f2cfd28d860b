"""Pipelines around a transformer: Stable Diffusion 3 (arXiv:2403.03206), Flux, PixArt (arXiv:2310.00426, arXiv:2403.04692)."""

from typing import Any

import torch
from torch import Tensor, nn

from .family import Family, call_default, clip_limit, to_match
from .noise import NoiseProcess, diffusion_noise, flow_noise
from .text_inputs import TextInputs, linear_layers


# Where text enters, and the keys and values that pictures read it by in the blocks that have their own for text.
_JOINT_TEXT = ["context_embedder", "time_text_embed.text_embedder.linear_1", "*.attn.add_[kv]_proj.*"]


class StableDiffusion3Family(Family):
    """Stable Diffusion 3 and 3.5: two CLIP text encoders and, unless it was left out, a T5; a flow."""

    name = "stable-diffusion-3"
    denoiser_name = "transformer"
    parts = ("vae", "transformer", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    reinit_patterns = ["*.attn.*"]
    text_patterns = _JOINT_TEXT

    def check(self) -> None:
        self._require_parts(self.parts)
        if self.pipe.text_encoder_3 is not None:
            self._require_parts(["tokenizer_3"])
        self._check_channels(self.denoiser.config.in_channels, "inpainting, control")

    def _make_noise_process(self) -> NoiseProcess:
        return flow_noise(self.pipe.scheduler)

    def size_multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.denoiser.config.patch_size

    def largest_size(self) -> float:
        return self.size_multiple() * self.denoiser.config.pos_embed_max_size

    def _text_encoders(self) -> list[tuple[Any, int]]:
        pipe = self.pipe
        pairs = [(pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)]
        limits = [(tokenizer, clip_limit(tokenizer, encoder)) for tokenizer, encoder in pairs]
        if pipe.text_encoder_3 is not None:
            limits.append((pipe.tokenizer_3, call_default(pipe, "max_sequence_length") - 1))
        return sorted(limits, key=lambda pair: pair[1])

    def _encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        states, _, pooled, _ = self.pipe.encode_prompt(
            prompts,
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=call_default(self.pipe, "max_sequence_length"),
        )
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def text_inputs(self, conditioning: dict[str, Tensor], latents: Tensor) -> list[TextInputs]:
        return _joint_text_inputs(conditioning)

    def _text_segments(self) -> list[tuple[Any, int, int]]:
        pipe = self.pipe
        clip = pipe.tokenizer_max_length
        # Without a T5 its places are zeros.
        t5 = [] if pipe.text_encoder_3 is None else [(pipe.tokenizer_3, clip, call_default(pipe, "max_sequence_length"))]
        return [(pipe.tokenizer, 0, clip), *t5]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        conditioning = to_match(conditioning, noisy)
        return denoiser(
            hidden_states=noisy,
            timestep=timesteps.to(noisy.device) * self.pipe.scheduler.config.num_train_timesteps,
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            pooled_projections=conditioning["pooled_projections"],
            return_dict=False,
        )[0]


class FluxFamily(Family):
    """
    Flux.1: a T5 for the text, CLIP for its pooled summary, positions as ids; a flow. Latents are (n, channels, height, width)
    here; `predict` packs 2 x 2 of them into each token, as the pipeline does.

    Attributes:
        guidance_scale: what a guidance-distilled transformer (Flux.1-dev) is told; the default of the pipeline's call, and from
            then on that of the last `sample_latents`.
    """

    name = "flux"
    denoiser_name = "transformer"
    guided_by_two = False  # a distilled transformer is told the scale
    parts = ("vae", "transformer", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    reinit_patterns = ["*.attn.*"]
    text_patterns = _JOINT_TEXT

    def check(self) -> None:
        self._require_parts(self.parts)
        self._check_channels(self.denoiser.config.in_channels // 4, "fill, control, Kontext")
        if getattr(self.denoiser, "encoder_hid_proj", None) is not None:
            self._refuse("its transformer has an IP-Adapter", "Call pipe.unload_ip_adapter() first.")
        self.guidance_scale = float(call_default(self.pipe, "guidance_scale"))

    def _make_noise_process(self) -> NoiseProcess:
        return flow_noise(self.pipe.scheduler)

    def size_multiple(self) -> int:
        return self.pipe.vae_scale_factor * 2

    def _text_encoders(self) -> list[tuple[Any, int]]:
        return [(self.pipe.tokenizer_2, call_default(self.pipe, "max_sequence_length") - 1)]

    def _encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        states, pooled, _ = self.pipe.encode_prompt(
            prompts, device=self.device, max_sequence_length=call_default(self.pipe, "max_sequence_length")
        )
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def sample_latents(self, prompts: list[str], seeds: list[int], sampling: dict[str, Any]) -> Tensor:
        self.guidance_scale = float(sampling.get("guidance_scale", self.guidance_scale))
        return super().sample_latents(prompts, seeds, sampling)

    def _from_pipeline(self, latents: Tensor, sampling: dict[str, Any]) -> Tensor:
        default = self.pipe.default_sample_size * self.pipe.vae_scale_factor
        height, width = ((sampling.get(side) or default) // self.size_multiple() for side in ("height", "width"))
        return _unpack(latents, height)

    def size_conditioning(self, n: int, latents: Tensor) -> dict[str, Tensor]:
        """`img_ids` (tokens, 3): row and column of each token; and `guidance` (n,) if the transformer was distilled."""
        rows, columns = latents.shape[-2] // 2, latents.shape[-1] // 2
        ids = torch.zeros(rows, columns, 3, device=latents.device, dtype=latents.dtype)
        ids[..., 1] += torch.arange(rows, device=latents.device)[:, None]
        ids[..., 2] += torch.arange(columns, device=latents.device)
        conditions = {"img_ids": ids.flatten(0, 1)}
        if self.denoiser.config.guidance_embeds:
            conditions["guidance"] = torch.full((n,), self.guidance_scale, device=latents.device)
        return conditions

    def text_inputs(self, conditioning: dict[str, Tensor], latents: Tensor) -> list[TextInputs]:
        return _joint_text_inputs(conditioning)

    def _text_segments(self) -> list[tuple[Any, int, int]]:
        return [(self.pipe.tokenizer_2, 0, call_default(self.pipe, "max_sequence_length"))]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        conditioning = to_match(conditioning, noisy)
        states = conditioning["encoder_hidden_states"]
        packed = denoiser(
            hidden_states=_pack(noisy),
            timestep=timesteps.to(noisy.device, noisy.dtype),
            encoder_hidden_states=states,
            pooled_projections=conditioning["pooled_projections"],
            txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device, dtype=noisy.dtype),
            **self.size_conditioning(len(noisy), noisy),
            return_dict=False,
        )[0]
        return _unpack(packed, noisy.shape[-2] // 2)


class PixArtFamily(Family):
    """PixArt-Alpha and PixArt-Sigma: a T5 with its mask; a diffusion whose transformer may also return a variance."""

    name = "pixart"
    denoiser_name = "transformer"
    parts = ("vae", "transformer", "text_encoder", "tokenizer")
    reinit_patterns = ["*.attn1.*"]
    text_patterns = ["*.attn2.to_k.*", "*.attn2.to_v.*"]
    # Cleaning needs packages that may be missing here and there where the result is used; prompts are lower-cased without it.
    call_arguments = {"clean_caption": False}

    def check(self) -> None:
        self._require_parts(self.parts)
        config = self.denoiser.config
        self._check_channels(config.in_channels, "inpainting, control")
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            self._refuse(
                f"its transformer returns {config.out_channels} channels for {config.in_channels}",
                "Only a prediction for each channel, with or without its variance, is supported.",
            )

    def _make_noise_process(self) -> NoiseProcess:
        return diffusion_noise(self.pipe.scheduler)

    def size_multiple(self) -> int:
        return self.pipe.vae_scale_factor * self.denoiser.config.patch_size

    def _text_encoders(self) -> list[tuple[Any, int]]:
        return [(self.pipe.tokenizer, call_default(self.pipe, "max_sequence_length") - 1)]

    def _encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        states, mask, _, _ = self.pipe.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=self.device,
            **self.call_arguments,
            max_sequence_length=call_default(self.pipe, "max_sequence_length"),
        )
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}

    def size_conditioning(self, n: int, latents: Tensor) -> dict[str, Tensor]:
        """`resolution` (n, 2) in pixels and `aspect_ratio` (n, 1) for the 1024-pixel PixArt-Alpha, which asks for them."""
        if not self.denoiser.use_additional_conditions:
            return {}
        factor = self.pipe.vae_scale_factor
        height, width = latents.shape[-2] * factor, latents.shape[-1] * factor
        kind = {"device": latents.device, "dtype": latents.dtype}
        return {
            "resolution": torch.tensor([height, width], **kind).expand(n, -1),
            "aspect_ratio": torch.tensor([height / width], **kind).expand(n, -1),
        }

    def text_inputs(self, conditioning: dict[str, Tensor], latents: Tensor) -> list[TextInputs]:
        projection = self.denoiser.caption_projection
        # Of an offloaded denoiser this part alone may be elsewhere.
        where = next(weight.device for weight in projection.parameters())
        states = conditioning["encoder_hidden_states"].to(self.device if where.type == "meta" else where, self.denoiser.dtype)
        states = projection(states).to(self.device)
        layers = linear_layers(self.denoiser, (".attn2.to_k", ".attn2.to_v"))
        return [TextInputs(states, layers, read=conditioning["encoder_attention_mask"].bool())]

    def _text_segments(self) -> list[tuple[Any, int, int]]:
        return [(self.pipe.tokenizer, 0, call_default(self.pipe, "max_sequence_length"))]

    def _text_as_read(self, text: str) -> str:
        return text.lower().strip()

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        conditioning = to_match(conditioning, noisy)
        prediction = denoiser(
            noisy,
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            encoder_attention_mask=conditioning["encoder_attention_mask"],
            timestep=timesteps.to(noisy.device),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None, **self.size_conditioning(len(noisy), noisy)},
            return_dict=False,
        )[0]
        return prediction[:, : noisy.shape[1]]


def _joint_text_inputs(conditioning: dict[str, Tensor]) -> list[TextInputs]:
    """Of transformers whose every block reads text and picture together: text enters through two layers only."""
    summary = conditioning["pooled_projections"][:, None]
    return [
        TextInputs(conditioning["encoder_hidden_states"], ("context_embedder",)),
        TextInputs(summary, ("time_text_embed.text_embedder.linear_1",), summary=True),
    ]


def _pack(latents: Tensor) -> Tensor:
    """(n, c, 2h, 2w) to (n, h * w, 4c): each token holds a square of 2 x 2, channel by channel."""
    return nn.functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def _unpack(packed: Tensor, height: int) -> Tensor:
    """The inverse of `_pack`; `height` in tokens."""
    return nn.functional.pixel_shuffle(packed.transpose(1, 2).unflatten(2, (height, -1)), 2)
