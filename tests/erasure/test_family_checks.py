"""Pipelines that a concept cannot be erased from are refused by name, before anything is touched, with a way out that works."""

import copy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    UNet2DModel,
    UniPCMultistepScheduler,
)
from diffusers.hooks import HookRegistry, ModelHook, apply_group_offloading
from peft import LoraConfig
from tiny_pipelines import quiet, tiny_flux, tiny_pixart, tiny_sd3, tiny_sdxl, tiny_stable_diffusion
from torch import nn

from scissorhands_hf.erasure.families import check_pipeline, family_of


CPU = torch.device("cpu")


def offloaded() -> Any:
    pipe = tiny_stable_diffusion()
    pipe.enable_model_cpu_offload(device="cpu")
    return pipe


def offloaded_layer_by_layer() -> Any:
    pipe = tiny_stable_diffusion()
    accelerate.cpu_offload(pipe.unet, CPU)
    return pipe


def offloaded_in_groups() -> Any:
    pipe = tiny_stable_diffusion()
    pipe.unet.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_type="leaf_level")
    return pipe


def offloaded_to_disk() -> Any:
    pipe, folder = tiny_stable_diffusion(), tempfile.mkdtemp()
    accelerate.disk_offload(pipe.unet, folder, execution_device=CPU)
    shutil.rmtree(folder)
    return pipe


def groups_offloaded_to_disk() -> Any:
    pipe, folder = tiny_stable_diffusion(), tempfile.mkdtemp()
    kind = {"offload_type": "leaf_level", "offload_to_disk_path": folder}
    pipe.unet.enable_group_offload(onload_device=CPU, offload_device=CPU, **kind)
    shutil.rmtree(folder)
    return pipe


def groups_of_two_kinds() -> Any:
    pipe = tiny_stable_diffusion()
    for part, kind in ((pipe.unet.mid_block, "leaf_level"), (pipe.unet.down_blocks[1], "block_level")):
        apply_group_offloading(part, CPU, CPU, offload_type=kind, num_blocks_per_group=1)
    return pipe


def hooked_inside() -> Any:
    pipe = tiny_stable_diffusion()
    accelerate.cpu_offload_with_hook(pipe.unet.mid_block, CPU)
    return pipe


def with_layers_on_devices() -> Any:
    pipe = tiny_stable_diffusion()
    pipe.unet.hf_device_map = {"": "cpu"}
    return pipe


def hooked() -> Any:
    """By a hook of somebody's own."""
    pipe = tiny_stable_diffusion()
    HookRegistry.check_if_exists_or_initialize(pipe.unet).register_hook(ModelHook(), "theirs")
    return pipe


def unhook(pipe: Any, _: Any) -> None:
    HookRegistry.check_if_exists_or_initialize(pipe.unet).remove_hook("theirs", recurse=True)


def cast_layer_by_layer() -> Any:
    pipe = tiny_sd3()
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return pipe


def cached() -> Any:
    pipe = tiny_flux()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    return pipe


def mapped() -> Any:
    pipe = tiny_stable_diffusion()
    pipe.hf_device_map = {"unet": 0, "vae": 1}
    return pipe


def without_memory() -> Any:
    pipe = tiny_stable_diffusion()
    pipe.unet.to("meta")
    return pipe


def quantised_by_a_quantizer(part: str = "unet") -> Any:
    pipe = tiny_stable_diffusion()
    getattr(pipe, part).is_quantized, getattr(pipe, part).quantization_method = True, "bitsandbytes"
    return pipe


def with_whole_number_weights() -> Any:
    pipe = tiny_stable_diffusion()
    pipe.unet.conv_in.weight = nn.Parameter(pipe.unet.conv_in.weight.to(torch.int8), requires_grad=False)
    return pipe


def compiled() -> Any:
    pipe = tiny_stable_diffusion()
    pipe.unet = torch.compile(pipe.unet)
    return pipe


def in_parallel() -> Any:
    pipe = tiny_stable_diffusion()
    pipe.unet = nn.DataParallel(pipe.unet)
    return pipe


