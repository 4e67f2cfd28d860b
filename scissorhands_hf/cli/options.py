"""Options made from dataclasses, and read from a YAML file as well as from the command line.

None has a default here, so that what was left out is absent and the defaults stay where they are defined. `--help` lists what
plain dataclasses hold; the flags of a configuration that needs transformers, and so seconds, are added when a word is met that
is none of those.
"""

import argparse
import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any


# Fields of a configuration that are no flags: commands have --output and their own --debug, the rest is not the user's to say.
NO_FLAGS = ("output_dir", "debug", "applied_recipe")
_WORDS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


class UsageError(ValueError):
    """The command line asks for something that cannot be."""


class CommandParser(argparse.ArgumentParser):
    """
    A parser that looks up further flags only when it meets a word that it does not know.

    Args:
        further (`Callable[[Collection[str]], argparse.ArgumentParser]`, *optional*):
            Makes a parser of the further flags, without those that have one of the names given.
        kwargs (*optional*):
            As for `argparse.ArgumentParser`.
    """

    def __init__(self, *args: Any, further: Callable[[Collection[str]], argparse.ArgumentParser] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.further = further

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As ever; also `--help` ends here, before anything is imported."""
        if self.further is None:
            return super().parse_known_args(args, namespace)
        # The first pass may take values of flags that it does not know for something else: only its verdict counts.
        found, unknown = super().parse_known_args(args, argparse.Namespace(**vars(namespace or argparse.Namespace())))
        if not unknown:
            return found, unknown
        return self.complete.parse_known_args(args, namespace)

    @functools.cached_property
    def complete(self) -> argparse.ArgumentParser:
        """A parser of these and the further flags."""
        further = [] if self.further is None else [self.further(self.names())]
        return argparse.ArgumentParser(
            prog=self.prog, usage=self.usage, parents=[self, *further], add_help=False, allow_abbrev=False
        )

    def names(self) -> list[str]:
        """Of the options that are listed, as attributes of the parsed arguments."""
        return [action.dest for action in self._actions]  # argparse has no public list of them

    def all_names(self) -> list[str]:
        """Of all options."""
        return [action.dest for action in self.complete._actions]


def add_fields(
    parser: argparse.ArgumentParser,
    *plain: type,
    title: str | None = None,
    description: str | None = None,
    defaults: bool = True,
) -> None:
    """
    A flag for each field of plain dataclasses; a field that another one has, too, is listed once.

    Args:
        parser (`argparse.ArgumentParser`):
            To add to.
        plain (*optional*):
            Dataclasses; their fields have `help`, and perhaps `choices`, as metadata.
        title, description (`str`, *optional*):
            Of the group that they are listed in; without a title they stand among the parser's own.
        defaults (`bool`, *optional*, defaults to `True`):
            Whether the help says what an option is when it is left out.
    """
    group = parser if title is None else parser.add_argument_group(title, description)
    known = {action.dest for action in parser._actions}
    for dataclass in plain:
        hints = typing.get_type_hints(dataclass)
        for field in dataclasses.fields(dataclass):
            if field.init and field.name not in known:
                known.add(field.name)
                add_option(group, field.name, hints[field.name], _help(field, defaults), choices=field.metadata.get("choices"))


def add_option(group: Any, name: str, hint: Any, help: str, **settings: Any) -> None:
    """
    An option that is absent unless it was given, spelt with underscores or hyphens.

    Args:
        group (`Any`):
            A parser, or a group of one.
        name (`str`):
            Of the option; the last part of it stands for its value.
        hint (`Any`):
            `str`, `int`, `float`, `bool` or a list of them, perhaps `| None`.
        help (`str`):
            In words.
        settings (*optional*):
            Further ones of `add_argument`.
    """
    kind = _kind(hint)
    values = {"type": kind, "metavar": name.rpartition("_")[2].upper()}
    if typing.get_origin(kind) is list:
        values |= {"type": typing.get_args(kind)[0], "nargs": "+"}
    elif kind is bool:
        # Not a plain switch, so that it can be switched off, and that a YAML file can hold it as `name: true`.
        values |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    if settings.get("choices"):
        values.pop("metavar")  # argparse names the choices
    flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    group.add_argument(*flags, default=argparse.SUPPRESS, help=help.replace("%", "%%"), **{**values, **settings})


def _kind(hint: Any) -> Any:
    """The type that a value is converted to: the hint without `None`."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _boolean(word: str) -> bool:
    if word.lower() not in _WORDS:
        raise argparse.ArgumentTypeError(f"{word!r} is neither yes nor no")
    return _WORDS[word.lower()]


def _help(field: dataclasses.Field, with_default: bool) -> str:
    text = field.metadata["help"].rstrip(".")
    if not with_default or field.default in (None, dataclasses.MISSING) or "default" in text.lower():
        return text
    return f"{text}; default: {field.default}"


def flags_of(load: Callable[[], type], without: Collection[str]) -> argparse.ArgumentParser:
    """
    A parser of a flag for each field of a configuration of transformers.

    Args:
        load (`Callable[[], type]`):
            Imports the class.
        without (`Collection[str]`):
            Names of fields that get no flag.
    """
    from transformers import HfArgumentParser

    dataclass = load()
    hints = typing.get_type_hints(dataclass)
    fields = [
        (field.name, hints[field.name], dataclasses.field(default=argparse.SUPPRESS, metadata=field.metadata))
        for field in dataclasses.fields(dataclass)
        if field.init and field.name not in {*without, *NO_FLAGS}
    ]
    return HfArgumentParser(dataclasses.make_dataclass(dataclass.__name__, fields), add_help=False, allow_abbrev=False)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """`--debug` and `--verbose`, which may stand before or after the sub-command's name."""
    missing = {"action": "store_true", "default": argparse.SUPPRESS}
    parser.add_argument("--debug", help="show the traceback of an error", **missing)
    parser.add_argument("--verbose", help="show the libraries' bars, losses and warnings, and notes on the run", **missing)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """
    What was given, by name: the options in the `--config` file, overridden by those on the command line.

    Raises:
        UsageError: the file is missing or no YAML mapping, or has a name that is no option.
        SystemExit: an option's value in the file is of the wrong kind; argparse says so and exits with 2.
    """
    mine = ("options", "command", "debug", "verbose")
    given = {name: value for name, value in _present(args).items() if name not in mine}
    path = given.pop("config", None)
    if path is None:
        return given
    options: CommandParser = args.options
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
        near = difflib.get_close_matches(name, options.all_names(), n=1)
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


def take(given: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Those of the options that have one of the names; they are taken out of `given`."""
    return {name: given.pop(name) for name in names if name in given}


def field_names(dataclass: type) -> list[str]:
    return [field.name for field in dataclasses.fields(dataclass)]
