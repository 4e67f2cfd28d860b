"""What the examples share: loading data by Hub id or path, choosing what to forget, and the accuracies before and after."""

from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, load_dataset
from transformers import EvalPrediction

from scissorhands_hf import ScissorhandsTrainer


FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}


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


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of right answers in [0, 1], for `compute_metrics`."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


def print_and_save_report(trainer: ScissorhandsTrainer, before: dict, after: dict, choice: str) -> None:
    """Accuracies on each evaluation set before and after, as a report in the output folder and a table on the screen."""
    sets = trainer.eval_dataset
    report = trainer.report()
    for name, figures in (("original", before), ("unlearned", after)):
        report.metrics[name] = {f"{part} accuracy": 100 * figures[f"eval_{part}_accuracy"] for part in sets}
    sizes = ", ".join(f"{len(dataset)} {part}" for part, dataset in sets.items())
    report.notes.append(f"Forgotten: {choice}. Accuracies in percent on {sizes} examples.")
    report.save(trainer.args.output_dir)
    print(report.to_markdown())
