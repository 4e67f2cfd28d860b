"""Classifiers from the Hub or a folder: their examples, what of them to forget, and the accuracies before and after."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, load_dataset
from transformers import EvalPrediction, PreTrainedModel

from ..report import UnlearningReport
from .scissorhands_config import ScissorhandsConfig
from .scissorhands_trainer import ScissorhandsTrainer


FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}

Batch = dict[str, Any]


def load_examples(source: str, split: str) -> Dataset:
    """A split of a Hub data set or local folder, or a local file (parquet, csv, json) as it is.

    Raises:
        ValueError: a local file of another kind.
    """
    path = Path(source)
    if not path.is_file():
        return load_dataset(source, split=split)
    if path.suffix not in FORMATS:
        raise ValueError(f"dataset={source!r}: {path.suffix!r} files cannot be read; use one of {', '.join(FORMATS)}")
    return load_dataset(FORMATS[path.suffix], data_files=str(path), split="train")


def split_forget_retain(dataset: Dataset, where: str | None, fraction: float | None, seed: int) -> tuple[Dataset, Dataset, str]:
    """The forget set, the retain set, and one sentence on the choice.

    Args:
        dataset: all training examples.
        where: ``COLUMN=VALUE``; examples with that value are forgotten. For a class label, its name or its number.
        fraction: a random share in (0, 1) to forget instead.
        seed: of the random share.

    Raises:
        ValueError: not exactly one of the two is given, the column or value does not exist, or one of the sets is empty.
    """
    if (where is None) == (fraction is None):
        raise ValueError(f"give exactly one of --forget_where ({where!r}) and --forget_fraction ({fraction!r})")
    if fraction is not None:
        if not 0 < fraction < 1:
            raise ValueError(f"--forget_fraction {fraction} must lie between 0 and 1")
        chosen = np.random.default_rng(seed).permutation(len(dataset)) < round(fraction * len(dataset))
        sentence = f"a random {100 * fraction:g} % of the training examples (seed {seed})"
    else:
        column, equals, value = where.partition("=")
        if not equals or column not in dataset.column_names:
            raise ValueError(f"--forget_where {where!r} is not COLUMN=VALUE with one of {', '.join(dataset.column_names)}")
        feature = dataset.features[column]
        if isinstance(feature, ClassLabel) and value in feature.names:
            value = str(feature.str2int(value))
        chosen = np.array([str(entry) == value for entry in dataset.with_format(None)[column]])
        sentence = f"the training examples whose {column} is {where.partition('=')[2]}"
    forget, retain = dataset.select(np.flatnonzero(chosen)), dataset.select(np.flatnonzero(~chosen))
    if not len(forget) or not len(retain):
        raise ValueError(f"{sentence}: that is {len(forget)} of {len(dataset)}; there must be some to forget and some to keep")
    return forget, retain, sentence


def image_inputs(processor: Any, model: PreTrainedModel, image_column: str, label_column: str) -> Callable[[Batch], Batch]:
    """A transform, for `Dataset.with_transform`, from images and class numbers to what an image classifier reads."""
    mode = {1: "L", 4: "RGBA"}.get(getattr(model.config, "num_channels", 3), "RGB")

    def to_inputs(batch: Batch) -> Batch:
        images = [image.convert(mode) for image in batch[image_column]]
        if mode == "L":  # image processors expect the axis of channels
            images = [np.asarray(image)[..., None] for image in images]
        inputs = processor(images, return_tensors="pt", **({"input_data_format": "channels_last"} if mode == "L" else {}))
        return {"pixel_values": inputs["pixel_values"], "labels": batch[label_column]}

    return to_inputs


def text_inputs(tokenizer: Any, text_column: str, label_column: str, max_length: int) -> Callable[[Batch], Batch]:
    """A function, for `Dataset.map(batched=True)`, from texts and class numbers to what a text classifier reads."""

    def tokenize(batch: Batch) -> Batch:
        tokens = tokenizer(batch[text_column], truncation=True, max_length=max_length)
        return {**tokens, "labels": batch[label_column]}

    return tokenize


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of right answers in [0, 1], for `compute_metrics`."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def unlearn_classifier(
    model: PreTrainedModel, args: ScissorhandsConfig, processing_class: Any, sets: dict[str, Dataset], choice: str
) -> UnlearningReport:
    """
    Train, save to `args.output_dir`, and report the accuracies before and after.

    Args:
        model: a classifier, unlearned in place.
        args: of the run.
        processing_class: image processor or tokenizer, saved with the model.
        sets: "forget", "retain" and perhaps others to measure, such as "test", in the form that the model reads.
        choice: says what is forgotten, for the report.

    Returns:
        The report, also saved beside the model by the main process.
    """
    trainer = ScissorhandsTrainer(
        model=model,
        args=args,
        train_dataset=sets["retain"],
        forget_dataset=sets["forget"],
        eval_dataset=sets,
        processing_class=processing_class,
        compute_metrics=accuracy,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    trainer.save_model()
    report = trainer.report()
    for name, figures in (("original", before), ("unlearned", after)):
        report.metrics[name] = {f"{part} accuracy": 100 * figures[f"eval_{part}_accuracy"] for part in sets}
    sizes = ", ".join(f"{len(dataset)} {part}" for part, dataset in sets.items())
    report.notes.append(f"Forgotten: {choice}. Accuracies in percent on {sizes} examples.")
    if trainer.is_world_process_zero():
        report.save(args.output_dir)
    return report