def with_fused_projections() -> Any:
    pipe = tiny_stable_diffusion()
    pipe.fuse_qkv_projections()
    return pipe


def with_lora(part: str = "unet", modules: tuple[str, ...] = ("to_q", "to_k")) -> Any:
    pipe = tiny_stable_diffusion()
    getattr(pipe, part).add_adapter(LoraConfig(r=2, target_modules=list(modules), init_lora_weights=False), "style")
    return pipe


def with_fused_lora() -> Any:
    pipe = with_lora()
    pipe.fuse_lora(components=["unet"])
    pipe.unload_lora_weights()
    return pipe


@pytest.mark.parametrize(
    ("make", "problem", "way_out"),
    [
        (offloaded_to_disk, "weights of unet.conv_in are offloaded to disk", "Offload to main memory"),
        (groups_offloaded_to_disk, "groups of layers of its unet are offloaded to disk", "Leave out offload_to_disk_path"),
        (groups_of_two_kinds, "in groups of several kinds", r"pipe.unet.enable_group_offload"),
        (hooked_inside, "CpuOffload changes how unet.mid_block", r"remove_all_hooks\(\)"),
        (with_layers_on_devices, "unet.hf_device_map", r"pipe.enable_model_cpu_offload\(\)"),
        (cast_layer_by_layer, "layerwise_casting.*transformer", "Load the pipeline again"),
        (hooked, "hook 'theirs' changes how unet", r"HookRegistry.*\(pipe.unet\).remove_hook\('theirs', recurse=True\)"),
        (cached, "fbc_leader_block_hook", r"pipe.transformer.disable_cache\(\)"),
        (mapped, "hf_device_map", r"reset_device_map\(\)"),
        (without_memory, "conv_in.weight of its unet has no memory", "without offloading"),
        (
            quantised_by_a_quantizer,
            r"its unet are quantised \(bitsandbytes\)",
            "without quantization_config.*encoders may stay",
        ),
        (with_whole_number_weights, "its unet are quantised.*int8 at conv_in.weight", "without quantization_config"),
        (compiled, "its unet is a compiled module", "pipe.unet = pipe.unet._orig_mod"),
        (in_parallel, "its unet is wrapped in DataParallel", "pipe.unet = pipe.unet.module"),
        (with_fused_projections, "attention projections", r"without fuse_qkv_projections\(\)"),
        (with_lora, r"its unet has LoRA adapters \('style'\)", r"unload_lora_weights\(\)"),
        (lambda: with_lora("text_encoder", ("q_proj",)), "its text_encoder has LoRA", r"unload_lora_weights\(\)"),
        (with_fused_lora, r"LoRA weights are fused into it \(pipe.fused_loras=\['style'\]\)", r"save_pretrained\(folder\)"),
    ],
)
def test_states_in_which_weights_cannot_be_changed(make: Callable[[], Any], problem: str, way_out: str):
    with pytest.raises(ValueError, match=f"(?s)is not supported as it is: .*{problem}.*{way_out}"):
        check_pipeline(make())


def save_and_load(pipe: Any, folder: Any) -> Any:
    pipe.save_pretrained(folder)
    return quiet(DiffusionPipeline.from_pretrained(folder))


@pytest.mark.parametrize(
    ("make", "undo"),
    [
        (offloaded, lambda pipe, _: None),
        (offloaded_layer_by_layer, lambda pipe, _: None),
        (offloaded_in_groups, lambda pipe, _: None),
        (lambda: quantised_by_a_quantizer("text_encoder"), lambda pipe, _: None),
        (hooked, unhook),
        (cached, lambda pipe, _: pipe.transformer.disable_cache()),
        (mapped, lambda pipe, _: pipe.reset_device_map()),
        (compiled, lambda pipe, _: setattr(pipe, "unet", pipe.unet._orig_mod)),
        (with_lora, lambda pipe, _: pipe.unload_lora_weights()),
        (with_fused_lora, save_and_load),
    ],
)
def test_the_way_out_leads_out(make: Callable[[], Any], undo: Callable[[Any, Any], Any], tmp_path):
    pipe = make()
    pipe = undo(pipe, tmp_path) or pipe
    check_pipeline(pipe)
    family_of(pipe).encode_prompts(["a dress"])


