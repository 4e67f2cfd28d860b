"""What was erased from a pipeline before it was loaded: read from the folder or repository that it came from."""

import json
import logging
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RemoteEntryNotFoundError
from huggingface_hub.utils import httpx

from ..report import ConceptErasureReport
from ..report.disclosure import is_concept_report
from ..report.unlearning_report import REPORT_NAME
from .run import CardInfo, hub_id_of


logger = logging.getLogger(__name__)


def earlier_reports(source: str | Path | None) -> tuple[list[ConceptErasureReport], str | None]:
    """
    The erasures that a saved pipeline has behind it, so that a further one does not take what is gone for something to be
    kept, and the card names them all.

    Args:
        source (`str` or `Path`, *optional*):
            What the pipeline was loaded by: `pipe.name_or_path`. Of a folder the card's file is read (or the report alone, of a
            repository that was cloned), of a Hub id the report in the repository.

    Returns:
        `tuple[list[ConceptErasureReport], str | None]`: the reports without pictures, oldest first; and, where it could not be
        found out whether there are any, a sentence that says so.
    """
    if not source:
        return [], None
    folder = Path(source)
    if folder.is_dir():
        info = CardInfo.load(folder)
        if info is not None and info.reports:
            return [_report(values) for values in info.reports], None
        path = folder / REPORT_NAME
        if path.is_file():
            return _published(path)
    repository = hub_id_of(source)
    if repository is None:
        return [], None
    try:
        return _published(Path(hf_hub_download(repository, REPORT_NAME)))
    except RemoteEntryNotFoundError:
        return [], None  # the repository can be read, and has no report
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, httpx.TransportError) as error:
        return [], _unknown(f"{repository} could not be asked, {type(error).__name__}")


def _published(path: Path) -> tuple[list[ConceptErasureReport], str | None]:
    """Of a report as `report.save` or a push writes it."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return [], _unknown(f"its {REPORT_NAME} is damaged, {error}")
    if values.get("report") != ConceptErasureReport.kind:
        return [], None
    if not is_concept_report(values):
        return [], _unknown("its report does not disclose which")
    return [_report(entry) for entry in (*values.pop("earlier", []), values)], None


def _report(values: dict[str, Any]) -> ConceptErasureReport:
    own = {key: value for key, value in values.items() if key not in ("report", "average_gap")}
    return ConceptErasureReport.from_dict(own)


def _unknown(reason: str) -> str:
    return (
        f"It is not known what was erased from this pipeline before ({reason}). If something was, this run may take it for "
        "something to be kept, and the card does not name it; say so in the card's notes."
    )
