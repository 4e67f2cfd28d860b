"""The Publish page: the card as it will stand on the Hub, a zip to take along, and the push.

Works on the folder that the Erase page left. The token comes with each call and is kept nowhere: not in an object that outlives
the call, not in a log, not in a message.
"""

from __future__ import annotations

import base64
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scissorhands_hf.trainer.run_progress import RunProgress
from spaces_demo.limits import RefusedError, check_repository, check_text


PUSH_STAGES = {"check": 2, "upload": 5}
ZIP_STAGES = {"check": 2, "files": 1}
DISCLOSURES = {
    "The name of the concept, prompts and pictures": "full",
    "Only how many concepts": "summary",
    "Nothing of it": "none",
}
LARGEST_PICTURE = 2 * 10**6  # bytes, in a preview


@dataclass(frozen=True)
class CardChoices:
    """What the visitor says about the model; checked by :func:`check_choices`.

    Args:
        repository: ``name`` or ``owner/name``.
        card: fields of `scissorhands_hf.report.CardOptions`.
    """

    repository: str | None
    card: dict[str, Any]


@dataclass(frozen=True)
class Pushed:
    """Where the model is now."""

    repository: str
    url: str
    private: bool


def check_choices(repository: str | None, disclosure: str | None, card: Mapping[str, Any], needed: bool = False) -> CardChoices:
    """The fields of the page.

    Args:
        repository: ``name`` or ``owner/name``; may be left empty unless ``needed``.
        disclosure: a key of :data:`DISCLOSURES`.
        card: further fields of `CardOptions` by name; empty ones are left out.

    Raises:
        RefusedError: the first field that does not fit.
    """
    from scissorhands_hf.report import CardOptions

    repository = (repository or "").strip()
    if needed or repository:
        repository = check_text(repository, "The repository's name")
        if "/" not in repository:
            check_repository(f"me/{repository}", "The repository's name")
        else:
            repository = check_repository(repository, "The repository's name")
    if disclosure not in DISCLOSURES:
        raise RefusedError(f"What the card tells must be one of: {'; '.join(DISCLOSURES)}.")
    given = {name: value.strip() if isinstance(value, str) else value for name, value in card.items()}
    given = {name: value for name, value in given.items() if value} | {"disclose": DISCLOSURES[disclosure]}
    try:
        CardOptions(**given)
    except ValueError as error:
        raise RefusedError(f"{error}."[:300]) from error
    return CardChoices(repository or None, given)


def card_of(folder: Path, choices: CardChoices) -> str:
    """The card's text, front matter and all, made from the run's own report.

    Raises:
        RefusedError: it cannot be written.
    """
    from scissorhands_hf.hub import UploadRefusedError, write_card

    try:
        path = write_card(folder, repo_id=choices.repository, **choices.card)
    except (UploadRefusedError, ValueError) as error:
        raise RefusedError(_without_paths(str(error), folder)) from error
    return path.read_text(encoding="utf-8")


def with_pictures(card: str, folder: Path) -> str:
    """The card with the pictures that lie beside it put into the text itself, for a preview; others are left out."""

    def inline(match: re.Match[str]) -> str:
        name = match["name"]
        path = folder / name
        plain = re.fullmatch(r"(?:[\w-]+/)?[\w-]+\.png", name)
        if plain is None or not path.is_file() or path.stat().st_size > LARGEST_PICTURE:
            return f"*(picture: {match['text']})*"
        return f"![{match['text']}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})"

    return re.sub(r"!\[(?P<text>[^\]]*)\]\((?P<name>[^)\s]*)\)", inline, card)


def make_zip(folder: Path, target: Path, choices: CardChoices, tell: Callable[[RunProgress], None]) -> Path:
    """What a push would upload, after the same checks, as a zip.

    Raises:
        RefusedError: the folder is not fit to be given away.
    """
    from scissorhands_hf.hub import UploadRefusedError
    from scissorhands_hf.hub.push import staged
    from scissorhands_hf.hub.readme import write_readme
    from scissorhands_hf.hub.run import PLOT_NAME, load_run

    tell(RunProgress("check", 0, 1))
    run = load_run(folder)
    run.info.update(**choices.card)
    partial = target.with_name(target.name + ".partial")
    try:
        # Weights hardly shrink: storing them saves the time.
        with (
            staged(run, check="weights") as (place, names),
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
        ):
            for number, name in enumerate(names):
                tell(RunProgress("files", number, len(names) + 1))
                archive.write(place / name, f"{target.stem}/{name}")
            tell(RunProgress("files", len(names), len(names) + 1))
            archive.write(write_readme(run, plot=PLOT_NAME in names), f"{target.stem}/README.md")
        partial.replace(target)
    except UploadRefusedError as error:
        raise RefusedError(_without_paths(str(error), folder)) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def push(folder: Path, choices: CardChoices, *, private: bool, token: str, tell: Callable[[RunProgress], None]) -> Pushed:
    """Check the folder and push it in one commit.

    Args:
        folder: of the unlearned pipeline.
        choices: with a repository's name.
        private: whether a new repository is private.
        token: of the visitor, for this call alone.
        tell: told how far it is.

    Raises:
        RefusedError: the Hub or the check would not have it, in plain words.
    """
    from huggingface_hub import constants

    from scissorhands_hf.hub import HubPushError, UploadRefusedError
    from scissorhands_hf.hub.push import Destination, staged, upload
    from scissorhands_hf.hub.run import load_run

    tell(RunProgress("check", 0, 1))
    try:
        run = load_run(folder)
        run.info.update(**choices.card)
        destination = Destination(choices.repository, private=private, commit_message="Upload unlearned model")
        with staged(run, check="weights", token=token) as (place, names):
            tell(RunProgress("upload", 0, 1))
            upload(run, place, names, destination, token=token)
            tell(RunProgress("upload", 1, 1))
    except HubPushError as error:
        # Without its context: that may hold the request, and with it the token.
        raise RefusedError(f"{error.reason} Your model is still here; push again, or take the zip.") from None
    except (UploadRefusedError, ValueError) as error:
        raise RefusedError(_without_paths(str(error), folder)) from None
    repository = run.info.repo_id or choices.repository
    return Pushed(repository, f"{constants.ENDPOINT}/{repository}", private)


def _without_paths(text: str, folder: Path) -> str:
    return text.replace(str(folder), "the model's folder").replace(str(folder.parent), "the model's folder")
