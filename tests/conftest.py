"""Settings that every test shares."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


# Before any Hugging Face library is imported: these are read at import. The tests need no network, so none may be tried.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from scissorhands_hf import ScissorhandsConfig


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., ScissorhandsConfig]:
    """Makes a configuration for a run of seconds on the CPU."""

    def make(**values: Any) -> ScissorhandsConfig:
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": "none",
            "save_strategy": "no",
            "per_device_train_batch_size": 4,
            "per_device_forget_batch_size": 2,
            "num_train_epochs": 1,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "seed": 7,
        }
        return ScissorhandsConfig(**{**defaults, **values})

    return make
