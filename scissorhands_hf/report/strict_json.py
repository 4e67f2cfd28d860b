"""JSON that every reader accepts: numbers that are not finite have no place in it."""

import json
import math
from typing import Any


def plain_numbers(values: Any) -> Any:
    """`values` with None in the place of every number that is not finite, at any depth."""
    if isinstance(values, dict):
        return {key: plain_numbers(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [plain_numbers(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def to_json(values: Any) -> str:
    """A file's text, indented, with a last newline; numbers that are not finite are `null`.

    Raises:
        TypeError: something has no place in JSON.
    """
    return json.dumps(plain_numbers(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
