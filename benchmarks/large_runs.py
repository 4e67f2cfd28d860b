"""The pipelines' part of `large.py`: which runs there are, and the pipeline of each: random weights in a known geometry."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from memory_watch import release


sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "erasure"))

SHORT = {
    "max_steps": 2, "evaluations": 1, "pictures_per_concept": 2, "retain_pictures": 2, "evaluation_examples": 2,
    "report_images": 0, "anchor": "coat", "concept_type": "object", "disable_tqdm": True,
}  # fmt: skip
# Of a large pipeline on a CPU, where each pass takes long: two steps, so that moments are there beside gradients.
BRIEF = {
    "max_steps": 2, "gradient_accumulation_steps": 1, "pictures_per_concept": 1, "retain_pictures": 1, "evaluation_examples": 1,
}  # fmt: skip
WHOLE = {"trainable_target_modules": ["re:."], "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}


@dataclass(frozen=True)
class Run:
    """Of an erasure: the geometry (of `SMALL`, or of `cards.MODELS`), its weights' dtype, the side of pictures on a CPU,
    settings, how it is offloaded ("parts": as a whole, "leaves": layer by layer), what of the denoiser's geometry differs, and
    steps of the sampler."""

    geometry: str
    dtype: torch.dtype
    side: int
    settings: dict[str, Any] = field(default_factory=dict)
    offloaded: str | None = None
    change: dict[str, Any] = field(default_factory=dict)
    sampler_steps: int = 1


SD, XL, SD3, FLUX = "Stable Diffusion 1.5", "Stable Diffusion XL", "Stable Diffusion 3 medium", "Flux.1 dev"
ADAPTER, EDIT_ALONE = {"repair_adapter": 16}, {"max_steps": 0}
HALF = torch.bfloat16
# Of Flux and Stable Diffusion 3 the number of blocks, and a share of the width: a block is as large a part as of the original.
HALF_SD3 = {"num_attention_heads": 12, "caption_projection_dim": 768}
HALF_FLUX = {"num_attention_heads": 12, "joint_attention_dim": 2048}
QUARTER_FLUX = {"num_attention_heads": 6, "joint_attention_dim": 1024}
EIGHTH_FLUX = {"num_attention_heads": 3, "joint_attention_dim": 512}
ONE_STEP = {"max_steps": 1, "gradient_accumulation_steps": 2}
RUNS = {
    # For the test of the estimate.
    "small-sd": Run("sd", torch.float32, 32, WHOLE),
    "small-sd-bf16": Run("sd", HALF, 32),
    "small-sdxl": Run("sdxl", torch.float32, 32, WHOLE),
    "small-sd3": Run("sd3", torch.float32, 32, WHOLE),
    "sd15": Run(SD, torch.float32, 128),
    "sd15-bf16": Run(SD, HALF, 128),
    "sd15-edit-alone": Run(SD, HALF, 128, EDIT_ALONE),
    "sdxl-bf16": Run(XL, HALF, 128),
    "sdxl-bf16-adapter": Run(XL, HALF, 128, ADAPTER),
    "sdxl-bf16-autocast": Run(XL, HALF, 128, {"bf16": True}),
    "sdxl-bf16-offloaded": Run(XL, HALF, 128, offloaded="parts"),
    "sdxl-bf16-adapter-leaves": Run(XL, HALF, 128, ADAPTER, "leaves"),
    "sd3-bf16": Run(SD3, HALF, 128),
    "flux-adapter": Run(FLUX, HALF, 128, ADAPTER | ONE_STEP),
    "flux-edit-alone": Run(FLUX, HALF, 128, EDIT_ALONE),
    "flux-adapter-leaves": Run(FLUX, HALF, 128, ADAPTER | ONE_STEP, "leaves"),
    "half-flux-adapter": Run(FLUX, HALF, 128, ADAPTER | ONE_STEP, change=HALF_FLUX),
    "quarter-flux-adapter": Run(FLUX, HALF, 128, ADAPTER, change=QUARTER_FLUX),
    "eighth-flux-adapter": Run(FLUX, HALF, 128, ADAPTER, change=EIGHTH_FLUX),
    "half-sd3-bf16": Run(SD3, HALF, 128, change=HALF_SD3),
}
# A pipeline's form at a share of its width: a tiny pipeline, and what of its denoiser differs.
SMALL: dict[str, tuple[str, int, dict[str, Any]]] = {
    "sd": ("tiny_stable_diffusion", 768, {
        "block_out_channels": [80, 160, 320, 320], "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3, "layers_per_block": 2, "attention_head_dim": 8,
        "sample_size": 64, "norm_num_groups": 16,
    }),
    "sdxl": ("tiny_sdxl", 1024, {
        "block_out_channels": [96, 192, 384], "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"], "transformer_layers_per_block": [1, 1, 1],
        "attention_head_dim": [4, 6, 12], "layers_per_block": 2, "sample_size": 128, "norm_num_groups": 32,
    }),
    "sd3": ("tiny_sd3", 256, {
        "num_layers": 8, "attention_head_dim": 64, "num_attention_heads": 8, "caption_projection_dim": 512,
    }),
}  # fmt: skip


def pipeline(name: str, device: str) -> Any:
    """Random weights in the geometry of a known model, made where they are to be. Text encoders have its width and number of
    tokens, and two layers."""
    import cards
    import tiny_pipelines as tiny

    run = RUNS[name]
    torch.manual_seed(0)
    if name.startswith("small"):
        make, tiny.WIDTH, change = SMALL[run.geometry]
        tiny.CLIP_TOKENS = 77
        with cards.made_in(run.dtype):
            pipe = getattr(tiny, make)()
            denoiser = "unet" if hasattr(pipe, "unet") else "transformer"
            old = getattr(pipe, denoiser)
            parts = {denoiser: type(old).from_config({**cards.plain(old.config), **change}).eval()}
        further = {"requires_safety_checker": False} if run.geometry == "sd" else {}
        pipe = tiny.quiet(type(pipe)(**{**pipe.components, **parts}, **further))
    else:
        pipe = cards.pipeline(run.geometry, device, run.dtype, **run.change)
    if run.offloaded is None:
        return pipe.to(device)
    pipe.to("cpu")
    release()
    if run.offloaded == "parts":
        pipe.enable_model_cpu_offload(device=device)
    else:
        where = {"onload_device": torch.device(device), "offload_device": torch.device("cpu")}
        pipe.enable_group_offload(**where, offload_type="leaf_level")
    return pipe
