"""What the commands share that change a model: their options, the check of the output folder, and how they report."""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..report.card_options import CardOptions
from .options import (
    CommandParser,
    UsageError,
    add_common_options,
    add_fields,
    add_option,
    field_names,
    flags_of,
    given_options,
    take,
)
from .terminal import Terminal


_MORE = """\
Every field of transformers' TrainingArguments is a flag as well, and a name in the --config file. Used most:
--learning_rate, --num_train_epochs, --per_device_train_batch_size, --max_steps, --seed.
"""
_CARD = "Unless told otherwise, a classifier's card tells a summary of what was forgotten, and a pipeline's all of it."


def add_command(
    subparsers: Any,
    name: str,
    *,
    usage: str,
    help: str,
    examples: str,
    output: str,
    add_own: Callable[[argparse.ArgumentParser], None],
    settings: Sequence[type],
    recipe: str,
    configuration: Callable[[], type],
) -> argparse.ArgumentParser:
    """
    A sub-command's parser; all of its options may stand in a YAML file after `--config`.

    Args:
        subparsers (`Any`):
            Of the main parser.
        name (`str`):
            Of the command.
        usage (`str`):
            What follows the name on the command line.
        help (`str`):
            One line.
        examples (`str`):
            Shown at the end of the help.
        output (`str`):
            What is written to `--output`.
        add_own (`Callable[[argparse.ArgumentParser], None]`):
            Adds the options of this command alone.
        settings (`Sequence[type]`):
            Plain dataclasses of the method's settings.
        recipe (`str`):
            In words, which settings are taken when none are given.
        configuration (`Callable[[], type]`):
            Imports the class that the settings, and everything else that is given, are for.

    Returns:
        The parser, for the positional arguments.
    """

    def further(known: Any) -> argparse.ArgumentParser:
        return flags_of(configuration, known)

    options = CommandParser(usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False, further=further)
    add_option(options, "output", str, f"folder for {output} and its report; required", metavar="DIR")
    add_option(options, "overwrite", bool, "write into a folder that is not empty")
    add_own(options)
    add_option(options, "config", str, "YAML file of options by name; flags override it", metavar="FILE")
    add_fields(options, *settings, title="settings of the method", description=recipe)
    add_fields(options, CardOptions, title="what the card says", description=_CARD, defaults=False)
    parser = subparsers.add_parser(
        name, parents=[options], usage=f"scissorhands {name} {usage}", help=help, description=help, allow_abbrev=False,
        epilog=f"{_MORE}\n{examples}", formatter_class=argparse.RawDescriptionHelpFormatter, further=further,
    )  # fmt: skip
    add_common_options(parser)
    parser.set_defaults(options=options)
    return parser


@dataclass
class ModelRun:
    """
    A command that runs.

    Args:
        given (`dict[str, Any]`):
            Options by name, as far as they are for the configuration.
        card (`dict[str, Any]`):
            Options for the card.
        output (`str`):
            An empty folder, or one that may be overwritten.
        terminal (`Terminal`):
            Shows the work.
    """

    given: dict[str, Any]
    card: dict[str, Any]
    output: str
    terminal: Terminal

    def conclude(self, report: Any) -> None:
        """Print what was measured, and where the result is."""
        self.terminal.show(report)
        self.terminal.say(f"Saved to {self.output}")


@contextmanager
def model_run(args: argparse.Namespace, required: Sequence[str] = (), libraries: Sequence[str] = ()) -> Iterator[ModelRun]:
    """
    The parsed options, checked as far as that goes before anything is loaded, and a terminal for the work.

    Args:
        args (`argparse.Namespace`):
            Of the command.
        required (`Sequence[str]`, *optional*, defaults to `()`):
            Names of options that must be given, beside `output`.
        libraries (`Sequence[str]`, *optional*, defaults to `()`):
            To be made quiet beside transformers, datasets and the Hub's client.

    Raises:
        UsageError: an option is missing, or the folder cannot take the result.
        ValueError: the card cannot take what it is told.
    """
    given = given_options(args)
    writes = not given.get("dry_run")
    for name in (*required, *(["output"] if writes else [])):
        if name not in given:
            raise UsageError(f"--{name} is missing; give it on the command line or in the --config file")
    output, overwrite = given.pop("output", ""), given.pop("overwrite", False)
    if writes:
        check_output(output, overwrite)
    card = take(given, field_names(CardOptions))
    CardOptions(**card)  # refuses now what the card could not take in the end
    terminal = Terminal(
        verbose=getattr(args, "verbose", False),
        bars=not given.get("disable_tqdm", False),
        libraries=("transformers", "datasets", "huggingface_hub", *libraries),
    )
    if terminal.quiet:
        given["disable_tqdm"] = True
    with terminal:
        yield ModelRun(given, card, output, terminal)


def check_output(folder: str, overwrite: bool) -> None:
    """
    Make sure before the work that its result can be written.

    Raises:
        UsageError: the folder is not empty (unless `overwrite`), or it is a file.
        OSError: it cannot be made or written.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise UsageError(f"--output {folder} is a file; give a folder")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UsageError(f"--output {folder} is not empty; choose another folder, or add --overwrite")
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise PermissionError(f"--output {folder}: {existing} cannot be written to")
