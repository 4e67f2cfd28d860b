"""`scissorhands card DIR`: writes the card of a saved run anew, offline."""

import argparse
from typing import Any

from .options import add_debug_option


def add_choices(parser: argparse.ArgumentParser) -> None:
    """The card's fields, as `card` and `push` take them."""
    parser.add_argument("--disclose", choices=("full", "summary", "none"), help="how much of what was forgotten is told")
    parser.add_argument("--forgotten", help="what was forgotten, in words; shown with --disclose full")
    parser.add_argument("--base_model", help="Hub id of the model that was made to forget")
    parser.add_argument("--license", help="licence as the Hub names it, as apache-2.0")
    parser.add_argument("--language", nargs="+", help="language codes")
    parser.add_argument("--retain_datasets", nargs="+", help="Hub ids of the data sets that the model was repaired on")
    parser.add_argument("--tags", nargs="+", help="further tags")


def choices(args: argparse.Namespace) -> dict[str, Any]:
    names = ("disclose", "forgotten", "base_model", "license", "language", "retain_datasets", "tags")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "card",
        help="write the model card of a saved run",
        allow_abbrev=False,
        description="Write README.md and its plot for a run that a trainer or pipeline saved, from its report and without a "
        "network. What you wrote outside the two marker lines of an existing README.md stays.",
    )
    parser.add_argument("directory", metavar="DIR", help="output_dir of the trainer, or where the pipeline was saved")
    parser.add_argument("--repo_id", help="Hub id for the code that loads the model")
    parser.add_argument(
        "--accept_weights", action="store_true", help="the weights were replaced on purpose since the report was written"
    )
    add_choices(parser)
    add_debug_option(parser)


def run(args: argparse.Namespace) -> None:
    from ..hub import write_card

    print(write_card(args.directory, args.repo_id, args.accept_weights, **choices(args)))
