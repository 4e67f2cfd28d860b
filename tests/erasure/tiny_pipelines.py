"""Tiny real text-to-image pipelines made from a configuration, offline, in seconds: one for each family, random weights."""

from itertools import pairwise
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)


WORDS = ("a", "photo", "of", "dress", "coat", "red", "blue", "shoe", "bag", "the")
WIDTH = 32
CLIP_TOKENS = 16
PIXELS = 32


def clip_tokenizer() -> CLIPTokenizer:
    """Each of `WORDS` is one token; other words are spelled in bytes."""
    alphabet = sorted(ByteLevel.alphabet())
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            # Whatever merges the words before brought apply first, in their order, as they will when the word is read.
            known = [pair for pair in merges if pair in pairwise(parts)]
            pair = known[0] if known else (parts[0], parts[1])
            if not known:
                merges.append(pair)
            place = next(i for i, neighbours in enumerate(pairwise(parts)) if neighbours == pair)
            parts[place : place + 2] = ["".join(pair)]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *dict.fromkeys(a + b for a, b in merges)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_TOKENS)


def t5_tokenizer() -> T5Tokenizer:
    """A unigram tokenizer that knows `WORDS` and single letters."""
    letters = [(letter, -8.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    words = [(f"▁{word}", -3.0) for word in WORDS]
    return T5Tokenizer(
        vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *words, *letters], extra_ids=0, model_max_length=512
    )


def clip_encoder(tokenizer: CLIPTokenizer, projection: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CLIP_TOKENS, projection_dim=WIDTH, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5_encoder(tokenizer: T5Tokenizer) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=WIDTH, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    return T5EncoderModel(config).eval()


def autoencoder(latent_channels: int = 4, **config: Any) -> AutoencoderKL:
    """Two levels: a latent is half a picture's height and width."""
    return AutoencoderKL(
        block_out_channels=[8, 8], down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=latent_channels, norm_num_groups=4, sample_size=PIXELS, **config,
    ).eval()  # fmt: skip


def unet(**config: Any) -> UNet2DConditionModel:
    settings = {
        "sample_size": PIXELS // 2,
        "block_out_channels": [16, 32, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 8,
    }
    return UNet2DConditionModel(**{**settings, **config}).eval()


def diffusion_scheduler(prediction_type: str = "epsilon") -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction_type,
    )  # fmt: skip


def tiny_stable_diffusion(seed: int = 0, prediction_type: str = "epsilon", **unet_config: Any) -> StableDiffusionPipeline:
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    return quiet(
        StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=clip_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=unet(**unet_config),
            scheduler=diffusion_scheduler(prediction_type),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    )


def tiny_sdxl(seed: int = 0) -> StableDiffusionXLPipeline:
    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    return quiet(
        StableDiffusionXLPipeline(
            vae=autoencoder(scaling_factor=0.13),
            text_encoder=clip_encoder(tokenizer),
            text_encoder_2=clip_encoder(tokenizer, projection=True),
            tokenizer=tokenizer,
            tokenizer_2=clip_tokenizer(),
            unet=unet(
                cross_attention_dim=2 * WIDTH,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=WIDTH + 6 * 8,
            ),
            scheduler=diffusion_scheduler(),
            add_watermarker=False,
        )
    )


def tiny_sd3(seed: int = 0, with_t5: bool = True, **transformer_config: Any) -> StableDiffusion3Pipeline:
    torch.manual_seed(seed)
    tokenizer, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=PIXELS // 2, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=2 * WIDTH, caption_projection_dim=32, pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16, **transformer_config,
    )  # fmt: skip
    text_encoder_3 = t5_encoder(t5) if with_t5 else None
    if text_encoder_3 is not None:  # the transformer reads both encoders' states side by side
        config = T5Config(**{**text_encoder_3.config.to_dict(), "d_model": 2 * WIDTH})
        text_encoder_3 = T5EncoderModel(config).eval()
    return quiet(
        StableDiffusion3Pipeline(
            vae=autoencoder(scaling_factor=1.5, shift_factor=0.06),
            text_encoder=clip_encoder(tokenizer, projection=True),
            text_encoder_2=clip_encoder(tokenizer, projection=True),
            text_encoder_3=text_encoder_3,
            tokenizer=tokenizer,
            tokenizer_2=clip_tokenizer(),
            tokenizer_3=t5 if with_t5 else None,
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    )


def tiny_flux(seed: int = 0, guidance_embeds: bool = True) -> FluxPipeline:
    torch.manual_seed(seed)
    tokenizer, t5 = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return quiet(
        FluxPipeline(
            vae=autoencoder(scaling_factor=0.36, shift_factor=0.11),
            text_encoder=clip_encoder(tokenizer),
            tokenizer=tokenizer,
            text_encoder_2=t5_encoder(t5),
            tokenizer_2=t5,
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        )
    )


def tiny_pixart(
    seed: int = 0, sigma: bool = False, sample_size: int = 16, learned_variance: bool = True
) -> PixArtAlphaPipeline | PixArtSigmaPipeline:
    torch.manual_seed(seed)
    t5 = t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=sample_size, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=6, in_channels=4,
        out_channels=8 if learned_variance else 4, cross_attention_dim=48, caption_channels=WIDTH, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return quiet(
        (PixArtSigmaPipeline if sigma else PixArtAlphaPipeline)(
            vae=autoencoder(),
            text_encoder=t5_encoder(t5),
            tokenizer=t5,
            transformer=transformer.eval(),
            scheduler=DPMSolverMultistepScheduler(),
        )
    )


def quiet(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    return pipe


SIZE = {"height": PIXELS, "width": PIXELS}
# By name: how to make the pipeline, its family's name, and what its call needs to draw pictures this small.
TINY = {
    "sd": (tiny_stable_diffusion, "stable-diffusion", {}),
    "sd-v": (lambda: tiny_stable_diffusion(prediction_type="v_prediction"), "stable-diffusion", {}),
    "sd-sample": (lambda: tiny_stable_diffusion(prediction_type="sample"), "stable-diffusion", {}),
    "sdxl": (tiny_sdxl, "stable-diffusion-xl", {}),
    "sd3": (tiny_sd3, "stable-diffusion-3", SIZE),
    "sd3-without-t5": (lambda: tiny_sd3(with_t5=False), "stable-diffusion-3", SIZE),
    # As 3.5 is: normalised queries and keys, and in its medium size a second attention to the picture alone in some blocks.
    "sd35": (lambda: tiny_sd3(qk_norm="rms_norm", dual_attention_layers=(0,)), "stable-diffusion-3", SIZE),
    "flux-dev": (tiny_flux, "flux", SIZE),
    "flux-schnell": (lambda: tiny_flux(guidance_embeds=False), "flux", SIZE),
    "pixart-alpha": (lambda: tiny_pixart(sample_size=128), "pixart", SIZE | {"use_resolution_binning": False}),
    "pixart-sigma": (
        lambda: tiny_pixart(sigma=True, learned_variance=False),
        "pixart",
        SIZE | {"use_resolution_binning": False},
    ),
}
