"""What is inherited from the base model's card: licence and language."""

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.utils import httpx

from ..report.card_options import check_choices


logger = logging.getLogger(__name__)
INHERITED = ("license", "license_name", "license_link", "language")


def local_card_values(name_or_path: str | None) -> dict[str, Any]:
    """Licence and language from the README of a local base model, as far as it gives them."""
    path = Path(name_or_path) / "README.md" if name_or_path else None
    if path is None or not path.is_file():
        return {}
    return _values(ModelCard.load(path, ignore_metadata_errors=True))


def hub_card_values(base_model: str, token: str | None = None) -> dict[str, Any]:
    """The same from the base model's card on the Hub; empty, with a log line, where that cannot be read."""
    try:
        return _values(ModelCard.load(base_model, token=token, ignore_metadata_errors=True))
    except EntryNotFoundError:  # of which "cannot be reached" is one kind
        reason = "it has no card that can be read now"
    except (HfHubHTTPError, httpx.TransportError, ConnectionError, ValueError) as error:
        reason = type(error).__name__
    logger.warning("The licence of the base model %s is not known (%s); set it with license=...", base_model, reason)
    return {}


def _values(card: ModelCard) -> dict[str, Any]:
    values = {key: card.data.get(key) for key in INHERITED}
    if isinstance(values["language"], str):
        values["language"] = [values["language"]]
    usable = {}
    for key, value in values.items():
        checked = {"license": None, "language": None, key: value}
        try:
            if not isinstance(value, list if key == "language" else str) or not value:
                continue
            check_choices(None, checked["license"], checked["language"], None)
        except (ValueError, TypeError) as error:
            logger.warning("Not inherited from the base model's card: %s", error)
            continue
        usable[key] = value
    return usable
