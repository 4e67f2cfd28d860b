"""Classifiers from the Hub or a folder: their examples, what of them to forget, and the accuracies before and after."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, load_dataset
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
)

from ..report import UnlearningReport
from .classification_data import ClassificationData
from .run_progress import Reporter, RunProgress
from .scissorhands_config import ScissorhandsConfig
from .scissorhands_trainer import ScissorhandsTrainer
from .stage_callback import StageCallback


FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}

# Longest text in tokens where `max_length` is left open.
MAX_LENGTH = 256

Batch = dict[str, Any]
Sets = dict[str, Dataset]


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
        dataset (`Dataset`):
            All training examples.
        where (`str`, *optional*):
            `COLUMN=VALUE`; examples with that value are forgotten. For a class label, its name or its number.
        fraction (`float`, *optional*):
            A random share in (0, 1) to forget instead.
        seed (`int`):
            Of the random share.

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


def read_sets(data: ClassificationData, seed: int) -> tuple[Sets, str]:
    """
    The examples as they are, by part.

    Args:
        data ([`ClassificationData`]):
            Says where they are, and which of them to forget.
        seed (`int`):
            Of a random share to forget.

    Returns:
        "forget", "retain" and, where there are some, "test", each as columns of `data`; and a sentence on the choice.

    Raises:
        ValueError: they cannot be read, or the choice selects nothing.
    """
    forget, retain, choice = split_forget_retain(
        load_examples(data.dataset, data.split), data.forget_where, data.forget_fraction, seed
    )
    sets = {"forget": forget, "retain": retain}
    if data.test_dataset or data.test_split:
        sets["test"] = load_examples(data.test_dataset or data.dataset, data.test_split or data.split)
    return sets, choice


def image_sets(sets: Sets, processor: Any, model: PreTrainedModel, data: ClassificationData) -> Sets:
    """The sets of [`read_sets`] as an image classifier reads them; images become pixel_values only when a batch is read, so
    that training needs `remove_unused_columns=False`.

    Raises:
        ValueError: a set lacks a column.
    """
    _check_columns(sets, data, "image_column", "label_column")
    to_inputs = image_inputs(processor, model, data.image_column, data.label_column)
    return {part: dataset.with_transform(to_inputs) for part, dataset in sets.items()}


def text_sets(sets: Sets, tokenizer: Any, data: ClassificationData, args: ScissorhandsConfig) -> Sets:
    """The sets of [`read_sets`] as a text classifier reads them, tokenized by one process of `args` for all.

    Raises:
        ValueError: a set lacks a column.
    """
    _check_columns(sets, data, "text_column", "label_column")
    tokenize = text_inputs(tokenizer, data.text_column, data.label_column, args.max_length or MAX_LENGTH)
    with args.main_process_first(desc="tokenizing"):
        return {part: texts.map(tokenize, batched=True, remove_columns=texts.column_names) for part, texts in sets.items()}


def _check_columns(sets: Sets, data: ClassificationData, *options: str) -> None:
    for part, dataset in sets.items():
        for option in options:
            if getattr(data, option) not in dataset.column_names:
                columns = ", ".join(dataset.column_names)
                raise ValueError(f"--{option} {getattr(data, option)}: the {part} examples have only the columns {columns}")


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


def architectures_of(name: str) -> list[str]:
    """Names of the classes that a model of the Hub or a folder was saved from, by its configuration."""
    return AutoConfig.from_pretrained(name).architectures or []


Loader = Callable[[Sets, ClassificationData, ScissorhandsConfig], tuple[PreTrainedModel, Any, Sets]]


def classifier_loader(name: str) -> Loader:
    """
    What loads a classifier, and gives examples the form that it reads; by its configuration, before its weights are fetched.

    Args:
        name (`str`):
            Hub id or folder of an image or text classifier.

    Returns:
        A function of the sets of [`read_sets`], the data's description and the run's settings (which it fits to the data). It
        returns the model, its image processor or tokenizer, and the sets.

    Raises:
        ValueError: the model is no image or text classifier.
    """
    architectures = architectures_of(name)
    for ending, load in (("ForImageClassification", _load_image), ("ForSequenceClassification", _load_text)):
        if any(architecture.endswith(ending) for architecture in architectures):
            return partial(load, name)
    raise ValueError(
        f"MODEL {name} is a {', '.join(architectures) or 'model of unknown architecture'}; this is for "
        "...ForImageClassification, ...ForSequenceClassification and causal language models. For other models use "
        "ScissorhandsTrainer in Python; for diffusers pipelines `scissorhands erase`."
    )


def _load_image(name: str, sets: Sets, data: ClassificationData, args: ScissorhandsConfig) -> tuple[PreTrainedModel, Any, Sets]:
    args.remove_unused_columns = False
    processor, model = AutoImageProcessor.from_pretrained(name), AutoModelForImageClassification.from_pretrained(name)
    return model, processor, image_sets(sets, processor, model, data)


def _load_text(name: str, sets: Sets, data: ClassificationData, args: ScissorhandsConfig) -> tuple[PreTrainedModel, Any, Sets]:
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForSequenceClassification.from_pretrained(name)
    return model, tokenizer, text_sets(sets, tokenizer, data, args)


def unlearn_classifier(
    model: PreTrainedModel,
    args: ScissorhandsConfig,
    processing_class: Any,
    sets: Sets,
    choice: str,
    callback: Callable[[RunProgress], None] | None = None,
) -> UnlearningReport:
    """
    Train, save to `args.output_dir`, and report the accuracies before and after.

    Args:
        model (`PreTrainedModel`):
            A classifier, unlearned in place.
        args (`ScissorhandsConfig`):
            Of the run.
        processing_class (`Any`):
            Image processor or tokenizer, saved with the model.
        sets (`Sets`):
            "forget", "retain" and perhaps others to measure, such as "test", in the form that the model reads.
        choice (`str`):
            Says what is forgotten, for the report.
        callback (*optional*):
            Told how far the run is, in the stages "original", "sensitivity", "repair" and "unlearned"; what it raises ends
            the run. With one, losses are not printed.

    Returns:
        The report, also saved beside the model by the main process.
    """
    stages = StageCallback(Reporter(callback).tell)
    trainer = ScissorhandsTrainer(
        model=model,
        args=args,
        train_dataset=sets["retain"],
        forget_dataset=sets["forget"],
        eval_dataset=sets,
        processing_class=processing_class,
        compute_metrics=accuracy,
        callbacks=[stages],
    )
    if callback is not None:
        trainer.remove_callback(PrinterCallback)
    batches = sum(len(trainer.get_eval_dataloader(part)) for part in sets.values())
    with stages.measuring("original", batches):
        before = trainer.evaluate()
    trainer.train()
    with stages.measuring("unlearned", batches):
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
