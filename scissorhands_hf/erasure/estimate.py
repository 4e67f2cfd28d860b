"""What a run will need of memory and disk, counted before it: weights by their dtypes, activations on a copy without memory."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from ..audit.drawing import LARGE_PICTURE, picture_size, pictures_of_size
from .adapter import on_meta
from .erasure_config import ConceptErasureConfig


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
            What the changed weights take in float32 beyond their own dtype.
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
            The largest step of decoding the pictures that are drawn at once.
        disk (`int`):
            In the folder of temporary files: the original of what changes, and checkpoints.
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
    texts: int = 0
    drawn: int = 0
    steps: int = 0

    @property
    def peak(self) -> int:
        """Of memory, over all stages. Activations go as gradients come, but those of the first layers go last, and what lies
        between them the allocator cannot give back: they are counted in full."""
        training = self.masters + self.optimizer + self.memories + self.gradients + self.activations + self.working
        beside = self.edit + (self.texts if self.device == "cpu" else 0)
        return self.weights + max(training + beside, self.masters + self.solving + beside, self.pictures)

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
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    if family.device.type != "cpu":  # the others wait in main memory
        modules = [denoiser]
    numbers = {name: weight.numel() for name, weight in denoiser.named_parameters()}
    steps = args.max_steps > 0
    shapes = _shapes(denoiser, request)
    count = sum(weight.numel() for weight in shapes.parameters() if weight.requires_grad) if steps else 0
    in_float32 = sum(numbers[name] * (4 - denoiser.get_parameter(name).element_size()) for name in request.held)
    own = sum(numbers[name] * denoiser.get_parameter(name).element_size() for name in request.changed)
    candidates = request.trained if request.adapter is None else request.reinit
    compared = sum(numbers[name] for name in (candidates if args.trim_ratio else ()))
    memories = 4 * max(args.memory_batches * count if args.projection else 0, compared)
    sides = [8 * width**2 for width in request.edited_widths]
    largest = max((weight.numel() for weight in shapes.parameters() if weight.requires_grad), default=0)
    if checkpointing is None:
        checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in denoiser.modules())
    shape = (pipe.vae.config.latent_channels, *(side // pipe.vae_scale_factor for side in pixels))
    examples = args.per_device_train_batch_size + (args.forget_batch_size if args.forget_weight else 0)
    return ErasureEstimate(
        model=type(denoiser).__name__,
        pixels=pixels,
        device=family.device.type,
        weights=sum(_bytes(value) for part in modules for value in (*part.parameters(), *part.buffers())),
        trained=count,
        masters=in_float32 if steps else 0,
        gradients=4 * count,
        optimizer=_optimizer_bytes(args, family.device) * count,
        memories=memories,
        activations=_activations(request, shapes, shape, examples, checkpointing) if steps else 0,
        # Large ones are decoded one by one.
        pictures=_decoding(pipe.vae, shape, 1 if pixels[0] * pixels[1] >= LARGE_PICTURE else pictures_of_size(*pixels)),
        disk=own + (CHECKPOINTS * 4 * count if steps else 0),
        edit=EDIT_MATRICES * sum(sides),
        solving=SOLVING_MATRICES * max(sides, default=0),
        working=(8 * largest if steps else 0) + (PROCESS if family.device.type == "cpu" else 0),
        steps=args.max_steps,
    )


def _optimizer_bytes(args: ConceptErasureConfig, device: torch.device) -> int:
    """For each trained weight."""
    name = str(getattr(args.optim, "value", args.optim))
    if "8bit" in name:
        return 2
    if "adafactor" in name:
        return 0
    if "sgd" in name:
        return 4 if "momentum" in (args.optim_args or "") else 0
    # On accelerators torch's AdamW goes over all weights at once, and needs room for that, unless it is the fused one.
    return 12 if device.type != "cpu" and name == "adamw_torch" else 8


class _Kept:
    """Bytes of distinct tensors that autograd keeps, beside those given."""

    def __init__(self, known: Iterable[Tensor]):
        self.storages = {id(storage): storage for storage in (value.untyped_storage() for value in known)}
        self.total = 0

    def add(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        if id(storage) not in self.storages:
            self.storages[id(storage)] = storage  # held, so that no other gets its id
            self.total += storage.nbytes()

    @contextmanager
    def counting(self) -> Iterator[None]:
        def pack(value: Tensor) -> Tensor:
            self.add(value)
            return value

        with saved_tensors_hooks(pack, lambda value: value):
            yield


class _Attention(torch.autograd.Function):
    """What attention keeps for its backward pass where the products of all pairs are not kept, as on CPUs and GPUs."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result)
        return result


