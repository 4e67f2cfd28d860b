"""What a run will need of memory and disk, counted before it: weights by their dtypes, activations on a copy without memory."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch
from accelerate.hooks import CpuOffload
from torch import Tensor, nn

from ..audit.drawing import LARGE_PICTURE, picture_size, pictures_of_size
from .adapter import adapter_weights, on_meta
from .erasure_config import ConceptErasureConfig
from .families.hooks import accelerate_hooks, group_offloading
from .guard import in_float32
from .live_memory import AsOnDevice, LiveMemory
from .noisy_examples import picture_batch


if TYPE_CHECKING:  # which imports this file
    from .request import ErasureRequest

logger = logging.getLogger(__name__)

# Beyond this multiple of what there is a run is refused: an estimate may be off by that much.
MARGIN = 1.15
# What the process itself grows by on a CPU: kernels that are compiled when first needed, threads, what the allocator keeps.
PROCESS = 80_000_000
# Matrices of float64 in a [`ClosedFormEdit`], and how many more while it is solved for.
EDIT_MATRICES, SOLVING_MATRICES = 4, 4
# Checkpoints on disk at once: the best, the last, and the next before the last is removed.
CHECKPOINTS = 3


@dataclass(frozen=True)
class ErasureEstimate:
    """
    Bytes that an erasure will need.

    Args:
        model (`str`):
            The denoiser's class.
        pixels (`tuple[int, int]`):
            Height and width of pictures that it holds for.
        device (`str`):
            Kind of device that the denoiser is on.
        weights (`int`):
            Of all of the pipeline that is on that device while the denoiser trains, in the dtypes that they came in.
        trained (`int`):
            How many weights are trained.
        masters (`int`):
            What the changed weights take in float32 beyond their own dtype; on a CPU, where their old room is hardly ever of
            use to others, beside it.
        gradients, optimizer, memories (`int`):
            Of the trained weights: gradients, the optimizer's state, and gradient memories or sensitivities.
        activations (`int`):
            That a step keeps for its backward pass.
        edit (`int`):
            Sums over prompts that the closed-form edit is solved from, in float64.
        solving (`int`):
            What solving for it takes beside them.
        working (`int`):
            What a layer or a step of the optimizer takes for itself: twice the largest trained weight, and on a CPU what the
            process grows by.
        pictures (`int`):
            Drawing the pictures that are drawn at once: the larger of the denoiser's step and the decoder's.
        disk (`int`):
            In the folder of temporary files: the original of what changes, and checkpoints.
        passes (`int`, *optional*, defaults to 0):
            A pass for targets, which keeps nothing, in float32, and the copy of edited layers meanwhile.
        others (`int`, *optional*, defaults to 0):
            Of an accelerator: what the other parts of the pipeline take there while pictures are drawn and prompts are encoded.
        texts (`int`, *optional*, defaults to 0):
            All prompts of the run, encoded, in main memory; 0 where the prompts are not made yet.
        drawn, steps (`int`, *optional*, defaults to 0):
            Pictures to draw in all, and steps of repair.
    """

    model: str
    pixels: tuple[int, int]
    device: str
    weights: int
    trained: int
    masters: int
    gradients: int
    optimizer: int
    memories: int
    activations: int
    pictures: int
    disk: int
    edit: int = 0
    solving: int = 0
    working: int = 0
    passes: int = 0
    others: int = 0
    texts: int = 0
    drawn: int = 0
    steps: int = 0

    @property
    def peak(self) -> int:
        """Of memory, over all stages: training; targets; solving for the edit; drawing; encoding prompts."""
        beside = self.edit + (self.texts if self.device == "cpu" else 0)
        training = self.masters + self.optimizer + self.memories + self.gradients + self.activations + self.working
        before = self.others + max(self.pictures, self.edit)
        return self.weights + max(training + beside, self.masters + max(self.passes, self.solving) + beside, before)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "pixels": list(self.pixels), "peak": self.peak}

    def __str__(self) -> str:
        parts = ("weights", "masters", "gradients", "optimizer", "memories", "activations", "edit", "texts", "working")
        told = ", ".join(f"{name} {_size(getattr(self, name))}" for name in parts if getattr(self, name))
        height, width = self.pixels
        return (
            f"About {_size(self.peak)} of memory ({self.device}) at {width} × {height} pixels to train {self.trained:,} "
            f"weights of the {self.model}: {told}; beside the weights, decoding pictures {_size(self.pictures)}; "
            f"{_size(self.disk)} on disk"
        )

    def announce(self) -> None:
        """Log it."""
        logger.info("%s.", self)

    def check_room(self, device: torch.device) -> None:
        """
        Raises:
            MemoryError: the device has much less than that in all.
            OSError: the folder of temporary files has less than that.
        """
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if free < self.disk:
            raise OSError(
                28,  # ENOSPC
                f"the original weights and checkpoints need {_size(self.disk)} on disk, and {_size(free)} are free. Set TMPDIR "
                "to a folder with more room",
                folder,
            )
        room = _memory(device)
        if self.peak > MARGIN * room:
            raise MemoryError(
                f"{self}. There are {_size(room)}. What needs less: the pipeline in bfloat16; gradient_checkpointing=True; "
                "per_device_train_batch_size=1 with gradient_accumulation_steps; trainable_target_modules for fewer weights; "
                "repair_adapter=16 for a low-rank adapter; "
                "optim='paged_adamw_8bit' (with bitsandbytes); smaller pictures (sampling={'height': …, 'width': …}); or "
                "max_steps=0 for the closed-form edit alone."
            )


def estimate_erasure(request: "ErasureRequest") -> ErasureEstimate | None:
    """
    Count what a run will need; nothing is drawn, and nothing large is allocated.

    Args:
        request ([`ErasureRequest`]):
            As far as what changes is known.

    Returns:
        None where neither the pipeline nor `sampling` says how large pictures are.
    """
    family, args, checkpointing = request.family, request.args, request.checkpointing
    pixels = picture_size(family.pipe, request.sampling)
    if pixels is None:
        return None
    denoiser, pipe = family.denoiser, family.pipe
    own_weights = _weights(denoiser)
    on_cpu = _kind(family.device) == "cpu"
    if request.stays_offloaded and not on_cpu:  # a layer at a time
        own_weights = max(_weights(module) for module in denoiser.modules() if not list(module.children()))
    others = [_weights(part) for part in pipe.components.values() if isinstance(part, nn.Module) and part is not denoiser]
    numbers = {name: weight.numel() for name, weight in denoiser.named_parameters()}
    steps = args.max_steps > 0
    copy = _shapes(denoiser, request)
    count = sum(weight.numel() for weight in copy.parameters() if weight.requires_grad) if steps else 0
    sizes = {name: denoiser.get_parameter(name).element_size() for name in request.held}
    # Main memory keeps the holes that weights of half precision leave among others.
    masters = sum(numbers[name] * (4 - (0 if on_cpu else size)) for name, size in sizes.items() if size < 4)
    candidates = request.trained if request.adapter is None else request.reinit
    compared = sum(numbers[name] for name in (candidates if args.trim_ratio else ()))
    memories = 4 * max(args.memory_batches * count if args.projection else 0, compared)
    sides = [8 * width**2 for width in request.edited_widths]
    largest = max((weight.numel() for weight in copy.parameters() if weight.requires_grad), default=0)
    checkpointing = request.checkpointing
    if checkpointing is None:
        checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in denoiser.modules())
    shape = (pipe.vae.config.latent_channels, *(side // pipe.vae_scale_factor for side in pixels))
    examples = args.per_device_train_batch_size + (args.forget_batch_size if args.forget_weight else 0)
    at_once = pictures_of_size(*pixels)
    if not request.report_images and request.report_images is not None:
        at_once = min(at_once, max(args.pictures_per_concept or at_once, args.retain_pictures) if steps else 1)
    guided = family.guided_by_two and request.sampling.get("guidance_scale", 0) > 1
    drawing = _pass(request, copy, shape, at_once * (1 + guided), denoiser.dtype)
    activations = passes = 0
    if steps:
        with _as_in_repair(copy, request):
            in_all = args.max_steps * args.gradient_accumulation_steps
            in_all *= max(args.per_device_train_batch_size, args.forget_batch_size)
            several = min(picture_batch(torch.empty(1, *shape, device="meta")), max(in_all, args.evaluation_examples))
            passes = _pass(request, copy, shape, several, torch.float32) + 4 * sum(numbers[name] for name in request.edited)
            mode = AsOnDevice(torch.bfloat16 if args.bf16 else None)
            if checkpointing:
                copy.enable_gradient_checkpointing(gradient_checkpointing_func=mode.checkpointed)
            activations = _pass(request, copy, shape, examples, torch.float32, mode)
    return ErasureEstimate(
        model=type(denoiser).__name__,
        pixels=pixels,
        device=_kind(family.device),
        weights=own_weights + (sum(others) if on_cpu else 0),
        trained=count,
        masters=masters if steps else 0,
        gradients=4 * count,
        optimizer=_optimizer_bytes(args, on_cpu) * count,
        memories=memories,
        activations=activations,
        # Large ones are decoded one by one.
        pictures=max(drawing, _decoding(pipe.vae, shape, 1 if pixels[0] * pixels[1] >= LARGE_PICTURE else at_once)),
        disk=sum(numbers[name] * denoiser.get_parameter(name).element_size() for name in request.changed)
        + (CHECKPOINTS * 4 * count if steps else 0),
        edit=EDIT_MATRICES * sum(sides),
        solving=SOLVING_MATRICES * max(sides, default=0),
        working=(8 * largest if steps else 0) + (PROCESS if on_cpu else 0),
        passes=passes,
        others=0 if on_cpu else _beside(denoiser, own_weights, others),
        steps=args.max_steps,
    )


def _kind(device: torch.device) -> str:
    return device.type


def _weights(part: nn.Module) -> int:
    return sum(_bytes(value) for value in (*part.parameters(), *part.buffers()))


def _beside(denoiser: nn.Module, own: int, others: list[int]) -> int:
    """What the other parts take on an accelerator beside the denoiser, before it trains; while it does, they wait elsewhere."""
    hooks = [hook for module in denoiser.modules() for hook in accelerate_hooks(module)]
    if any(isinstance(hook, CpuOffload) for hook in hooks):  # one part at a time
        return max(0, max(others, default=0) - own)
    return 0 if hooks or group_offloading(denoiser) is not None else sum(others)


def _optimizer_bytes(args: ConceptErasureConfig, on_cpu: bool) -> int:
    """For each trained weight."""
    name = str(getattr(args.optim, "value", args.optim))
    if "8bit" in name:
        return 2
    if "adafactor" in name:
        return 0
    if "sgd" in name:
        return 4 if "momentum" in (args.optim_args or "") else 0
    # On accelerators torch's AdamW goes over all weights at once, and needs room for that, unless it is the fused one.
    return 12 if not on_cpu and name == "adamw_torch" else 8


def _shapes(denoiser: nn.Module, request: "ErasureRequest") -> nn.Module:
    """A copy of the denoiser, with the adapter that is laid over it, which has shapes, dtypes and no memory. What is trained
    wants gradients, and has them."""
    copy = on_meta(denoiser)
    for name, weight in denoiser.named_parameters():
        own = copy.get_parameter(name)
        own.data = own.data.to(weight.dtype)
        own.requires_grad_(request.adapter is None and name in request.trained)
    if request.adapter is not None:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(request.adapter.config, copy, low_cpu_mem_usage=True)
        for name, weight in copy.named_parameters():
            weight.requires_grad_(".lora_" in name)
    return copy


@contextmanager
def _as_in_repair(copy: nn.Module, request: "ErasureRequest") -> Iterator[None]:
    """Inside, weights are held and read in the dtypes that they have while the denoiser trains."""
    wanted = [weight for weight in copy.parameters() if weight.requires_grad]
    held = request.held
    if request.adapter is not None:
        held = {request.adapter.name(name) for name in held} | set(adapter_weights(copy))
    with in_float32(copy, held, copied=request.stays_offloaded):
        for weight in wanted:
            weight.requires_grad_(True)
        yield


def _pass(
    request: "ErasureRequest",
    copy: nn.Module,
    shape: tuple[int, ...],
    examples: int,
    dtype: torch.dtype,
    training: AsOnDevice | None = None,
) -> int:
    """What a pass of a copy without memory takes at most; of a step of training with the backward pass, and beside the
    gradients."""
    family = request.family
    told = {name: value.to("meta").expand(examples, *value.shape[1:]) for name, value in family.encode_prompts([""]).items()}
    noisy = torch.empty(examples, *shape, device="meta", dtype=dtype)
    times = family.noise_process().sample_timesteps(examples, torch.Generator()).to("meta")
    mode = AsOnDevice() if training is None else training
    for weight in copy.parameters():
        if weight.requires_grad and training is not None:
            weight.grad = torch.empty_like(weight)
    with torch.set_grad_enabled(training is not None), mode, mode.said_to_modules(), LiveMemory() as live:
        prediction = family.predict(copy, noisy, times, told)
        if training is not None:
            prediction.float().square().mean().backward()
        del prediction
    return live.most


def _decoding(vae: nn.Module, shape: tuple[int, ...], at_once: int) -> int:
    """What the decoder takes at most."""
    with torch.device("meta"):
        copy = type(vae).from_config(vae.config).eval()
    if vae.dtype != torch.float32:
        copy.to(vae.dtype)
    if getattr(vae, "use_tiling", False):
        copy.enable_tiling()
    if getattr(vae, "use_slicing", False):
        copy.enable_slicing()
    latents = torch.empty(at_once, *shape, device="meta", dtype=vae.dtype)
    with torch.no_grad(), AsOnDevice(), LiveMemory() as live:
        copy.decode(latents, return_dict=False)
    return live.most


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _memory(device: torch.device) -> int:
    """Bytes of the device in all, as far as they can be had by this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return psutil.virtual_memory().available + psutil.Process(os.getpid()).memory_info().rss


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
