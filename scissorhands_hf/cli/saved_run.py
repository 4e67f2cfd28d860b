"""What the commands share that work on a saved run: its folder, and what its card is told."""

import argparse
from typing import Any

from ..report.card_options import CardOptions
from .options import add_common_options, add_fields, field_names
from .terminal import Terminal


def add_command(subparsers: Any, name: str, *, help: str, description: str) -> argparse.ArgumentParser:
    """A sub-command's parser, with the folder of the run and a flag for each field of [`CardOptions`]."""
    parser = subparsers.add_parser(name, help=help, description=description, allow_abbrev=False)
    parser.add_argument("directory", metavar="DIR", help="output_dir of the trainer, or where the pipeline was saved")
    parser.add_argument(
        "--probes",
        metavar="DIR",
        nargs="+",
        help="of a pipeline: folders to which `scissorhands audit --concept` or probe_concept's report was saved, for the card",
    )
    add_fields(parser, CardOptions, title="what the card says", description="Left out: as it was when saved.", defaults=False)
    add_common_options(parser)
    return parser


def card_choices(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of [`CardOptions`] that were given."""
    return {name: getattr(args, name) for name in field_names(CardOptions) if hasattr(args, name)}


def terminal_of(args: argparse.Namespace) -> Terminal:
    """A terminal for work that draws no bars but the Hub client's."""
    return Terminal(verbose=getattr(args, "verbose", False), libraries=["huggingface_hub"])
