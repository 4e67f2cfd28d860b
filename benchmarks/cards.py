"""What `erase_concept` is estimated to need on a GPU for known models at their own resolution; nothing large is made.

    python benchmarks/cards.py --output out/cards.json

Denoisers and autoencoders have the geometry of the published models and no memory; text encoders have their width and number of
tokens, and a layer or two: what they take is the number of weights that were published. Counted is what the device holds of a
pipeline with `enable_model_cpu_offload`, with activations in float32, and beside it what drawing takes without offloading.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "erasure"))

CARDS = (24, 48, 80)
NAMED = {"anchor": "coat"}  # of removal there is none
REMOVAL = {"recipe": "removal", "neighbours": 0}  # which it would ask the denoiser for
SETTINGS: dict[str, dict[str, Any]] = {
    "default": NAMED,
    "adapter": {**NAMED, "repair_adapter": 16},
    "edit alone": {**NAMED, "max_steps": 0},
    "removal": REMOVAL,
    "removal, all weights": {**REMOVAL, "trainable_target_modules": ["*"]},
}
DECODER = {
    "block_out_channels": [128, 256, 512, 512], "down_block_types": ["DownEncoderBlock2D"] * 4, "layers_per_block": 2,
    "up_block_types": ["UpDecoderBlock2D"] * 4, "norm_num_groups": 32,
}  # fmt: skip
# Text encoders, in millions of weights: CLIP ViT-L, OpenCLIP ViT-bigG, T5-XXL.
CLIP_L, CLIP_G, T5_XXL = 123, 695, 4762
TEXT_ENCODERS = {
    "Stable Diffusion 1.5": (CLIP_L,), "Stable Diffusion XL": (CLIP_L, CLIP_G), "Flux.1 dev": (CLIP_L, T5_XXL),
    "Stable Diffusion 3 medium": (CLIP_L, CLIP_G, T5_XXL), "Stable Diffusion 3.5 large": (CLIP_L, CLIP_G, T5_XXL),
    "PixArt-Sigma": (T5_XXL,),
}  # fmt: skip
UNET = {"layers_per_block": 2, "norm_num_groups": 32}
# Tiny pipeline, width of its text encoders, pixels, latent channels, width of a T5 beside CLIP, and the denoiser's settings.
MODELS: dict[str, tuple[str, int, int, int, int | None, dict[str, Any]]] = {
    "Stable Diffusion 1.5": ("tiny_stable_diffusion", 768, 512, 4, None, {
        **UNET, "sample_size": 64, "block_out_channels": [320, 640, 1280, 1280], "attention_head_dim": 8,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "cross_attention_dim": 768,
    }),
    "Stable Diffusion XL": ("tiny_sdxl", 1024, 1024, 4, None, {
        **UNET, "sample_size": 128, "block_out_channels": [320, 640, 1280], "attention_head_dim": [5, 10, 20],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10], "use_linear_projection": True, "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1024 + 6 * 256,
    }),
    "Stable Diffusion 3 medium": ("tiny_sd3", 1024, 1024, 16, 4096, {
        "sample_size": 128, "num_layers": 24, "attention_head_dim": 64, "num_attention_heads": 24, "in_channels": 16,
        "out_channels": 16, "joint_attention_dim": 4096, "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192,
    }),
    "Stable Diffusion 3.5 large": ("tiny_sd3", 1024, 1024, 16, 4096, {
        "sample_size": 128, "num_layers": 38, "attention_head_dim": 64, "num_attention_heads": 38, "in_channels": 16,
        "out_channels": 16, "joint_attention_dim": 4096, "caption_projection_dim": 2432, "pooled_projection_dim": 2048,
        "pos_embed_max_size": 192, "qk_norm": "rms_norm",
    }),
    "Flux.1 dev": ("tiny_flux", 768, 1024, 16, 4096, {
        "in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
        "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True, "axes_dims_rope": (16, 56, 56),
    }),
    "PixArt-Sigma": ("tiny_pixart_sigma", 4096, 1024, 4, None, {
        "sample_size": 128, "num_layers": 28, "attention_head_dim": 72, "num_attention_heads": 16, "in_channels": 4,
        "out_channels": 8, "cross_attention_dim": 1152, "caption_channels": 4096, "interpolation_scale": 2,
    }),
}  # fmt: skip


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration without what it remembers of itself: which values were defaults, and would be made so again."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


@contextmanager
def made_in(dtype: torch.dtype) -> Iterator[None]:
    """Inside weights are made in that dtype, so that no float32 copy ever is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def pipeline(name: str, device: str = "meta", dtype: torch.dtype = torch.bfloat16, **change: Any) -> Any:
    """With a denoiser and an autoencoder of the published geometry, but for what `change` says of the denoiser, made on
    `device`; by default they have no memory. Text encoders are small, and stay on the CPU."""
    import tiny_pipelines as tiny
    from diffusers import AutoencoderKL
    from transformers import T5Config, T5EncoderModel

    make, width, _, channels, t5_width, config = MODELS[name]
    config = {**config, **change}
    t5_width = config.get("joint_attention_dim", t5_width)
    tiny.WIDTH, tiny.CLIP_TOKENS = config.get("pooled_projection_dim", width) if make == "tiny_flux" else width, 77
    with made_in(dtype):
        pipe = tiny.tiny_pixart(sigma=True) if make == "tiny_pixart_sigma" else getattr(tiny, make)()
        parts = {}
        part = "unet" if hasattr(pipe, "unet") else "transformer"
        old = getattr(pipe, part)
        decoder = {**plain(pipe.vae.config), **DECODER, "latent_channels": channels}
        with torch.device(device):
            parts[part] = type(old).from_config({**plain(old.config), **config}).to(dtype).eval()
            parts["vae"] = AutoencoderKL.from_config(decoder).to(dtype).eval()
        if device == "meta" and hasattr(parts[part], "caption_projection"):  # prompts go through it before they are counted
            parts[part].caption_projection.to_empty(device="cpu")
        for encoder in ("text_encoder_2", "text_encoder_3"):
            if t5_width and isinstance(getattr(pipe, encoder, None), T5EncoderModel):
                settings = getattr(pipe, encoder).config.to_dict()
                parts[encoder] = T5EncoderModel(T5Config(**{**settings, "d_model": t5_width})).eval()
    further = {"requires_safety_checker": False} if name.endswith("1.5") else {}
    return tiny.quiet(type(pipe)(**{**pipe.components, **parts}, **further))


