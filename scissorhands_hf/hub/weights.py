"""Weight files in a folder: which belong together, their digest, and half-precision copies. Only safetensors."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from .errors import UploadRefusedError


_STEMS = ("model", "diffusion_pytorch_model")
FP16 = "fp16"
# What holds weights, or the state of a training run. Such files of an earlier push are taken out of a repository.
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".pkl", ".tflite",
    ".npz",
)  # fmt: skip


def is_weight_file(name: str) -> bool:
    """Whether a file, by its name, holds weights or says how they are sharded."""
    return name.endswith(WEIGHT_SUFFIXES) or (".index" in name and name.endswith(".json"))


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The file or the index and shards that `from_pretrained(folder, variant=variant)` reads; empty if there are none.

    Raises:
        UploadRefusedError: one file and shards lie side by side, of which stock libraries read the one file however old it is;
            or a shard is missing.
    """
    infix = f".{variant}" if variant else ""
    for stem in _STEMS:
        single, index = folder / f"{stem}{infix}.safetensors", folder / f"{stem}.safetensors.index{infix}.json"
        if single.is_file() and index.is_file():
            raise UploadRefusedError(
                f"{single.name} and {index.name} lie side by side in {folder.name}: one of them is left from an earlier save, "
                "and from_pretrained would read the first. Delete the older one."
            )
        if single.is_file():
            return [single]
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
            if missing:
                raise UploadRefusedError(
                    f"{index.name} names {missing[0]}, which is not in {folder.name}; save the model again"
                )
            return [index, *(folder / name for name in shards)]
    return []


def tensors(folder: Path, variant: str | None = None) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every saved tensor, one at a time, in order of name within each file."""
    for path in weight_files(folder, variant):
        if path.suffix == ".json":
            continue
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)


def weights_digest(folder: Path, variant: str | None = None) -> str:
    """A hash over names, types, shapes and values, the same however the weights are sharded."""
    parts = []
    for name, tensor in tensors(folder, variant):
        digest = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
        parts.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()


def write_fp16_copies(folder: Path) -> bool:
    """Beside the weights of ``folder``, write half-precision ones as `variant="fp16"` reads them. False if it has no weights.

    One file is in memory at a time.

    Raises:
        UploadRefusedError: a weight does not fit in half precision.
    """
    files = weight_files(folder)
    for path in files:
        if path.suffix == ".json":
            continue
        half = {}
        for name, tensor in safetensors.torch.load_file(path).items():
            half[name] = tensor.to(torch.float16) if tensor.is_floating_point() else tensor
            if tensor.is_floating_point() and not torch.isfinite(half[name]).all():
                raise UploadRefusedError(
                    f"fp16_variant=True: the weight {name!r} exceeds what half precision holds; leave it out"
                )
        safetensors.torch.save_file(half, folder / _fp16_name(path.name), metadata={"format": "pt"})
    for index in files:
        if index.suffix == ".json":
            values = json.loads(index.read_text(encoding="utf-8"))
            values["weight_map"] = {name: _fp16_name(file) for name, file in values["weight_map"].items()}
            sizes = [(folder / name).stat().st_size for name in set(values["weight_map"].values())]
            values.setdefault("metadata", {})["total_size"] = sum(sizes)
            stem = index.name.partition(".safetensors.index")[0]
            target = folder / f"{stem}.safetensors.index.{FP16}.json"
            target.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return bool(files)


def _fp16_name(name: str) -> str:
    """model.safetensors → model.fp16.safetensors, model-00001-of-00002.safetensors → model.fp16-00001-of-00002.safetensors."""
    for stem in sorted(_STEMS, key=len, reverse=True):
        if name.startswith(stem):
            return f"{stem}.{FP16}{name[len(stem) :]}"
    raise UploadRefusedError(f"{name} is not a weight file of a stock library")


def file_stamps(folder: Path) -> dict[str, int]:
    """Modification times of a folder's weight files, to tell later which ones a save wrote."""
    if not folder.is_dir():
        return {}
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file() and is_weight_file(path.name)}


def remove_unwritten(folder: Path, before: dict[str, int]) -> list[str]:
    """Delete stock weight files of an earlier save that the last one did not write, for `from_pretrained` might read them.

    `save_pretrained` of transformers 5.23 leaves `model.safetensors` where it was when it writes shards, and the reader
    prefers it. Returns the names of the deleted files.
    """
    stale = [
        name
        for name, stamp in before.items()
        if name.startswith(tuple(f"{stem}{sign}" for stem in _STEMS for sign in ".-"))
        and (folder / name).is_file()
        and (folder / name).stat().st_mtime_ns == stamp
    ]
    for name in stale:
        os.remove(folder / name)
    return stale
