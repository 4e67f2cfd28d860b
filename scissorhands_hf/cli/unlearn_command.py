"""`scissorhands unlearn MODEL --dataset D --forget_where COLUMN=VALUE --output DIR`: for image and text classifiers."""

import argparse
from typing import Any

from .options import UsageError, add_command, add_output_options, check_output, field_names, given_options, options_of, require


# Options of this command, with what they are when left out, and the help of each.
_OPTIONS: dict[str, tuple[Any, str]] = {
    "dataset": (None, "Hub id, folder or file (parquet, csv, json) of the examples that it was trained on; required"),
    "split": ("train", "split of the training examples; default: train"),
    "test_dataset": (None, "where the test examples are, if not in --dataset"),
    "test_split": (None, "split of the test examples; without it and --test_dataset nothing is tested"),
    "forget_where": (None, "COLUMN=VALUE of the examples to forget"),
    "forget_fraction": (None, "random share to forget instead, in (0, 1)"),
    "image_column": ("image", "column with the images; default: image"),
    "text_column": ("text", "column with the texts; default: text"),
    "label_column": ("label", "column with the class numbers; default: label"),
    "max_length": (256, "longest text in tokens; default: 256"),
}
_KINDS = {"forget_fraction": float, "max_length": int}
_Loaded = tuple[Any, Any, dict[str, Any]]  # model, processor or tokenizer, data by part
_EPILOG = """\
Every further field of ScissorhandsConfig, so of transformers' TrainingArguments, is a flag as well (--learning_rate 1e-4).

  scissorhands unlearn me/my-vit --dataset me/my-images --forget_where label=cat --output no-cat
  scissorhands unlearn me/my-bert --dataset reviews.csv --forget_where author=u4711 --output forgotten --config settings.yaml
  accelerate launch -m scissorhands_hf.cli unlearn me/my-vit --dataset me/my-images --forget_fraction 0.1 --output out
"""


def add_parser(subparsers: Any) -> None:
    from transformers import TrainingArguments

    from ..trainer.recipes import TRAINING_FIELDS
    from ..trainer.scissorhands_config import ScissorhandsConfig

    shown = {*TRAINING_FIELDS, "logging_steps", "seed", "max_steps"}
    options = options_of(
        ScissorhandsConfig, without={"output_dir", "applied_recipe"}, hidden=field_names(TrainingArguments) - shown
    )
    add_output_options(options, "the model")
    for name, (_, explanation) in _OPTIONS.items():
        flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        options.add_argument(
            *flags,
            type=_KINDS.get(name, str),
            metavar=name.rpartition("_")[2].upper(),
            help=explanation,
            default=argparse.SUPPRESS,
        )
    parser = add_command(
        subparsers,
        "unlearn",
        options,
        usage="MODEL --dataset DATASET --forget_where COLUMN=VALUE --output DIR [options]",
        help="make an image or text classifier forget a class, examples or documents",
        epilog=_EPILOG,
    )
    parser.add_argument("model", metavar="MODEL", help="Hub id or folder of an image or text classifier")


def run(args: argparse.Namespace) -> None:
    given = given_options(args)
    require(given, ["dataset", "output"])
    model_id, output = given.pop("model"), given.pop("output")
    check_output(output, given.pop("overwrite", False))
    own = {name: given.pop(name, default) for name, (default, _) in _OPTIONS.items()}

    from ..trainer.classification import load_examples, split_forget_retain, unlearn_classifier
    from ..trainer.scissorhands_config import ScissorhandsConfig

    load = _loader(model_id)
    config = ScissorhandsConfig(output_dir=output, **given)
    examples = load_examples(own["dataset"], own["split"])
    forget, retain, choice = split_forget_retain(examples, own["forget_where"], own["forget_fraction"], config.seed)
    sets = {"forget": forget, "retain": retain}
    if own["test_dataset"] or own["test_split"]:
        sets["test"] = load_examples(own["test_dataset"] or own["dataset"], own["test_split"] or own["split"])
    model, processing_class, sets = load(model_id, config, sets, own)
    report = unlearn_classifier(model, config, processing_class, sets, choice)
    if config.process_index == 0:
        print(report.to_markdown())
        print(f"Saved to {output}")


def _loader(model: str) -> Any:
    """What loads this kind of model and gives its data their form."""
    from transformers import AutoConfig

    architectures = AutoConfig.from_pretrained(model).architectures or []
    if any(name.endswith("ForImageClassification") for name in architectures):
        return _load_image_classifier
    if any(name.endswith("ForSequenceClassification") for name in architectures):
        return _load_text_classifier
    raise UsageError(
        f"MODEL {model} is a {', '.join(architectures) or 'model of unknown architecture'}; this command is for "
        "...ForImageClassification and ...ForSequenceClassification. For other models use ScissorhandsTrainer in Python; for "
        "diffusers pipelines `scissorhands erase`."
    )


def _load_image_classifier(
    name: str, config: Any, sets: dict[str, Any], own: dict[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from ..trainer.classification import image_inputs

    _check_columns(sets, own, "image_column", "label_column")
    config.remove_unused_columns = False  # images become pixel_values only when a batch is read
    processor, model = AutoImageProcessor.from_pretrained(name), AutoModelForImageClassification.from_pretrained(name)
    to_inputs = image_inputs(processor, model, own["image_column"], own["label_column"])
    return model, processor, {part: dataset.with_transform(to_inputs) for part, dataset in sets.items()}


def _load_text_classifier(name: str, config: Any, sets: dict[str, Any], own: dict[str, Any]) -> _Loaded:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from ..trainer.classification import text_inputs

    _check_columns(sets, own, "text_column", "label_column")
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModelForSequenceClassification.from_pretrained(name)
    tokenize = text_inputs(tokenizer, own["text_column"], own["label_column"], own["max_length"])
    with config.main_process_first(desc="tokenizing"):
        sets = {part: data.map(tokenize, batched=True, remove_columns=data.column_names) for part, data in sets.items()}
    return model, tokenizer, sets


def _check_columns(sets: dict[str, Any], own: dict[str, Any], *options: str) -> None:
    for part, dataset in sets.items():
        for option in options:
            if own[option] not in dataset.column_names:
                raise UsageError(
                    f"--{option} {own[option]}: the {part} examples have only the columns {', '.join(dataset.column_names)}"
                )
