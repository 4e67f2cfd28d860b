"""Train the image classifier of the Space, and the references that its classes are forgotten against.

    python examples/train_fashion_classifier.py --output spaces_demo/fashion_classifier

Takes 3,000 training and 1,000 test images of examples/data (the same number of each class) and keeps them beside the model,
as the Space has no other data; trains an HF ResNet of 0.7M weights on them; retrains it once without each class, the reference
that unlearning is read against; measures all of them;
writes the card. Seeded; about one minute, and as long again for each class beside other work.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_dataset
from fashion_mnist import CLASSES, DATA, train_from_scratch


REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # the script is started by its path, and the classifier's code lies beside the demo

from scissorhands_hf.cli.terminal import Terminal  # noqa: E402
from spaces_demo.classifier import (  # noqa: E402
    FIGURES_NAME,
    Images,
    accuracy_per_class,
    forgetting_metrics,
    load_classifier,
    load_images,
    predict_logits,
)


KIND = "small"
EPOCHS = 20
PER_CLASS = {"train": 300, "test": 100}


def take_images(split: str, folder: Path) -> None:
    """The first images of each class, in the order of the data, as a parquet file beside the model."""
    dataset = load_dataset("parquet", data_files=str(DATA / f"fashion_mnist_{split}.parquet"), split="train")
    labels = np.array(dataset["label"])
    rows = np.sort(np.concatenate([np.flatnonzero(labels == label)[: PER_CLASS[split]] for label in range(len(CLASSES))]))
    dataset.select(rows).to_parquet(folder / f"{split}.parquet")


def to_dataset(images: Images) -> Dataset:
    return Dataset.from_dict({"pixel_values": images.pixels, "labels": images.labels}).with_format("torch")


def write_card(folder: Path, figures: dict) -> None:
    """The model card, from the measured figures alone."""
    size = round((folder / "model.safetensors").stat().st_size / 1e6, 2)
    rows = "\n".join(f"| {name} | {share:.1f} % |" for name, share in figures["accuracy_per_class"].items())
    retrained = "\n".join(
        f"| {name} | " + " | ".join(f"{row[key]:.1f}" for key in ("UA", "RA", "TA", "MIA")) + f" | {row['seconds']:.0f} |"
        for name, row in figures["retrained_without"].items()
    )
    (folder / "README.md").write_text(f"""---
license: mit
library_name: transformers
pipeline_tag: image-classification
tags:
- image-classification
- fashion-mnist
- scissorhands-hf
---

# The classifier of the Space

A `ResNetForImageClassification` ({figures["weights"]:,} weights, {size} MB in half precision) for grey 28x28 pictures of ten
garments, pixels in [-1, 1]. It exists to have a class forgotten, in seconds, in the Classifier tab of the demo.

- Data, both beside the model: {figures["training_images"]:,} training images (`train.parquet`) and
  {figures["test_images"]:,} test images (`test.parquet`) of Fashion-MNIST (Zalando Research,
  MIT licence), as many of each class.
- Training: {figures["epochs"]} epochs of SGD, seed {figures["seed"]}, {figures["seconds"]:.0f} s with
  {figures["threads"]} thread, beside other work.

    python examples/train_fashion_classifier.py --output spaces_demo/{folder.name}

## Measured
On the training images {figures["train_accuracy"]:.1f} %, on the test images **{figures["test_accuracy"]:.1f} %**:

| class | recognised |
|---|---:|
{rows}

The same model trained from scratch without one class, which is what unlearning that class is compared with (UA = 100 - accuracy
on the class's training images, RA = accuracy on the other training images, TA = accuracy on the other test images, MIA = share
of the class's training images that a confidence attack takes for non-members; in percent), and the seconds it took:

| without | UA | RA | TA | MIA | seconds |
|---|---:|---:|---:|---:|---:|
{retrained}

## Limits
Small on purpose, and trained on few images: it knows its training images almost by heart and mistakes shirts, t-shirts,
pullovers and coats for each other. It names one of ten garments whatever the picture shows.
""")


def train_and_measure(args: argparse.Namespace, terminal: Terminal) -> None:
    args.output.mkdir(parents=True, exist_ok=True)
    for split in PER_CLASS:
        take_images(split, args.output)
    train, test = load_images("train", args.output), load_images("test", args.output)
    scratch = str(REPOSITORY / "out" / "fashion_classifier")

    model, seconds = train_from_scratch(KIND, to_dataset(train), args.seed, args.epochs, scratch, terminal)
    model.config.id2label = dict(enumerate(CLASSES))
    model.config.label2id = {name: label for label, name in enumerate(CLASSES)}
    model.half().save_pretrained(args.output)
    shipped = load_classifier(args.output)  # what is measured is what the file holds
    train_logits, test_logits = predict_logits(shipped, train), predict_logits(shipped, test)
    figures = {
        "seed": args.seed,
        "epochs": args.epochs,
        "threads": args.threads,
        "seconds": seconds,
        "weights": sum(parameter.numel() for parameter in shipped.parameters()),
        "training_images": len(train),
        "test_images": len(test),
        "train_accuracy": 100 * float((train_logits.argmax(1) == train.labels).mean()),
        "test_accuracy": 100 * float((test_logits.argmax(1) == test.labels).mean()),
        "accuracy_per_class": dict(zip(CLASSES, accuracy_per_class(test_logits, test.labels), strict=True)),
        "retrained_without": {},
    }
    for label, name in enumerate(CLASSES):
        retain = train.where(train.labels != label)
        retrained, seconds = train_from_scratch(KIND, to_dataset(retain), args.seed, args.epochs, scratch, terminal)
        figures["retrained_without"][name] = {**forgetting_metrics(retrained.eval(), train, test, label), "seconds": seconds}
        terminal.say(f"{name} {figures['retrained_without'][name]}")
    (args.output / FIGURES_NAME).write_text(json.dumps(figures, indent=2) + "\n")
    write_card(args.output, figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="show the libraries' bars, losses and warnings")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with Terminal(args.verbose) as terminal:
        train_and_measure(args, terminal)


if __name__ == "__main__":
    main()
