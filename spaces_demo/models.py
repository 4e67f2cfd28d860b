"""Where pipelines come from: the shipped one, a session's own folder, or a public repository on the Hub, within limits."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spaces_demo.limits import LARGEST_MODEL, RefusedError, check_repository


if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

SHIPPED_NAME = "Fashion pipeline (shipped, 32×32 pixels, seconds)"
SHIPPED_FOLDER = Path(__file__).resolve().parent / "fashion_pipeline"
# What the shipped pipeline would be if it had never seen a concept, by its name.
CONTROL_FOLDERS = {name: SHIPPED_FOLDER.with_name(f"fashion_pipeline_without_{name}") for name in ("dress", "sneaker", "red")}
CLASSIFIER_FOLDER = Path(__file__).resolve().parent / "fashion_classifier"
AUTHORS_FOLDER = Path(__file__).resolve().parent / "authors_model"
# What of a repository is downloaded: weights as safetensors in their full variant, and the small files around them.
_WANTED = ("model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors")
_UNWANTED = ("*.fp16.safetensors", "*.bf16.safetensors", "*.non_ema.safetensors", "*.fp16.*", "*.bf16.*", "flax_*", "*/.*")
_KEPT_DOWNLOADS = 2


@dataclass(frozen=True)
class Source:
    """A pipeline that can be loaded.

    Args:
        folder: where its files are.
        name: to show.
        hub_id: of its repository; None for the shipped one.
    """

    folder: Path
    name: str
    hub_id: str | None = None

    @property
    def shipped(self) -> bool:
        return self.folder == SHIPPED_FOLDER


@lru_cache(maxsize=1)
def class_names() -> list[str]:
    """Of the shipped classifier, in the order of its labels; from its configuration, so that nothing need be loaded."""
    labels = json.loads((CLASSIFIER_FOLDER / "config.json").read_text(encoding="utf-8"))["id2label"]
    return [labels[str(number)] for number in range(len(labels))]


@lru_cache(maxsize=1)
def read_authors() -> list[dict[str, Any]]:
    """The questions that the shipped language model knows the answers of, a row each; not to be changed."""
    return [json.loads(line) for line in (AUTHORS_FOLDER / "authors.jsonl").read_text(encoding="utf-8").splitlines()]


def author_names() -> list[str]:
    """Of all authors that it knows; those that its control was not taught come first."""
    unknown = control_authors()
    return [*unknown, *(name for name in dict.fromkeys(row["author"] for row in read_authors()) if name not in unknown)]


def control_authors() -> list[str]:
    """Those that the control never knew."""
    return list(dict.fromkeys(row["author"] for row in read_authors() if row["part"] == "forget"))


def shipped() -> Source:
    return Source(SHIPPED_FOLDER, SHIPPED_NAME)


def work_root() -> Path:
    """A fresh folder for visitors' things, for this user alone; under the machine's temporary one, from which gradio serves."""
    return Path(tempfile.mkdtemp(prefix="scissorhands-space-"))


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def find_model(choice: str | None, hub_id: str | None, downloads: Path, endpoint: str | None = None) -> Source:
    """The source that the visitor chose; a repository is looked at before anything of it is downloaded.

    Args:
        choice: :data:`SHIPPED_NAME`, or anything else to take ``hub_id``.
        hub_id: repository on the Hub; wins when given.
        downloads: folder for what is downloaded; the last few models stay in it.
        endpoint: of the Hub, None for the configured one.

    Raises:
        RefusedError: unknown, private, gated, too large, no diffusers pipeline in safetensors, or the Hub cannot be reached.
    """
    if not (hub_id or "").strip():
        if choice in (None, "", SHIPPED_NAME):
            return shipped()
        raise RefusedError(f"The model {str(choice)[:60]!r} is not known here. Choose the shipped one or give a Hub id.")
    hub_id = check_repository(hub_id)
    files, revision = _look_at(hub_id, endpoint)
    return Source(_download(hub_id, files, revision, downloads, endpoint), hub_id, hub_id)


def _look_at(hub_id: str, endpoint: str | None) -> tuple[list[str], str]:
    """The files to download and the commit, if the repository is one that can be used here."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        # Without a token: that of the Space's owner must not open private models to visitors.
        info = HfApi(endpoint=endpoint, token=False).model_info(hub_id, files_metadata=True, timeout=15)
    except GatedRepoError:
        raise RefusedError(_gated(hub_id)) from None
    except RepositoryNotFoundError:
        raise RefusedError(
            f"There is no public model {hub_id!r} on the Hub. Check the spelling; private ones are not read."
        ) from None
    except OfflineModeIsEnabled:
        raise RefusedError("This computer works without the Hub (HF_HUB_OFFLINE is set); choose the shipped model.") from None
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else "no"
        raise RefusedError(f"The Hub answered with an error ({code}) when asked for {hub_id!r}. Try again later.") from None
    except Exception as error:  # the transport's own errors (httpx2, sockets, time-outs) share no base class
        raise RefusedError(f"The Hub could not be reached ({type(error).__name__}); choose the shipped model.") from None
    if info.gated:
        raise RefusedError(_gated(hub_id))
    names = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    if "model_index.json" not in names:
        raise RefusedError(f"{hub_id!r} is not a diffusers pipeline: it has no model_index.json.")
    files = {
        name: size
        for name, size in names.items()
        if any(fnmatch(name, pattern) for pattern in _WANTED) and not any(fnmatch(name, pattern) for pattern in _UNWANTED)
    }
    if any(".." in Path(name).parts or Path(name).is_absolute() for name in files):
        raise RefusedError(f"{hub_id!r} has file names that lead out of its folder.")
    if not any(name.endswith(".safetensors") for name in files):
        raise RefusedError(f"{hub_id!r} has no weights as safetensors; other formats can run code and are not loaded.")
    largest, size = LARGEST_MODEL[device()], sum(files.values())
    if size > largest:
        raise RefusedError(
            f"{hub_id!r} is too large for this machine: {size / 1e9:.1f} GB, at most {largest / 1e9:.0f} GB fit."
        )
    return sorted(files), info.sha


