"""What a run keeps beside Trainer's own checkpoint so that it can go on as if it had not been interrupted."""

import importlib.metadata
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


logger = logging.getLogger(__name__)

RUN_STATE_NAME = "scissorhands_state.json"
# Holds gradients of the forget loss, from which forget examples can be guessed: local disk only, never the Hub.
MEMORY_NAME = "gradient_memory.safetensors"


def is_checkpoint(folder: Path) -> bool:
    return folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-") and folder.name.rpartition("-")[2].isdigit()


def last_complete_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The newest checkpoint in ``output_dir`` that was written to its end, with a warning about newer ones that were not.

    Trainer writes ``trainer_state.json`` last, so a run that was killed, or whose disk was full, leaves none or half of one.
    """
    root = Path(output_dir)
    folders = sorted(
        (folder for folder in root.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if is_checkpoint(folder)),
        key=lambda folder: int(folder.name.rpartition("-")[2]),
        reverse=True,
    )
    for folder in folders:
        try:
            TrainerState.load_from_json(str(folder / "trainer_state.json"))
        except (OSError, ValueError, TypeError) as error:
            logger.warning("Passing over %s, which was not written to its end (%s).", folder.name, type(error).__name__)
            continue
        return folder
    return None


def save_run_state(folder: Path, state: dict[str, Any]) -> None:
    (folder / RUN_STATE_NAME).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_run_state(folder: Path) -> dict[str, Any]:
    """The state that :func:`save_run_state` wrote.

    Raises:
        ValueError: the folder has none, so it is no checkpoint of a ScissorhandsTrainer.
    """
    path = folder / RUN_STATE_NAME
    if not path.is_file():
        raise ValueError(
            f"resume_from_checkpoint={str(folder)!r} has no {RUN_STATE_NAME}: it was not written by ScissorhandsTrainer, so "
            "its weights were never trimmed. Load the model from it and call train() without resuming."
        )
    return json.loads(path.read_text(encoding="utf-8"))


_LIBRARIES = ("scissorhands_hf", "torch", "transformers", "accelerate", "datasets")


def library_versions(names: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {name: importlib.metadata.version(name) for name in names}
