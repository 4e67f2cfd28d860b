"""`scissorhands card DIR`: writes the card of a saved run anew, offline."""

import argparse
from typing import Any

from .saved_run import add_command, card_choices, terminal_of


def add_parser(subparsers: Any) -> None:
    parser = add_command(
        subparsers,
        "card",
        help="write the model card of a saved run",
        description="Write README.md and its plot for a run that a trainer or pipeline saved, from its report and without a "
        "network. What you wrote outside the two marker lines of an existing README.md stays.",
    )
    parser.add_argument("--repo_id", help="Hub id for the code that loads the model")
    parser.add_argument(
        "--accept_weights", action="store_true", help="the weights were replaced on purpose since the report was written"
    )


def run(args: argparse.Namespace) -> None:
    with terminal_of(args) as terminal:
        from ..hub import write_card

        terminal.say(str(write_card(args.directory, args.repo_id, args.accept_weights, args.probes, **card_choices(args))))
