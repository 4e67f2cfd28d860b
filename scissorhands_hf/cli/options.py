"""Options made from dataclasses, and read from a YAML file as well as from the command line.

None has a default here, so that what was left out is absent and the defaults stay where they are defined.
"""

import argparse
import dataclasses
import difflib
import json
import os
import typing
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool


class UsageError(ValueError):
    """The command line asks for something that cannot be."""


def options_of(dataclass: type, *, without: Collection[str] = (), hidden: Collection[str] = ()) -> HfArgumentParser:
    """
    A parser with a flag for each field of a configuration, to be extended and then used as parent of a sub-command's parser.

    Args:
        dataclass: such as ScissorhandsConfig.
        without: names of fields that get no flag.
        hidden: names of fields whose flag works but is not listed by `--help`.
    """
    hints = typing.get_type_hints(dataclass)
    fields = []
    for field in dataclasses.fields(dataclass):
        if not field.init or field.name in {*without, "debug"}:  # every command has its own --debug
            continue
        metadata = {**field.metadata, "help": argparse.SUPPRESS} if field.name in hidden else field.metadata
        fields.append((field.name, hints[field.name], dataclasses.field(default=argparse.SUPPRESS, metadata=metadata)))
    # HfArgumentParser lists the flags of a dataclass that has this attribute under that heading.
    heading = {"_argument_group_name": f"settings ({dataclass.__name__})"}
    source = dataclasses.make_dataclass(dataclass.__name__, fields, namespace=heading)
    return HfArgumentParser(source, usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False)


def field_names(dataclass: type) -> set[str]:
    return {field.name for field in dataclasses.fields(dataclass)}


def add_command(
    subparsers: Any, name: str, options: argparse.ArgumentParser, *, usage: str, help: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """A sub-command with `options`, all of which a YAML file after `--config` may hold; see :func:`given_options`.

    Args:
        subparsers: of the main parser.
        usage: what follows the name on the command line.
        help: one line, epilog: examples.
    """
    options.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="YAML file of options by name; flags override it"
    )
    parser = subparsers.add_parser(
        name, parents=[options], usage=f"scissorhands {name} {usage}", help=help, description=help, epilog=epilog,
        allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_debug_option(parser)
    parser.set_defaults(options=options)
    return parser


def add_debug_option(parser: argparse.ArgumentParser) -> None:
    """`--debug`, which may stand before or after the sub-command's name."""
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error")


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """
    What was given, by name: the options in the `--config` file, overridden by those on the command line.

    Raises:
        UsageError: the file is missing or no YAML mapping, or has a name that is no option.
        SystemExit: an option's value in the file is of the wrong kind; argparse says so and exits with 2.
    """
    given = {name: value for name, value in _present(args).items() if name not in ("options", "command", "debug")}
    path = given.pop("config", None)
    if path is None:
        return given
    options: argparse.ArgumentParser = args.options
    words: list[str] = []
    # argparse itself converts and checks the file's values, as it does those on the command line.
    for key, value in _read_yaml(path).items():
        flag = f"--{str(key).replace('-', '_')}"
        if value is None:
            continue
        if isinstance(value, bool):
            # YAML reads the plain word no, a value that some options have, as false.
            value = "yes" if value else "no"
        if isinstance(value, list):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={json.dumps(value) if isinstance(value, dict) else value}")
    options.prog = f"scissorhands {args.command} --config {path}"
    from_file, unknown = options.parse_known_args(words)
    if unknown:
        name = unknown[0].removeprefix("--").partition("=")[0]
        known = [action.dest for action in options._actions]  # argparse has no public list of them
        near = difflib.get_close_matches(name, known, n=1)
        raise UsageError(f"--config {path}: {name!r} is no option" + (f"; did you mean {near[0]!r}?" if near else ""))
    if "config" in from_file:
        raise UsageError(f"--config {path}: a file cannot name another one with 'config'")
    return {**_present(from_file), **given}


def _present(args: argparse.Namespace) -> dict[str, Any]:
    """HfArgumentParser gives a list that was left out the default None in spite of SUPPRESS; no flag has that value."""
    return {name: value for name, value in vars(args).items() if value is not None}


def _read_yaml(path: str) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config {path}: there is no such file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is no YAML: {error}") from error
    if values is not None and not isinstance(values, dict):
        raise UsageError(f"--config {path} must hold options as 'name: value' lines, not a {type(values).__name__}")
    return values or {}


def require(given: dict[str, Any], names: Sequence[str]) -> None:
    """Raise UsageError for the first of `names` that was not given."""
    for name in names:
        if given.get(name) is None:
            raise UsageError(f"--{name} is missing; give it on the command line or in the --config file")


def add_output_options(options: argparse.ArgumentParser, content: str) -> None:
    """`--output DIR` and `--overwrite`; see :func:`check_output`."""
    missing = {"default": argparse.SUPPRESS}
    options.add_argument("--output", metavar="DIR", help=f"folder for {content} and its report; required", **missing)
    # Not a plain switch, so that a YAML file can hold it as `overwrite: true`.
    switch = {"nargs": "?", "const": True, "type": string_to_bool, "metavar": "BOOL"}
    options.add_argument("--overwrite", help="write into a folder that is not empty", **switch, **missing)


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


def is_main_process() -> bool:
    """Whether this process prints and saves: the only one, or the first under `accelerate launch`."""
    return int(os.environ.get("RANK", "0")) == 0
