"""What a run keeps beside Trainer's own checkpoint so that it can go on as if it had not been interrupted."""

import importlib.metadata
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .run_callbacks import UnlearningRecord


logger = logging.getLogger(__name__)

# Written beside checkpoints by version 0.1.0.
_EARLIER_STATE = "scissorhands_state.json"


def is_checkpoint(folder: Path) -> bool:
    return folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-") and folder.name.rpartition("-")[2].isdigit()


def last_complete_checkpoint(output_dir: str | os.PathLike) -> Path | None:
    """The newest checkpoint in `output_dir` that was written to its end, with a warning about newer ones that were not.

    Trainer writes `trainer_state.json` last, so a run that was killed, or whose disk was full, leaves none or half of one.
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


def checkpoint_to_resume(choice: str | os.PathLike | bool, output_dir: str | os.PathLike) -> Path:
    """The folder that `resume_from_checkpoint` asks for: a path, or True for the newest complete one in `output_dir`.

    Raises:
        ValueError: there is no complete one.
    """
    if choice is not True:
        return Path(choice)
    folder = last_complete_checkpoint(output_dir)
    if folder is None:
        raise ValueError(
            f"resume_from_checkpoint=True, but output_dir={str(output_dir)!r} has no complete checkpoint; start anew with "
            "trainer.train()"
        )
    return folder


def check_state_files(folder: Path, process: int, processes: int) -> None:
    """Refuse a checkpoint without what Trainer would go on without, in other weights than those of the whole run.

    Args:
        folder (`Path`):
            The checkpoint.
        process, processes (`int`):
            This one, and how many there are.

    Raises:
        ValueError: naming the files that it lacks.
    """
    random_state = "rng_state.pth" if processes == 1 else f"rng_state_{process}.pth"
    missing = [name for name in ("optimizer.pt", "scheduler.pt", random_state) if not (folder / name).is_file()]
    if missing == [random_state]:
        raise ValueError(
            f"resume_from_checkpoint={str(folder)!r} lacks {random_state}: it was written by another number of processes than "
            f"the {processes} of this run, which would see other batches. Start as many as then."
        )
    if missing:
        raise ValueError(
            f"resume_from_checkpoint={str(folder)!r} lacks {', '.join(missing)}, as checkpoints do that were saved with "
            "save_only_model=True: the run would go on from another state than it stopped in. Resume from a whole checkpoint, "
            "or start anew with save_only_model=False and trainer.train()."
        )


def changed_settings(kept: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The settings that are others than in the checkpoint, by name: its value and the new one."""
    return {name: (kept[name], value) for name, value in now.items() if name in kept and kept[name] != value}


def load_record(folder: Path, record: UnlearningRecord) -> None:
    """Give `record` the values that it had when the checkpoint was written.

    Raises:
        ValueError: the folder holds no checkpoint of a ScissorhandsTrainer, or one of an earlier version.
    """
    if (folder / _EARLIER_STATE).is_file():
        raise ValueError(
            f"resume_from_checkpoint={str(folder)!r} was written by an earlier version of scissorhands_hf ({_EARLIER_STATE}), "
            "which kept its state in another form. Go on with that version, or start anew with trainer.train()."
        )
    path = folder / "trainer_state.json"
    if not path.is_file():
        raise ValueError(
            f"resume_from_checkpoint={str(folder)!r} holds no {path.name}: it is no checkpoint, or was not written to its end"
        )
    kept = TrainerState.load_from_json(str(path)).stateful_callbacks.get(UnlearningRecord.__name__)
    if kept is None:
        raise ValueError(
            f"resume_from_checkpoint={str(folder)!r} was not written by ScissorhandsTrainer, so its weights were never "
            "trimmed. Load the model from it and call train() without resuming."
        )
    for name, value in kept["attributes"].items():
        setattr(record, name, value)


_LIBRARIES = ("scissorhands_hf", "torch", "transformers", "accelerate", "datasets")


def library_versions(names: Sequence[str] = _LIBRARIES) -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {name: importlib.metadata.version(name) for name in names}
