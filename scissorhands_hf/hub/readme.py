"""The README of a run: our part, made by `card`, stands between two marker lines; the rest is the user's and stays."""

import logging
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.utils import httpx

from ..report.card_options import check_choices
from ..report.disclosure import is_concept_report, plot_values
from .card import BEGIN, END, build_card
from .connection import UploadRefusedError
from .folder import link_or_copy, weight_digests
from .probe_section import draw_probes, plot_names, read_probes
from .run import CARD_NAME, ERASURE_PLOT, PLOT_NAME, SavedRun, load_run


logger = logging.getLogger(__name__)

_LINE = r"^{}[ \t]*\r?$"
# Written by hand on the Hub as often as by us: what stands there wins, unless the user says otherwise in this run.
HAND_MADE = ("license", "license_name", "license_link", "language")
_LISTS = ("tags", "datasets", "metrics", "language")
# What a model has from its base model's card.
INHERITED = ("license", "license_name", "license_link", "language")


def write_card(
    directory: str | Path, repo_id: str | None = None, accept_weights: bool = False, probes: Any = None, **options: Any
) -> Path:
    """
    Write `README.md` and `unlearning.png` for a saved run, from its report. What the user wrote there stays. Needs no network.

    Args:
        directory (`str` or `Path`):
            `output_dir` of a trainer, or the folder of a pipeline's `save_pretrained`.
        repo_id (`str`, *optional*):
            Hub id for the snippet.
        accept_weights (`bool`, *optional*, defaults to `False`):
            The weights were replaced on purpose since the report was written.
        probes (`ProbeReport` or `str` or `Path` or a list of them, *optional*):
            Reports of [`~scissorhands_hf.audit.probe_concept`] on this pipeline, or where they were saved, in the place of
            those that its card showed before; an empty list for none.
        options (*optional*):
            Fields of [`~scissorhands_hf.report.CardOptions`] to change and keep.

    Returns:
        `Path`: of the card.

    Raises:
        UploadRefusedError: no run was saved there, or it cannot be told which part of `README.md` is the user's.
        ValueError: an option that the card or the Hub would not take.
    """
    run = load_run(directory)
    run.info.update(**options)
    set_probes(run, probes)
    run.info.repo_id = repo_id or run.info.repo_id
    if accept_weights:
        run.info.weights = weight_digests(run.directory, run.info.library, run.info.variant)
    return write_readme(run, plot=draw_plot(run))


def write_readme(run: SavedRun, plot: bool) -> Path:
    """Make a run's card and merge it into the README in its folder; `plot`: whether `unlearning.png` lies there."""
    card = build_card(run.info, run.report, plot=plot, probe_plots=drawn_probes(run))
    return save_readme(run, card, read_readme(run.directory))


def set_probes(run: SavedRun, probes: Any) -> None:
    """
    Have the card show reports of probes; None leaves it as it is.

    Raises:
        ValueError: the run is not that of a pipeline, or see [`probe_section.read_probes`].
    """
    if probes is None:
        return
    if run.info.library != "diffusers":
        raise ValueError("probes: they are of pipelines; what an audit of a language model found belongs into its report")
    run.info.probes = read_probes(probes)


def drawn_probes(run: SavedRun) -> list[str]:
    """Draw the pictures of probes that may be shown; their names, none without matplotlib."""
    try:
        draw_probes(run.info, run.directory)
    except ImportError:
        logger.warning("The card has no picture of probes: matplotlib is missing (pip install 'scissorhands_hf[demo]')")
        return []
    return plot_names(run.info)


def save_readme(run: SavedRun, card: ModelCard, existing: str | None) -> Path:
    """Merge a card into the text of a README, and write it and the card's options to the run's folder."""
    path = run.directory / CARD_NAME
    text = merge(card, existing, frozenset(run.info.explicit))
    path.write_text(text, encoding="utf-8", newline="")
    run.info.save(run.directory)
    return path


def read_readme(directory: Path) -> str | None:
    """Text of the README in a folder, None if there is none."""
    path = directory / CARD_NAME
    return path.read_text(encoding="utf-8") if path.is_file() else None


def draw_plot(run: SavedRun) -> bool:
    """Draw what the disclosure allows to `unlearning.png`; a pipeline's own picture, which shows prompts, only stays with
    `disclose="full"`. False, and no picture, without matplotlib or anything to draw."""
    path = run.directory / PLOT_NAME
    own = run.directory / ERASURE_PLOT
    if is_concept_report(run.report) and (run.info.disclose, run.info.pictures) == ("full", "all") and own.is_file():
        path.unlink(missing_ok=True)
        link_or_copy(own, path)
        return True
    path.unlink(missing_ok=True)
    try:
        plot_values(run.report, run.info.disclose).plot(path)
    except ImportError:
        logger.warning("The card has no plot: matplotlib is missing (pip install 'scissorhands_hf[demo]')")
        return False
    except ValueError:  # neither figures nor losses nor a cut
        return False
    return True


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


def user_text(text: str) -> tuple[str, str]:
    """Of a whole README: the user's text before and after our part."""
    return split(ModelCard(text, ignore_metadata_errors=True).text)


def merge(new: ModelCard, existing: str | None, explicit: frozenset[str] = frozenset()) -> str:
    """The new card with what users wrote into `existing`: text outside the markers, metadata of their own, more tags.

    Figures in the metadata (model-index) of a card that is not ours are dropped: they were measured on other weights.

    Args:
        new (`ModelCard`):
            A fresh card whose body is our part alone.
        existing (`str`, *optional*):
            Text of the README to update.
        explicit (`frozenset[str]`, *optional*, defaults to `frozenset()`):
            Metadata keys that the user set in this run; they win over what is there.
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


def local_card_values(name_or_path: str | os.PathLike | None) -> dict[str, Any]:
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
