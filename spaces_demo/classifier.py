"""The trainer's door: make the shipped image classifier forget one of its classes, and measure what that did.

model = load_classifier()
result = forget_class("dress", work=Path("out"))     # UA, RA, TA, MIA and confusion matrices, before and after
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import AutoModelForImageClassification, PreTrainedModel, PrinterCallback

from scissorhands_hf import ScissorhandsConfig, ScissorhandsTrainer, UnlearningReport
from scissorhands_hf.audit import unlearning_metrics
from scissorhands_hf.trainer.run_progress import Reporter, RunProgress
from scissorhands_hf.trainer.stage_callback import StageCallback
from spaces_demo.limits import SEEDS, RefusedError, check_number
from spaces_demo.models import CLASSIFIER_FOLDER, class_names


FIGURES_NAME = "figures.json"
RECIPE = "fashion-mnist-class"
STAGES = ("original", "sensitivity", "repair", "report")
BATCH_SIZE = 250


@dataclass(frozen=True)
class Images(Dataset):
    """Pictures and labels as the model takes them: float32 (n, 1, 28, 28) in [-1, 1] and int64 (n,)."""

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"pixel_values": torch.from_numpy(self.pixels[row]), "labels": int(self.labels[row])}

    def where(self, chosen: np.ndarray) -> Images:
        return Images(self.pixels[chosen], self.labels[chosen])


@dataclass
class ForgottenClass:
    """What a run did. Confusion matrices are counts on the test images: row = true class, column = named class."""

    name: str
    classes: list[str]
    report: UnlearningReport
    confusion: dict[str, np.ndarray]


@lru_cache(maxsize=4)
def load_images(split: str, folder: Path = CLASSIFIER_FOLDER) -> Images:
    """The images beside the model: `split` is "train" or "test"."""
    table = pyarrow.parquet.read_table(folder / f"{split}.parquet")
    pictures = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
    pixels = np.stack(pictures)[:, None].astype(np.float32) / 127.5 - 1.0
    return Images(pixels, np.array(table["label"].to_pylist(), dtype=np.int64))


def load_classifier(folder: Path = CLASSIFIER_FOLDER) -> PreTrainedModel:
    """A fresh copy of the shipped classifier in single precision: the caller may change it."""
    return AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()


@lru_cache(maxsize=1)
def load_figures(folder: Path = CLASSIFIER_FOLDER) -> dict[str, Any]:
    """What was measured when the classifier was made; among it the models retrained without each class."""
    return json.loads((folder / FIGURES_NAME).read_text())


@torch.no_grad()
def predict_logits(model: PreTrainedModel, images: Images) -> np.ndarray:
    """(n, classes), in evaluation mode."""
    model.eval()
    batches = torch.from_numpy(images.pixels).split(BATCH_SIZE)
    return torch.cat([model(pixel_values=batch.to(model.device)).logits.float().cpu() for batch in batches]).numpy()


def accuracy_per_class(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Percent recognised of each class that `labels` holds, in the order of the labels."""
    right = logits.argmax(axis=1) == labels
    return [100 * float(right[labels == label].mean()) for label in np.unique(labels)]


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts (classes, classes): row = true class, column = the class that the model names."""
    classes = logits.shape[1]
    return np.bincount(labels * classes + logits.argmax(axis=1), minlength=classes**2).reshape(classes, classes)


def forgetting_metrics(model: PreTrainedModel, train: Images, test: Images, label: int) -> dict[str, float]:
    """UA, RA, TA and MIA for forgetting the class `label`; TA is without the class."""
    sets = {
        "forget": train.where(train.labels == label),
        "retain": train.where(train.labels != label),
        "test": test.where(test.labels != label),
    }
    return unlearning_metrics({name: (predict_logits(model, images), images.labels) for name, images in sets.items()})


def forget_class(
    name: str, *, work: Path, seed: int = 0, callback: Callable[[RunProgress], None] | None = None
) -> ForgottenClass:
    """Unlearn a class of a fresh copy of the shipped classifier with the recipe that was tuned for this data.

    Args:
        name: one of :func:`class_names`.
        work: folder of the run; its report is written there.
        seed: of the run.
        callback: told how far the run is; what it raises ends the run.

    Raises:
        RefusedError: there is no such class.
    """
    classes = class_names()
    if name not in classes:
        raise RefusedError(f"The classifier knows no class {str(name)[:40]!r}. It knows: {', '.join(classes)}.")
    seed = check_number(seed, "The seed", *SEEDS, whole=True)
    label = classes.index(name)
    train, test = load_images("train"), load_images("test")

    tell = Reporter(callback).tell
    tell("original", 0, 1)
    model = load_classifier()
    metrics = {"original": forgetting_metrics(model, train, test, label)}
    confusion = {"original": confusion_matrix(predict_logits(model, test), test.labels)}
    tell("original", 1, 1)

    args = ScissorhandsConfig(
        output_dir=str(work),
        recipe=RECIPE,
        seed=seed,
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )
    trainer = ScissorhandsTrainer(
        model=model,
        args=args,
        train_dataset=train.where(train.labels != label),
        forget_dataset=train.where(train.labels == label),
        callbacks=[StageCallback(tell)],
    )
    trainer.remove_callback(PrinterCallback)  # the page shows the losses
    tell("sensitivity", 0, 1)
    trainer.train()
    tell("report", 0, 1)
    report = trainer.report()
    retrained = load_figures()["retrained_without"][name]
    metrics["retrained"] = {key: retrained[key] for key in metrics["original"]}
    metrics["unlearned"] = forgetting_metrics(trainer.model, train, test, label)
    confusion["unlearned"] = confusion_matrix(predict_logits(trainer.model, test), test.labels)
    report.metrics = metrics
    report.seconds["retrained"] = retrained["seconds"]
    report.notes.append(
        f"{len(train)} training and {len(test)} test images of Fashion-MNIST, seed {seed}; the retrained model was trained and "
        "measured beforehand, on the same images without the class."
    )
    tell("report", 1, 1)
    return ForgottenClass(name, classes, report, confusion)
