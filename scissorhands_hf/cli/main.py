"""`scissorhands COMMAND ...`: finds the sub-command, runs it, and turns what goes wrong into a line and an exit code."""

import argparse
import errno
import importlib
import sys
import traceback
from collections.abc import Sequence

from .. import __version__
from .options import CommandParser, add_common_options


# Modules NAME_command of this package. Their heavy imports belong inside `run`: `--help` needs neither torch nor transformers.
COMMANDS = ("erase", "unlearn", "audit", "card", "push")

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
# What is wrong with the machine, not with what the user asked for.
_MACHINE_ERRORS = (errno.ENOSPC, errno.EIO, errno.ENOMEM, errno.EDQUOT, errno.EPIPE)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scissorhands", description="Make a trained model forget, and prove it.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"scissorhands_hf {__version__}")
    add_common_options(parser)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for name in COMMANDS:
        importlib.import_module(f".{name}_command", __package__).add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        arguments (`Sequence[str]`, *optional*):
            Default: those of the process.

    Returns:
        0; 2 for what the user can mend (a wrong argument, a missing file or model, an unsupported pipeline); 1 for other
        failures; 130 after Ctrl-C. argparse itself exits with 2.
    """
    args = build_parser().parse_args(arguments)
    try:
        return importlib.import_module(f".{args.command}_command", __package__).run(args) or 0
    except KeyboardInterrupt:
        message, code = "interrupted", EXIT_INTERRUPTED
    except Exception as error:
        if getattr(args, "debug", False):
            traceback.print_exc()
        message, code = " ".join(str(error).split()) or type(error).__name__, exit_code(error)
        if code == EXIT_FAILURE:
            message = f"{type(error).__name__}: {message}"
    print(f"scissorhands {args.command}: error: {message}", file=sys.stderr)
    return code


def exit_code(error: Exception) -> int:
    """2 for errors that name an argument, a file or a model of the user's; 1 for the rest."""
    if isinstance(error, OSError):
        return EXIT_FAILURE if error.errno in _MACHINE_ERRORS else EXIT_USAGE
    return EXIT_USAGE if isinstance(error, (ValueError, ImportError)) else EXIT_FAILURE