def _gated(hub_id: str) -> str:
    return f"{hub_id!r} is gated: its owner asks for an agreement first. Choose a model that anyone may download."


def _download(hub_id: str, files: list[str], revision: str, downloads: Path, endpoint: str | None) -> Path:
    from huggingface_hub import snapshot_download

    folder = downloads / hub_id.replace("/", "--")
    try:
        snapshot_download(hub_id, revision=revision, allow_patterns=files, local_dir=folder, token=False, endpoint=endpoint)
    except Exception as error:
        raise RefusedError(f"Downloading {hub_id!r} failed ({type(error).__name__}). Try again later.") from None
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    if not isinstance(index.get("_class_name"), str):
        raise RefusedError(f"{hub_id!r} brings pipeline code of its own, which is not run here.")
    os.utime(folder)
    others = sorted((path for path in downloads.iterdir() if path != folder), key=lambda path: path.stat().st_mtime)
    for old in others[: max(0, len(others) - _KEPT_DOWNLOADS + 1)]:
        shutil.rmtree(old, ignore_errors=True)
    return folder


def load_pipeline(folder: Path) -> DiffusionPipeline:
    """A fresh pipeline from a folder, on the machine's device; nothing but safetensors, no code of the repository.

    Raises:
        RefusedError: the files do not make a pipeline.
    """
    import torch
    from diffusers import DiffusionPipeline

    where = device()
    try:
        pipe = DiffusionPipeline.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=torch.float16 if where == "cuda" else torch.float32
        )
    except Exception as error:
        raise RefusedError(
            f"The model could not be loaded ({type(error).__name__}); it may need files that it lacks."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(where)


class PipelineCache:
    """The last few loaded pipelines, to draw with; what is in it is never changed. For use under the worker's lock alone."""

    def __init__(self, most: int = 2):
        self.most = most
        self._kept: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, folder: Path) -> DiffusionPipeline:
        key = (str(folder), (folder / "model_index.json").stat().st_mtime_ns)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pipe = load_pipeline(folder)
        with self._lock:
            self._kept[key] = pipe
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return pipe

    def drop(self, folder: Path) -> None:
        with self._lock:
            for key in [key for key in self._kept if key[0] == str(folder)]:
                del self._kept[key]


def give_memory_back() -> None:
    """Return freed memory to the machine. glibc keeps freed arenas, which a server that lives for weeks cannot afford."""
    import ctypes

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return  # another C library: there is nothing to ask
