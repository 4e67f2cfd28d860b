"""Checks of a settings class's fields, by one wording: the field, its value, and what it must be. Imports nothing heavy."""

import dataclasses
import math
from typing import Any


def require(settings: Any, name: str, condition: bool, demand: str) -> None:
    """Raise ValueError `NAME=VALUE DEMAND` unless `condition` holds.

    Args:
        settings (`Any`):
            The object whose field it is.
        name (`str`):
            Of the field.
        condition (`bool`):
            What must hold.
        demand (`str`):
            Continues the sentence, as "must be > 0, as 1e-3".
    """
    if not condition:
        value = getattr(settings, name)
        raise ValueError(f"{name}={getattr(value, 'value', value)!r} {demand}")  # of an enumeration the plain value


def require_choices(settings: Any, dataclass: type) -> None:
    """Raise ValueError for the first field of `dataclass` with `choices` in its metadata whose value is none of them, nor left
    open where None is the default."""
    for field in dataclasses.fields(dataclass):
        if choices := field.metadata.get("choices"):
            known, value = ", ".join(map(repr, choices)), getattr(settings, field.name)
            open_ = value is None and field.default is None
            require(settings, field.name, open_ or value in choices, f"is not one of {known}")


def require_count(settings: Any, *names: str) -> None:
    """Raise ValueError for the first of the fields `names` that is no whole number of at least 1."""
    for name in names:
        value = getattr(settings, name)
        require(settings, name, math.isfinite(value) and int(value) == value >= 1, "must be a whole number >= 1")


def require_not_negative(settings: Any, *names: str) -> None:
    """Raise ValueError for the first of the fields `names` that is no finite number of at least 0."""
    for name in names:
        value = getattr(settings, name)
        require(settings, name, math.isfinite(value) and value >= 0, "must be a number >= 0")
