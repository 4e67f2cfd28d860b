"""What a run will need of memory and disk, counted before it: weights by their dtypes, activations on a copy without memory."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from ..audit.drawing import LARGE_PICTURE, picture_size, pictures_of_size
from .erasure_config import ConceptErasureConfig
from .families import Family


logger = logging.getLogger(__name__)

# Beyond this multiple of what there is a run is refused: an estimate may be off by that much.
MARGIN = 1.15
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
        pictures (`int`):
            The largest step of decoding the pictures that are drawn at once.
        disk (`int`):
            In the folder of temporary files: the original of what changes, and checkpoints.
        accumulates (`bool`, *optional*, defaults to `False`):
            Whether a step is of several micro-batches, so that there are gradients already when activations come.
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
    accumulates: bool = False
    drawn: int = 0
    steps: int = 0

    @property
    def peak(self) -> int:
        """Of memory, over all stages."""
        # Activations go as gradients come, but for those that are there from the micro-batches before.
        passing = self.gradients + self.activations if self.accumulates else max(self.gradients, self.activations)
        return self.weights + max(self.masters + self.optimizer + self.memories + passing, self.pictures)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "pixels": list(self.pixels), "peak": self.peak}

    def __str__(self) -> str:
        parts = ("weights", "masters", "gradients", "optimizer", "memories", "activations")
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
                "optim='paged_adamw_8bit' (with bitsandbytes); smaller pictures (sampling={'height': …, 'width': …}); or "
                "max_steps=0 for the closed-form edit alone."
            )


def estimate_erasure(
    family: Family,
    args: ConceptErasureConfig,
    trained: set[str],
    changed: set[str],
    checkpointing: bool | None,
    sampling: Mapping[str, Any],
) -> ErasureEstimate | None:
    """
    Count what a run will need; nothing is drawn, and nothing large is allocated.

    Args:
        family (`Family`):
            Of the pipeline.
        args (`ConceptErasureConfig`):
            Settings.
        trained, changed (`set[str]`):
            Names of the denoiser's weights that are trained, and of those that are trained or edited.
        checkpointing (`bool`, *optional*):
            Whether activations are computed again; None: as the denoiser is set.
        sampling (`Mapping[str, Any]`):
            Arguments of the pipeline's call, for the size of pictures.

    Returns:
        None where neither the pipeline nor `sampling` says how large pictures are.
    """
    pixels = picture_size(family.pipe, sampling)
    if pixels is None:
        return None
    denoiser, pipe = family.denoiser, family.pipe
    modules = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    if denoiser.device.type != "cpu":  # the others wait in main memory
        modules = [denoiser]
    numbers = {name: weight.numel() for name, weight in denoiser.named_parameters()}
    steps = args.max_steps > 0
    count = sum(numbers[name] for name in trained) if steps else 0
    in_float32 = sum(numbers[name] * (4 - denoiser.get_parameter(name).element_size()) for name in changed)
    own = sum(numbers[name] * denoiser.get_parameter(name).element_size() for name in changed)
    memories = 4 * count * max(args.memory_batches if args.projection else 0, 1 if args.trim_ratio else 0)
    if checkpointing is None:
        checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in denoiser.modules())
    shape = (pipe.vae.config.latent_channels, *(side // pipe.vae_scale_factor for side in pixels))
    examples = args.per_device_train_batch_size + (args.forget_batch_size if args.forget_weight else 0)
    return ErasureEstimate(
        model=type(denoiser).__name__,
        pixels=pixels,
        device=denoiser.device.type,
        weights=sum(_bytes(value) for part in modules for value in (*part.parameters(), *part.buffers())),
        trained=count,
        masters=in_float32 if steps else 0,
        gradients=4 * count,
        optimizer=_optimizer_bytes(args, denoiser.device) * count,
        memories=memories,
        activations=_activations(family, trained, changed, shape, examples, checkpointing) if steps else 0,
        # Large ones are decoded one by one.
        pictures=_decoding(pipe.vae, shape, 1 if pixels[0] * pixels[1] >= LARGE_PICTURE else pictures_of_size(*pixels)),
        disk=own + (CHECKPOINTS * 4 * count if steps else 0),
        accumulates=args.gradient_accumulation_steps > 1,
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


def _activations(
    family: Family, trained: set[str], changed: set[str], shape: tuple[int, ...], examples: int, checkpointing: bool
) -> int:
    """Counted by a forward pass of a copy that has shapes and no memory, in float32."""
    denoiser = family.denoiser
    with torch.device("meta"):
        copy = type(denoiser).from_config(denoiser.config).eval()
    # Weights that are read as float32 are kept so for the backward pass; the others are there anyway.
    there = {name for name, weight in denoiser.named_parameters() if name in changed or weight.element_size() == 4}
    for name, weight in copy.named_parameters():
        weight.requires_grad_(name in trained)
    told = {name: value.to("meta").expand(examples, *value.shape[1:]) for name, value in family.encode_prompts([""]).items()}
    noisy = torch.empty(examples, *shape, device="meta")
    times = family.noise_process().sample_timesteps(examples, torch.Generator()).to("meta")
    present = [weight for name, weight in copy.named_parameters() if name in there]
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
