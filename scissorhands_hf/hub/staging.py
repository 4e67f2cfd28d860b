"""The one folder that is uploaded: files of an allow-list and nothing else, configurations without traces of this machine."""

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..report.unlearning_report import REPORT_NAME
from .card import PLOT_NAME, shown_pictures
from .card_info import CardInfo
from .errors import UploadRefusedError
from .weights import FP16, is_weight_file, weight_files


CARD_NAME = "README.md"
PICTURE_FOLDER = "before_after"
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
        UploadRefusedError: no model or pipeline was saved in ``directory``.
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
    for name, folder in components.items():
        if not _COMPONENT.fullmatch(name) or not folder.is_dir():
            raise UploadRefusedError(f"model_index.json names the component {name!r}, which is not a folder in {directory}")
    return components


def uploadable_files(directory: Path, info: CardInfo) -> list[str]:
    """Relative paths of the model's own files: configurations, tokenizers, weights. No card, no report, no pictures."""
    relative = ["model_index.json"] if info.library == "diffusers" else []
    weights = 0
    for name, folder in component_folders(directory, info.library).items():
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
    """Fill the empty folder ``target`` with what may be uploaded, without the card. Returns the relative paths.

    Weights are hard links where the file system has them, so that staging costs no space.
    """
    names = uploadable_files(directory, info)
    names += [str(entry[side]) for entry in shown_pictures(info) for side in ("before", "after")]
    names += [PLOT_NAME] if (directory / PLOT_NAME).is_file() else []
    for name in names:
        source, copy = directory / name, target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if copy.name in _CONFIGS or copy.name == "model_index.json":
            values = without_private_keys(json.loads(source.read_text(encoding="utf-8")))
            copy.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            link_or_copy(source, copy)
    if public_report is not None:
        text = json.dumps(public_report, indent=2, ensure_ascii=False)
        (target / REPORT_NAME).write_text(text + "\n", encoding="utf-8")
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
        and (is_weight_file(name) or name in OWN_FILES or name.startswith(f"{PICTURE_FOLDER}/") or name == "trainer_state.json")
    )
