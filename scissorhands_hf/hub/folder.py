"""The one folder that is uploaded: files of an allow-list and nothing else, configurations without traces of this machine.

Weights are safetensors alone: which files belong together, their digest, and half-precision copies.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from ..report.strict_json import to_json
from ..report.unlearning_report import REPORT_NAME
from .card import shown_pictures
from .connection import UploadRefusedError
from .probe_section import PROBE_PLOT, plot_names
from .run import PICTURE_FOLDER, PLOT_NAME, CardInfo


_STEMS = ("model", "diffusion_pytorch_model")
FP16 = "fp16"
# What holds weights, or the state of a training run. Such files of an earlier push are taken out of a repository.
WEIGHT_SUFFIXES = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".pkl", ".tflite",
    ".npz",
)  # fmt: skip
_CONFIGS = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "tokenizer_config.json", "special_tokens_map.json", "scheduler_config.json",
)  # fmt: skip
_TOKENIZERS = (
    "tokenizer.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "tokenizer.model", "source.spm", "target.spm", "bpe.codes", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
# Files that we write into a repository besides weights; taken out again when a later push has no such file.
OWN_FILES = (PLOT_NAME, REPORT_NAME)
_PRIVATE_KEYS = (
    "_name_or_path", "name_or_path", "is_local", "local_files_only", "token", "use_auth_token", "cache_dir", "tokenizer_file",
    "special_tokens_map_file",
)  # fmt: skip
_COMPONENT = re.compile(r"[a-z0-9_]+")


def component_folders(directory: Path, library: str) -> dict[str, Path]:
    """Where configurations and weights lie: the folder itself for a model, one folder for each component of a pipeline.

    Raises:
        UploadRefusedError: no model or pipeline was saved in `directory`.
    """
    index = directory / ("model_index.json" if library == "diffusers" else "config.json")
    if not index.is_file():
        raise UploadRefusedError(f"{directory} holds no {index.name}; save the model there first (save_model, save_pretrained)")
    if library != "diffusers":
        return {"": directory}
    components = {
        name: directory / name
        for name, value in json.loads(index.read_text(encoding="utf-8")).items()
        if isinstance(value, list) and value and value[0] is not None and not name.startswith("_")
    }
    return components


def uploadable_files(directory: Path, info: CardInfo) -> list[str]:
    """Relative paths of the model's own files: configurations, tokenizers, weights. No card, no report, no pictures."""
    relative = ["model_index.json"] if info.library == "diffusers" else []
    weights = 0
    for name, folder in component_folders(directory, info.library).items():
        if name and (not _COMPONENT.fullmatch(name) or not folder.is_dir()):
            raise UploadRefusedError(f"model_index.json names the component {name!r}, which is not a folder in {directory}")
        prefix = f"{name}/" if name else ""
        relative += [prefix + file for file in (*_CONFIGS, *_TOKENIZERS) if (folder / file).is_file()]
        for variant in {info.variant, FP16 if info.fp16_variant else info.variant}:
            found = [prefix + path.name for path in weight_files(folder, variant)]
            weights += len(found)
            relative += found
    if not weights:
        raise UploadRefusedError(
            f"{directory} holds no safetensors weights; save the model there again (pickled .bin weights are not uploaded)"
        )
    return relative


def stage(directory: Path, target: Path, info: CardInfo, public_report: dict[str, Any] | None) -> list[str]:
    """Fill the empty folder `target` with what may be uploaded, without the card. Returns the relative paths.

    Weights are hard links where the file system has them, so that staging costs no space.
    """
    names = uploadable_files(directory, info)
    names += [str(entry[side]) for entry in shown_pictures(info) for side in ("before", "after")]
    names += [name for name in (PLOT_NAME, *plot_names(info)) if (directory / name).is_file()]
    for name in names:
        source, copy = directory / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if copy.name in _CONFIGS or copy.name == "model_index.json":
            values = without_private_keys(json.loads(source.read_text(encoding="utf-8")))
            copy.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            link_or_copy(source, copy)
    if public_report is not None:
        (target / REPORT_NAME).write_text(to_json(public_report), encoding="utf-8")
        names.append(REPORT_NAME)
    return names


def link_or_copy(source: Path, copy: Path) -> None:
    try:
        os.link(source.resolve(), copy)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, copy)


def without_private_keys(values: Any) -> Any:
    """A configuration without the keys that say where on this machine it came from, at any depth."""
    if isinstance(values, dict):
        return {key: without_private_keys(value) for key, value in values.items() if key not in _PRIVATE_KEYS}
    if isinstance(values, list):
        return [without_private_keys(value) for value in values]
    return values


def no_longer_ours(existing: Iterable[str], staged: Iterable[str]) -> list[str]:
    """Of the files in a repository, those that must not stay beside the staged ones: other weights, which may be the ones
    from before, state of training, and reports and pictures of an earlier push."""
    staged = set(staged)
    return sorted(
        name
        for name in existing
        if name not in staged
        and (
            is_weight_file(name)
            or name in OWN_FILES
            or PROBE_PLOT.fullmatch(name)
            or name.startswith(f"{PICTURE_FOLDER}/")
            or name == "trainer_state.json"
        )
    )


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
    """Beside the weights of `folder`, write half-precision ones as `variant="fp16"` reads them. False if it has no weights.

    One file is in memory at a time. Stock `save_pretrained(variant=...)` writes a model in the type that it has, so it would
    need a second model, or this one rounded for good.

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


def weight_digests(folder: Path, library: str, variant: str | None = None) -> dict[str, str]:
    """Digest of the saved weights of each component, "" for a model."""
    return {
        name: weights_digest(part, variant)
        for name, part in component_folders(folder, library).items()
        if any(True for _ in part.glob("*.safetensors"))
    }