def test_a_fused_lora_is_kept_by_saving(tmp_path):
    pipe, plain = with_fused_lora(), tiny_stable_diffusion()
    loaded = save_and_load(pipe, tmp_path)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    fused, kept, original = (part.unet.get_parameter(name) for part in (pipe, loaded, plain))
    assert torch.equal(fused, kept) and not torch.equal(kept, original)


def shared(kind: type, **more: Any) -> Any:
    return kind(**tiny_stable_diffusion().components, requires_safety_checker=False, **more)


def with_part(make: Callable[[], Any], **parts: Any) -> Any:
    pipe = make()
    for name, part in parts.items():
        setattr(pipe, name, part)
    return pipe


def flux_fill() -> Any:
    pipe = tiny_flux()
    pipe.transformer = FluxTransformer2DModel.from_config({**pipe.transformer.config, "in_channels": 36})
    return pipe


def sana() -> Any:
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_cross_attention_heads=2,
        cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=8, sample_size=8,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler()
    return SanaPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=scheduler)


def unconditional() -> Any:
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    return DDPMPipeline(
        unet=UNet2DModel(sample_size=8, block_out_channels=[8, 8], norm_num_groups=4, **blocks), scheduler=DDPMScheduler()
    )


class NeedsPicture(StableDiffusionPipeline):
    def __call__(self, prompt, picture, generator=None, output_type=None):
        raise AssertionError


class WithoutGenerator(StableDiffusionPipeline):
    def __call__(self, prompt, output_type=None):
        raise AssertionError


class FromScratch(DiffusionPipeline):
    """A pipeline of its own, around the usual components."""

    def __init__(self, vae, text_encoder, tokenizer, unet, scheduler):
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)