class _MemoryLeanAttention(TorchFunctionMode):
    """Without memory torch takes the way that keeps all pairs."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if function is nn.functional.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            return _Attention.apply(named["query"], named["key"], named["value"])
        return function(*args, **(kwargs or {}))


def _shapes(denoiser: nn.Module, request: "ErasureRequest") -> nn.Module:
    """A copy of the denoiser, with the adapter that is laid over it, which has shapes and no memory. What is trained wants
    gradients."""
    copy = on_meta(denoiser)
    if request.adapter is None:
        for name, weight in copy.named_parameters():
            weight.requires_grad_(name in request.trained)
    else:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(request.adapter.config, copy, low_cpu_mem_usage=True)
        for name, weight in copy.named_parameters():
            weight.requires_grad_(".lora_" in name)
    return copy


def _activations(request: "ErasureRequest", copy: nn.Module, shape: tuple[int, ...], examples: int, checkpointing: bool) -> int:
    """Counted by a forward pass of a copy without memory, in float32."""
    family = request.family
    # Weights that are read as float32 are kept so for the backward pass; the others are there anyway.
    there = {name for name, weight in family.denoiser.named_parameters() if name in request.held or weight.element_size() == 4}
    told = {name: value.to("meta").expand(examples, *value.shape[1:]) for name, value in family.encode_prompts([""]).items()}
    noisy = torch.empty(examples, *shape, device="meta")
    times = family.noise_process().sample_timesteps(examples, torch.Generator()).to("meta")
    present = [
        weight for name, weight in copy.named_parameters() if name.replace(".base_layer.", ".") in there or weight.requires_grad
    ]
    kept, largest = _Kept(present), 0

    def checkpointed(module: Any, *args: Any) -> Any:
        """What a block is given is kept, and what it keeps itself comes to be one block at a time."""
        nonlocal largest
        for value in args:
            if isinstance(value, Tensor) and value.requires_grad:
                kept.add(value)
        own = _Kept(present)
        with own.counting():
            result = module(*args)
        largest = max(largest, own.total)
        return result

    if checkpointing:
        copy.enable_gradient_checkpointing(gradient_checkpointing_func=checkpointed)
    with torch.enable_grad(), kept.counting(), _MemoryLeanAttention():
        family.predict(copy, noisy, times, told)
    return kept.total + largest


def _decoding(vae: nn.Module, shape: tuple[int, ...], at_once: int) -> int:
    """The largest inputs and outputs of one layer of the decoder, and the input that the block around it keeps."""
    with torch.device("meta"):
        copy = type(vae).from_config(vae.config)
    if vae.dtype != torch.float32:
        copy.to(vae.dtype)
    if getattr(vae, "use_tiling", False):
        copy.enable_tiling()
    if getattr(vae, "use_slicing", False):
        copy.enable_slicing()
    largest = 0

    def watch(module: nn.Module, inputs: tuple, output: Any) -> None:
        nonlocal largest
        given = sum(_bytes(value) for value in inputs if isinstance(value, Tensor))
        made = _bytes(output) if isinstance(output, Tensor) else 0
        largest = max(largest, 2 * given + made)

    for module in copy.modules():
        if not list(module.children()):
            module.register_forward_hook(watch)
    with torch.no_grad():
        copy.decode(torch.empty(at_once, *shape, device="meta", dtype=vae.dtype), return_dict=False)
    return largest


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _memory(device: torch.device) -> int:
    """Bytes of the device in all, as far as they can be had by this process."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return psutil.virtual_memory().available + psutil.Process(os.getpid()).memory_info().rss


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
