"""The shipped Fashion-MNIST subset and the small image classifiers that the examples train on it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments, set_seed

from scissorhands_hf.cli.terminal import Terminal


CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"]
DATA = Path(__file__).parent / "data"
MODELS = {
    # 11.2M weights: the ResNet-18 that the paper's experiments use, for one colour channel.
    "resnet18": {"embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    # 0.7M weights: small enough to be trained from scratch three times within the demo.
    "small": {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [2, 2, 2, 2]},
}


def load_split(split: str) -> Dataset:
    """The split "train" (6,000 images) or "test" (2,000).

    Read, an example has ``pixel_values``, float32 of shape (1, 28, 28) in [-1, 1], and ``labels``.

    The pictures stay PNGs until a batch is read, as they would in a large data set; Trainer therefore needs
    ``remove_unused_columns=False``, for the columns that the model takes appear only then.
    """
    path = DATA / f"fashion_mnist_{split}.parquet"
    dataset = load_dataset("parquet", data_files=str(path), split="train")
    return dataset.with_transform(_to_tensors)


def _to_tensors(batch: dict[str, Any]) -> dict[str, Any]:
    pixels = np.stack([np.asarray(image) for image in batch["image"]])[:, None]
    return {"pixel_values": torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1.0), "labels": batch["label"]}


def build_classifier(kind: str, seed: int) -> ResNetForImageClassification:
    """A fresh HF ResNet of one of :data:`MODELS`, ten classes, one channel."""
    set_seed(seed)
    config = ResNetConfig(num_channels=1, layer_type="basic", num_labels=10, **MODELS[kind])
    return ResNetForImageClassification(config)


def train_from_scratch(
    kind: str,
    dataset: Dataset,
    seed: int,
    epochs: int,
    output_dir: str,
    terminal: Terminal | None = None,
    learning_rate: float = 0.1,
) -> tuple[ResNetForImageClassification, float]:
    """Train a fresh classifier with stock `Trainer`, perhaps shown by `terminal`. Returns it and the seconds that took."""
    args = TrainingArguments(
        output_dir=output_dir,
        num_train_epochs=epochs,
        per_device_train_batch_size=128,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        optim="sgd",
        optim_args="momentum=0.9",
        weight_decay=5e-4,
        save_strategy="no",
        logging_strategy="epoch",
        remove_unused_columns=False,
        seed=seed,
        use_cpu=True,
        disable_tqdm=terminal is not None and terminal.quiet,
    )
    trainer = Trainer(model=build_classifier(kind, seed), args=args, train_dataset=dataset)
    if terminal is not None:
        terminal.follow(trainer, "training")
    seconds = trainer.train().metrics["train_runtime"]
    return trainer.model, seconds


def predict(trainer: Trainer, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, 10) and labels (n,) of a dataset."""
    output = trainer.predict(dataset)
    return output.predictions, output.label_ids