def from_scratch() -> Any:
    parts = tiny_stable_diffusion().components
    return FromScratch(**{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")})


def recast(kind: type) -> Any:
    pipe = tiny_stable_diffusion()
    pipe.__class__ = kind
    return pipe


sd = tiny_stable_diffusion
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "img2img": (lambda: shared(StableDiffusionImg2ImgPipeline), r"StableDiffusionImg2Img.*StableDiffusionPipeline.from_pipe"),
    "inpaint": (lambda: shared(StableDiffusionInpaintPipeline), r"StableDiffusionInpaint.*StableDiffusionPipeline.from_pipe"),
    "controlnet": (
        lambda: shared(StableDiffusionControlNetPipeline, controlnet=ControlNetModel.from_unet(sd().unet)),
        r"StableDiffusionControlNet.*StableDiffusionPipeline.from_pipe",
    ),
    "another guidance": (lambda: shared(StableDiffusionPAGPipeline), r"StableDiffusionPAG.*from_pipe"),
    "own class": (from_scratch, r"FromScratch.*derive its class from StableDiffusionPipeline, or build one"),
    "sana": (sana, "SanaPipeline.*this kind of pipeline is not known here.*Supported are StableDiffusionPipeline"),
    "unconditional": (unconditional, "DDPMPipeline.*Supported are StableDiffusionPipeline, .*FluxPipeline"),
    "call needs a picture": (lambda: recast(NeedsPicture), "its call needs 'picture'"),
    "call without generator": (lambda: recast(WithoutGenerator), "its call has no argument 'generator'"),
    "inpainting channels": (lambda: sd(in_channels=9), "unet takes 9 channels where the vae's latents have 4.*inpainting"),
    "flux fill": (flux_fill, "transformer takes 9 channels where the vae's latents have 4"),
    "variance": (lambda: sd(out_channels=8), "returns 8 channels"),
    "no text encoder": (lambda: with_part(sd, text_encoder=None), "its text_encoder is missing"),
    "no tokenizer": (lambda: with_part(sd, tokenizer=None), "its tokenizer is missing"),
    "no second text encoder": (lambda: with_part(tiny_sdxl, text_encoder_2=None), "its text_encoder_2 is missing"),
    "no unet": (lambda: with_part(sd, unet=None), "its unet is missing"),
    "no vae": (lambda: with_part(sd, vae=None), "its vae is missing"),
    "no t5 of flux": (lambda: with_part(tiny_flux, text_encoder_2=None), "its text_encoder_2 is missing"),
    "t5 without tokenizer": (lambda: with_part(tiny_sd3, tokenizer_3=None), "its tokenizer_3 is missing"),
    "no text encoder of pixart": (lambda: with_part(tiny_pixart, text_encoder=None), "its text_encoder is missing"),
    "foreign denoiser": (lambda: with_part(sd, unet=tiny_sd3().transformer), "its unet is a SD3Transformer2DModel"),
    "distilled": (lambda: sd(time_cond_proj_dim=8), "time_cond_proj_dim=8.*teacher"),
    "classes": (lambda: sd(num_class_embeds=8), "num_class_embeds=8"),
    "class embedding": (lambda: sd(class_embed_type="timestep"), "class_embed_type='timestep'"),
    "added text": (lambda: sd(addition_embed_type="text"), "addition_embed_type='text'"),
    "no added time": (lambda: with_part(tiny_sdxl, unet=sd().unet), "addition_embed_type=None.*'text_time'"),
    "projection": (lambda: sd(encoder_hid_dim_type="text_proj", encoder_hid_dim=32), "encoder_hid_dim_type='text_proj'"),
    "gated": (lambda: sd(attention_type="gated"), r"attention_type='gated' \(GLIGEN\)"),
    "EDM": (lambda: with_part(sd, scheduler=EDMEulerScheduler()), "EDMEulerScheduler.*no alphas_cumprod.*pipe.scheduler ="),
    "flow for a unet": (
        lambda: with_part(sd, scheduler=FlowMatchEulerDiscreteScheduler()), "FlowMatchEulerDiscreteScheduler.*cannot be trained"
    ),
    "continuous time": (
        lambda: with_part(sd, scheduler=EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")),
        "timestep_type='continuous'",
    ),
    "unknown prediction": (lambda: sd(prediction_type="score"), "prediction_type='score'"),
    "diffusion for a flow": (lambda: with_part(tiny_sd3, scheduler=DDIMScheduler()), "DDIMScheduler.*predicts a flow"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_kinds_of_pipelines_that_are_not_supported(name: str):
    make, message = REFUSED[name]
    pipe = make()
    before = {part: copy.deepcopy(m.state_dict()) for part, m in pipe.components.items() if isinstance(m, nn.Module)}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        family_of(pipe)
    for part, weights in before.items():
        now = getattr(pipe, part).state_dict()
        assert all(torch.equal(now[key], weights[key]) for key in weights)


@pytest.mark.parametrize("thing", [nn.Linear(2, 2), "me/my-pipeline", None])
def test_what_is_no_pipeline(thing: Any):
    for check in (check_pipeline, family_of):
        with pytest.raises(TypeError, match=f"pipe is a {type(thing).__name__}"):
            check(thing)


def test_a_pipeline_with_the_same_weights_can_be_built_as_the_message_says():
    pipe = shared(StableDiffusionImg2ImgPipeline)
    unet = pipe.unet
    built = StableDiffusionPipeline.from_pipe(pipe, torch_dtype=pipe.dtype)
    assert family_of(built).denoiser is unet


def test_subclasses_and_classes_swapped_in_place_are_what_they_derive_from():
    kind = type("Renamed", (StableDiffusionPipeline,), {})
    assert family_of(recast(kind)).name == "stable-diffusion"


def test_a_flow_by_option_of_another_scheduler():
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=2.0)
    process = family_of(with_part(tiny_sd3, scheduler=scheduler)).noise_process()
    assert (process.prediction_type, process.shift) == ("flow", 2.0)


def test_the_package_imports_without_diffusers():
    code = "import sys; sys.modules['diffusers'] = None; import scissorhands_hf.cli.main, scissorhands_hf.erasure.families"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
