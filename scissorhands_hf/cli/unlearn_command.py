"""`scissorhands unlearn MODEL --dataset D --forget_where COLUMN=VALUE --output DIR`: classifiers and language models."""

import argparse
from typing import Any

from ..trainer.classification_data import ClassificationData
from ..trainer.unlearning_settings import UnlearningSettings
from .model_run import add_command, model_run
from .options import add_fields, field_names, take


_EXAMPLES = """\
  scissorhands unlearn me/my-vit --dataset me/my-images --forget_where label=cat --output no-cat
  scissorhands unlearn me/my-bert --dataset reviews.csv --forget_where author=u4711 --output forgotten --config settings.yaml
  scissorhands unlearn me/my-llm --dataset questions.jsonl --forget_where "author=Kofi Vossberg" --output forgotten
  accelerate launch -m scissorhands_hf.cli unlearn me/my-vit --dataset me/my-images --forget_fraction 0.1 --output out
"""


def add_parser(subparsers: Any) -> None:
    def configuration() -> type:
        from ..trainer.scissorhands_config import ScissorhandsConfig

        return ScissorhandsConfig

    parser = add_command(
        subparsers,
        "unlearn",
        usage="MODEL --dataset DATASET --forget_where COLUMN=VALUE --output DIR [options]",
        help="make a classifier or language model forget a class, examples or documents",
        examples=_EXAMPLES,
        output="the model",
        add_own=lambda options: add_fields(options, ClassificationData),
        settings=(UnlearningSettings,),
        recipe="What is not given is taken from the recipe, if one is named, else as said.",
        configuration=configuration,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="Hub id or folder of an image or text classifier, or a causal language model"
    )


def run(args: argparse.Namespace) -> None:
    with model_run(args, required=["dataset"]) as command:
        given, terminal = command.given, command.terminal
        model_id, data = given.pop("model"), ClassificationData(**take(given, field_names(ClassificationData)))

        from ..trainer.classification import architectures_of, classifier_loader, read_sets, unlearn_classifier
        from ..trainer.language_models import (
            general_texts,
            is_language_architecture,
            load_language_model,
            unlearn_language_model,
        )
        from ..trainer.scissorhands_config import ScissorhandsConfig

        speaks = is_language_architecture(architectures_of(model_id))
        with terminal.stage("load"):
            load = None if speaks else classifier_loader(model_id)
            config = ScissorhandsConfig(output_dir=command.output, **given, **command.card)
            sets, choice = read_sets(data, config.seed)
            if load is None:
                general = general_texts(data)
                model, tokenizer = load_language_model(model_id)
            else:
                model, processing_class, sets = load(sets, data, config)
        if load is None:
            report = unlearn_language_model(model, config, tokenizer, sets, choice, general=general, callback=terminal.tell)
        else:
            report = unlearn_classifier(model, config, processing_class, sets, choice, terminal.tell)
        command.conclude(report)
