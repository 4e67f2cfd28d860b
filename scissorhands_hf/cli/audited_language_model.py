"""`scissorhands audit MODEL --forget … --retain …`: options and run for language models."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..audit.language.audit_settings import LanguageAuditData, LanguageAuditSettings
from ..trainer.run_progress import RunProgress
from .options import UsageError, add_fields, field_names, take
from .terminal import Terminal


if TYPE_CHECKING:
    from ..report.language_report import LanguageReport

REPORT_FILE, TABLE_FILE, PLOT_FILE = "audit_report.json", "audit.md", "audit.png"
_DESCRIPTION = "Rows are named as SOURCE or SOURCE?COLUMN=VALUE: a file (.jsonl, .json, .csv, .parquet, or .txt with a text in \
each line), or a data set as ID, ID:CONFIG or ID:CONFIG@SPLIT. Columns: question and answer (TOFU's), prompt and completion, \
messages, instruction and output, or text."


def add_language_options(parser: argparse.ArgumentParser) -> None:
    """The options of an audit of language models, each absent unless given."""
    add_fields(parser, LanguageAuditData, title="language models: what is compared", description=_DESCRIPTION)
    add_fields(parser, LanguageAuditSettings, title="language models: how")


def language_option_names() -> list[str]:
    """Of [`add_language_options`]."""
    return [*field_names(LanguageAuditData), *field_names(LanguageAuditSettings)]


def audit_language_folder(model_id: str, given: dict[str, Any], terminal: Terminal) -> LanguageReport:
    """
    Audit a language model by its Hub id or folder.

    Args:
        model_id (`str`):
            The model in question; its tokenizer is used for all.
        given (`dict[str, Any]`):
            Options by name; those that are used are taken out.
        terminal (`Terminal`):
            Is told of each stage.

    Raises:
        UsageError: a required option is missing.
        ValueError, OSError: rows or models cannot be read or used.
    """
    for name in ("forget", "retain"):
        if name not in given:
            raise UsageError(f"--{name} is missing: the rows that were to be {'forgotten' if name == 'forget' else 'kept'}")
    data = LanguageAuditData(**take(given, field_names(LanguageAuditData)))
    settings = take(given, field_names(LanguageAuditSettings))
    LanguageAuditSettings(**settings)  # refuses what cannot be before anything is loaded

    from transformers import AutoTokenizer

    from ..audit.language.language_audit import audit_language_model
    from ..audit.language.row_files import read_rows

    with terminal.stage("load"):
        sets = {
            part: read_rows(place)
            for part in ("forget", "retain", "general", "holdout")
            if (place := getattr(data, part)) is not None
        }
        tokenizer = AutoTokenizer.from_pretrained(model_id)
    stages = _Stages(terminal)
    report = audit_language_model(
        model_id,
        tokenizer,
        **sets,
        original=data.original,
        retrained=data.retrained,
        reference=data.reference,
        dtype=given.pop("dtype", "auto"),
        device=given.pop("device", None) or default_device(),
        progress=stages.begin,
        **settings,
    )
    stages.end()
    return report


class _Stages:
    """Leaves a line for each stage of each model."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.name: str | None = None

    def begin(self, model: str, stage: str) -> None:
        self.end()
        self.name = f"{model}, {stage}"
        self.terminal.tell(RunProgress(self.name, 0, 1))

    def end(self) -> None:
        if self.name is not None:
            self.terminal.tell(RunProgress(self.name, 1, 1))


def default_device() -> str:
    """The first accelerator of CUDA that belongs to this process, or the CPU."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def save_audit(report: LanguageReport, folder: Path) -> None:
    """The report, its tables and its picture into a folder. No push publishes them: they may show forget data."""
    report.save(folder / REPORT_FILE)
    (folder / TABLE_FILE).write_text(report.to_markdown(), encoding="utf-8")
    report.plot(folder / PLOT_FILE)
