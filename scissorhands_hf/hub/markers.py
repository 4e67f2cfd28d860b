"""A card that belongs to two: our part stands between two marker lines, the rest is the user's and survives every update."""

import re

from huggingface_hub import ModelCard
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from .errors import UploadRefusedError


BEGIN = "<!-- scissorhands:begin -->"
END = "<!-- scissorhands:end -->"
_LINE = r"^{}[ \t]*\r?$"
# Written by hand on the Hub as often as by us: what stands there wins, unless the user says otherwise in this run.
HAND_MADE = ("license", "license_name", "license_link", "language")
_LISTS = ("tags", "datasets", "metrics", "language")


def split(body: str) -> tuple[str, str]:
    """The user's text before and after our part, of a card's body; all of it is "after" where there is no part of ours.

    Raises:
        UploadRefusedError: one marker is missing, or one is there twice.
    """
    begins = list(re.finditer(_LINE.format(re.escape(BEGIN)), body, re.MULTILINE))
    ends = list(re.finditer(_LINE.format(re.escape(END)), body, re.MULTILINE))
    if not begins and not ends:
        return "", body.strip()
    if len(begins) != 1 or len(ends) != 1 or begins[0].start() > ends[0].start():
        raise UploadRefusedError(
            f"README.md does not hold the lines {BEGIN!r} and {END!r} once each, in this order, so it cannot be told which "
            "part is yours. Put them back around the generated part, or delete both to keep all of it below a new one."
        )
    return body[: begins[0].start()].strip(), body[ends[0].end() :].strip()


def has_part(text: str) -> bool:
    return re.search(_LINE.format(re.escape(BEGIN)), text, re.MULTILINE) is not None


def user_text(text: str) -> tuple[str, str]:
    """Of a whole README: the user's text before and after our part."""
    match = REGEX_YAML_BLOCK.search(text)
    return split(text[match.end() :] if match else text)


def merge(new: ModelCard, existing: str | None, explicit: frozenset[str] = frozenset()) -> str:
    """The new card with what users wrote into ``existing``: text outside the markers, metadata of their own, more tags.

    Figures in the metadata (model-index) of a card that is not ours are dropped: they were measured on other weights.

    Args:
        new: a fresh card whose body is our part alone.
        existing: text of the README to update.
        explicit: metadata keys that the user set in this run; they win over what is there.
    """
    before, after = user_text(existing) if existing else ("", "")
    metadata = new.data.to_dict()
    if existing and existing.strip():
        old = ModelCard(existing, ignore_metadata_errors=True).data.to_dict()
        old.pop("model-index", None)
        for key, value in old.items():
            if key in _LISTS and key in metadata and key not in HAND_MADE:
                metadata[key] = list(dict.fromkeys([*_as_list(metadata[key]), *_as_list(value)]))
            elif key not in metadata or (key in HAND_MADE and key not in explicit):
                metadata[key] = value
    data = type(new.data)(**metadata)
    parts = [before, new.text.strip(), after]
    body = "\n\n".join(part for part in parts if part)
    return f"---\n{data.to_yaml()}\n---\n\n{body}\n"


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def newest(local: str | None, remote: str | None) -> str | None:
    """Of a README on disk and one on the Hub, the one with the user's newer text.

    Raises:
        UploadRefusedError: both have text of the user that the other lacks.
    """
    if not local or not remote:
        return remote or local
    here, there = ({line.strip() for part in user_text(text) for line in part.splitlines()} - {""} for text in (local, remote))
    if here <= there:
        return remote
    if there <= here:
        return local
    raise UploadRefusedError(
        "README.md was edited both on this disk and on the Hub, and neither text holds the other. Copy what you wrote here "
        "into the one on the Hub, or the other way round, and push again."
    )
