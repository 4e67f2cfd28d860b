"""Pipelines around a UNet2DConditionModel: Stable Diffusion 1 and 2 (arXiv:2112.10752), and XL (arXiv:2307.01952)."""

from typing import Any

import torch
from torch import Tensor, nn

from .family import Family, clip_limit, to_match
from .noise import NoiseProcess, diffusion_noise
from .text_inputs import TextInputs, linear_layers


class StableDiffusionFamily(Family):
    """Stable Diffusion 1 and 2: one CLIP text encoder, text by cross-attention alone."""

    name = "stable-diffusion"
    denoiser_name = "unet"
    # The reference cuts the self-attention of two of the decoder's blocks (recipes "stable-diffusion-…"); here of all of them,
    # whatever the number and place of a UNet's attention blocks.
    reinit_patterns = ["up_blocks.*attn1.*"]
    text_patterns = ["*.attn2.to_k.*", "*.attn2.to_v.*"]
    parts = ("vae", "unet", "text_encoder", "tokenizer")
    _addition_embed_type: str | None = None

    def check(self) -> None:
        self._require_parts(self.parts)
        config, latent_channels = self.denoiser.config, self.pipe.vae.config.latent_channels
        self._check_channels(config.in_channels, "inpainting, InstructPix2Pix, depth")
        if config.out_channels != latent_channels:
            self._refuse(
                f"its unet returns {config.out_channels} channels where the vae's latents have {latent_channels}",
                "Only unets that return one prediction per latent channel are supported.",
            )
        if config.get("encoder_hid_dim_type") is not None:
            hint = "Call pipe.unload_ip_adapter() first." if "ip_image" in config.encoder_hid_dim_type else "Use another model."
            self._refuse(f"its unet has encoder_hid_dim_type={config.encoder_hid_dim_type!r}", hint)
        expected = {
            "addition_embed_type": self._addition_embed_type,
            "class_embed_type": None,
            "num_class_embeds": None,
            "time_cond_proj_dim": None,
        }
        for field, value in expected.items():
            if config.get(field) != value:
                hint = " It is distilled (LCM): erase from its teacher." if field == "time_cond_proj_dim" else ""
                self._refuse(
                    f"its unet has {field}={config.get(field)!r}, a condition that erasing could not supply",
                    f"A {self.name} unet has {field}={value!r}.{hint}",
                )
        if config.get("attention_type", "default") != "default":
            self._refuse(f"its unet has attention_type={config.attention_type!r} (GLIGEN)", "Erase from the base model.")

    def _make_noise_process(self) -> NoiseProcess:
        return diffusion_noise(self.pipe.scheduler)

    def _text_encoders(self) -> list[tuple[Any, int]]:
        return [(self.pipe.tokenizer, clip_limit(self.pipe.tokenizer, self.pipe.text_encoder))]

    def _encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        states, _ = self.pipe.encode_prompt(prompts, self.device, 1, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": states}

    def text_inputs(self, conditioning: dict[str, Tensor], latents: Tensor) -> list[TextInputs]:
        layers = linear_layers(self.denoiser, (".attn2.to_k", ".attn2.to_v"))
        return [TextInputs(conditioning["encoder_hidden_states"], layers)]

    def _text_segments(self) -> list[tuple[Any, int, int]]:
        return [(self.pipe.tokenizer, 0, self.pipe.tokenizer.model_max_length)]

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        conditioning = to_match(conditioning, noisy)
        return denoiser(
            noisy,
            timesteps.to(noisy.device),
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            added_cond_kwargs=self._added_conditions(noisy, conditioning),
            return_dict=False,
        )[0]

    def _added_conditions(self, noisy: Tensor, conditioning: dict[str, Tensor]) -> dict[str, Tensor] | None:
        return None


class StableDiffusionXLFamily(StableDiffusionFamily):
    """Stable Diffusion XL: two CLIP text encoders, the second one's pooled text, and the picture's size as time ids."""

    name = "stable-diffusion-xl"
    text_patterns = [*StableDiffusionFamily.text_patterns, "add_embedding.linear_1"]
    parts = ("vae", "unet", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    _addition_embed_type = "text_time"

    def check(self) -> None:
        super().check()
        if getattr(self.pipe.config, "requires_aesthetics_score", False):
            self._refuse("it is a refiner (requires_aesthetics_score)", "Erase from the base pipeline.")

    def _text_encoders(self) -> list[tuple[Any, int]]:
        pipe = self.pipe
        pairs = [(pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)]
        return sorted(((tokenizer, clip_limit(tokenizer, encoder)) for tokenizer, encoder in pairs), key=lambda pair: pair[1])

    def _encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        states, _, pooled, _ = self.pipe.encode_prompt(
            prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if self.pipe.config.force_zeros_for_empty_prompt:
            # The pipeline's unconditional branch, and what these models saw for a dropped caption, is zeros.
            named = torch.tensor([bool(prompt) for prompt in prompts], device=states.device)
            states, pooled = states * named[:, None, None], pooled * named[:, None]
        return {"encoder_hidden_states": states, "text_embeds": pooled}

    def text_inputs(self, conditioning: dict[str, Tensor], latents: Tensor) -> list[TextInputs]:
        pooled, unet = conditioning["text_embeds"], self.denoiser
        ids = self.size_conditioning(len(pooled), latents)["time_ids"]
        size = unet.add_time_proj(ids.flatten()).unflatten(0, (len(pooled), -1)).flatten(1).to(pooled)
        summary = TextInputs(torch.cat([pooled, size], 1)[:, None], ("add_embedding.linear_1",), summary=True)
        return [*super().text_inputs(conditioning, latents), summary]

    def size_conditioning(self, n: int, latents: Tensor) -> dict[str, Tensor]:
        """`time_ids` (n, 6): original height and width, crop (0, 0), target height and width, as the pipeline's defaults."""
        factor = self.pipe.vae_scale_factor
        height, width = latents.shape[-2] * factor, latents.shape[-1] * factor
        ids = torch.tensor([height, width, 0, 0, height, width], device=latents.device, dtype=latents.dtype)
        return {"time_ids": ids.expand(n, -1)}

    def _added_conditions(self, noisy: Tensor, conditioning: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"text_embeds": conditioning["text_embeds"], **self.size_conditioning(len(noisy), noisy)}
