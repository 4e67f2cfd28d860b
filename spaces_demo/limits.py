"""What a visitor may ask for, and the plain words in which more is refused. Every value from outside passes through here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


# Characters of a prompt or concept: beyond what the text encoders read (77 tokens), far below what could fill a page.
LONGEST_TEXT = 300
LONGEST_QUESTION = 200
MOST_CONCEPTS = 4
MOST_KEPT = 12
MOST_IMAGES = 8
PROBE_PICTURES = (12, 24)
SAMPLING_STEPS = (1, 50)
REPAIR_STEPS = (1, 600)
SEEDS = (0, 2**31 - 1)
GUIDANCE = (0.0, 20.0)
# Bytes of weights that a model from the Hub may have: training takes about four times as much, with gradients and optimizer.
LARGEST_MODEL = {"cpu": 2 * 10**9, "cuda": 8 * 10**9}

# What the Hub accepts as the name of a repository, with its owner.
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class RefusedError(ValueError):
    """Something a visitor asked for cannot be done; the message says what and what to do instead, in plain words."""


class CancelledError(Exception):
    """The visitor pressed Cancel, or left."""


@dataclass(frozen=True)
class EraseSettings:
    """The checked form of the Erase page. ``None`` leaves a setting to the recipe or to the package's default.

    Args:
        concepts: what to erase, 1 to :data:`MOST_CONCEPTS` texts.
        anchor: what to draw in its place.
        keep: prompts that must stay as they are.
        recipe, trim_ratio, forget_weight, steps, scope, projection: settings of the method; steps are optimizer steps.
        images: pictures for each prompt in the report.
        seed: of the whole run.
    """

    concepts: tuple[str, ...]
    anchor: str | None = None
    keep: tuple[str, ...] = ()
    recipe: str | None = None
    trim_ratio: float | None = None
    forget_weight: float | None = None
    steps: int | None = None
    scope: tuple[str, ...] = ()
    projection: bool | None = None
    images: int = 4
    seed: int = 0


def check_text(text: str | None, what: str, most: int = LONGEST_TEXT, example: str = "dress") -> str:
    """``text`` on one line without surrounding blanks.

    Raises:
        RefusedError: empty, longer than ``most`` characters, or with control characters.
    """
    text = " ".join((text or "").split())
    if not text:
        raise RefusedError(f"{what} is empty. Type a few words, for example: {example}")
    if len(text) > most:
        raise RefusedError(f"{what} has {len(text)} characters; at most {most} are read here.")
    if any(not character.isprintable() for character in text):
        raise RefusedError(f"{what} holds characters that cannot be shown. Type it in plain letters.")
    return text


def split_texts(text: str | None, what: str, most: int) -> tuple[str, ...]:
    """The texts between commas or on lines of their own, each checked; none for an empty field.

    Raises:
        RefusedError: too many, or one that :func:`check_text` refuses.
    """
    if text is not None and len(text) > most * (LONGEST_TEXT + 2):
        raise RefusedError(f"{what}: {len(text)} characters are too many.")
    parts = [part for part in re.split(r"[,\n]", text or "") if part.strip()]
    if len(parts) > most:
        raise RefusedError(f"{what}: {len(parts)} entries; at most {most} are taken at once.")
    return tuple(dict.fromkeys(check_text(part, what) for part in parts))


def check_number(
    value: float | str | None, what: str, lowest: float, highest: float, whole: bool = False
) -> float | int | None:
    """``value``, a number or a text that is one, within its range; ``None`` where it is left out.

    Raises:
        RefusedError: no number, or outside the range.
    """
    if isinstance(value, str):
        text = value.strip().replace(",", ".")
        try:
            value = float(text) if text else None
        except ValueError:
            raise RefusedError(f"{what}: {text[:40]!r} is not a number.") from None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise RefusedError(f"{what}: {str(value)[:40]!r} is not a number.")
    if not lowest <= value <= highest:
        raise RefusedError(f"{what} is {value:g}; it must be from {lowest:g} to {highest:g}.")
    if whole and value != int(value):
        raise RefusedError(f"{what} is {value:g}; it must be a whole number.")
    return int(value) if whole else float(value)


def check_repository(name: str | None, what: str = "The model") -> str:
    """A Hub id as ``owner/name``; never a path.

    Raises:
        RefusedError: anything else.
    """
    name = (name or "").strip().removeprefix("https://huggingface.co/").removesuffix("/")
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        raise RefusedError(f"{what} must be the id of a repository on the Hub, as owner/name; {name[:80]!r} is not.")
    return name


def check_erase(
    concepts: str | None,
    anchor: str | None = None,
    keep: str | None = None,
    *,
    recipe: str | None = None,
    recipes: Sequence[str] = (),
    trim_ratio: float | None = None,
    forget_weight: float | None = None,
    steps: float | None = None,
    scope: str | None = None,
    projection: bool | None = None,
    images: float | None = 4,
    seed: float | None = 0,
) -> EraseSettings:
    """Turn the fields of the Erase page into settings.

    Raises:
        RefusedError: the first field that does not fit.
    """
    names = split_texts(concepts, "The concept", MOST_CONCEPTS)
    if not names:
        raise RefusedError("The concept is empty. Type what the model should forget, for example: dress")
    anchor = check_text(anchor, "The anchor") if (anchor or "").strip() else None
    if anchor is not None and anchor.casefold() in {name.casefold() for name in names}:
        raise RefusedError(
            f"The anchor {anchor!r} is the concept itself; name something else to draw in its place, or nothing."
        )
    if recipe and recipe not in recipes:
        raise RefusedError(f"There is no recipe {recipe[:60]!r}. There are: {', '.join(recipes)}.")
    trim_ratio = check_number(trim_ratio, "The trim ratio", 0, 0.5)
    return EraseSettings(
        concepts=names,
        anchor=anchor,
        keep=split_texts(keep, "What is kept", MOST_KEPT),
        recipe=recipe or None,
        trim_ratio=trim_ratio,
        forget_weight=check_number(forget_weight, "λ", 0, 100),
        steps=check_number(steps, "The number of steps", *REPAIR_STEPS, whole=True),
        scope=split_texts(scope, "The scope", 8),
        projection=projection,
        images=check_number(images if images is not None else 4, "The number of images", 2, MOST_IMAGES, whole=True),
        seed=check_number(seed if seed is not None else 0, "The seed", *SEEDS, whole=True),
    )