def estimates(name: str) -> dict[str, dict[str, Any]]:
    """By settings."""
    from unittest import mock

    from scissorhands_hf import erase_concept
    from scissorhands_hf.erasure.families import Family

    pipe, side = pipeline(name), MODELS[name][2]
    settings = {"concept_type": "object", "disable_tqdm": True, "report_images": 0, "use_cpu": True}
    encoders = [2_000_000 * millions for millions in TEXT_ENCODERS[name]]
    decoder = sum(weight.nbytes for weight in pipe.vae.parameters())
    rows = {}
    # Weights without memory are refused elsewhere; prompts are encoded on the CPU, and counted is as on a GPU.
    with (
        mock.patch("scissorhands_hf.erasure.request.check_pipeline"),
        mock.patch("scissorhands_hf.erasure.estimate._kind", lambda device: "cuda"),
        mock.patch.object(Family, "device", torch.device("cpu")),
    ):
        for label, given in SETTINGS.items():
            sampling = {"height": side, "width": side}
            found = erase_concept(pipe, "dress", dry_run=True, sampling=sampling, **settings, **given)
            # While the denoiser trains the other parts wait in main memory; a text encoder may be larger than it.
            found = replace(found, others=max(0, max(encoders) - found.weights))
            whole = replace(found, others=sum(encoders) + decoder)
            rows[label] = {**found.to_dict(), "not_offloaded": whole.peak}
    return rows


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: GB on the device, and the smallest card of `CARDS` that has as much."""
    heads = [f"{label}: GB (card)" for label in (*SETTINGS, "edit alone, not offloaded")]
    lines = [f"| model | pixels | {' | '.join(heads)} | on disk, GB |", "|---|---:|" + "---:|" * (len(SETTINGS) + 2)]
    for name, by_settings in rows.items():
        peaks = [by_settings[label]["peak"] for label in SETTINGS] + [by_settings["edit alone"]["not_offloaded"]]
        cells = []
        for peak in peaks:
            card = next((card for card in CARDS if 1.15 * peak <= card * 1e9), None)
            cells.append(f"{peak / 1e9:.1f} ({card or 'none'})")
        height, width = by_settings["default"]["pixels"]
        lines.append(f"| {name} | {width} × {height} | {' | '.join(cells)} | {by_settings['default']['disk'] / 1e9:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], help="default: all")
    parser.add_argument("--output", type=Path, default=Path("out/cards.json"))
    args = parser.parse_args()
    rows = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
    for name in args.models or MODELS:
        if name not in rows:
            rows[name] = estimates(name)
            args.output.parent.mkdir(parents=True, exist_ok=True)
            args.output.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
