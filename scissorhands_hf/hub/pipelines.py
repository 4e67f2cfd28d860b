"""Saves and pushes a diffusers pipeline that was made to forget, with its card."""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo

from ..report.card_options import CardOptions
from ..report.strips import CELL, compose_strip
from .card import may_show_kept
from .connection import UploadRefusedError
from .folder import FP16, component_folders, file_stamps, remove_unwritten, weight_digests, write_fp16_copies
from .probe_section import read_probes
from .push import Destination, push_run
from .readme import draw_plot, local_card_values, write_readme
from .run import ERASURE_PLOT, PICTURE_FOLDER, SavedRun, hub_id_of, pipeline_info
from .verify import check_choice, stock_class


logger = logging.getLogger(__name__)

# Prompts of each group, and pictures of each prompt, that a card shows.
_PROMPTS_SHOWN, _PICTURES_SHOWN = 3, 4


def save_pipeline(pipe: Any, directory: str | Path, **options: Any) -> Path:
    """
    Save a pipeline as stock diffusers does, and beside it the card, the report, and pictures before and after.

    A pipeline from which nothing was erased is saved as stock diffusers does, without a card. What a push would refuse to
    publish, such as a note with the name of this machine's user, is no reason not to save it.

    Args:
        pipe (`DiffusionPipeline`):
            Of its `erasure_reports` (oldest first) the card is made.
        directory (`str` or `Path`):
            Where to.
        reports (`list[ConceptErasureReport]`, *optional*):
            Instead of `pipe.erasure_reports`.
        fp16_variant (`bool`, *optional*, defaults to `False`):
            Also write half-precision weights, as `variant="fp16"` loads them.
        variant (`str`, *optional*):
            Name of the variant to save as, as in stock diffusers; `"fp16"` only for weights that are float16.
        probes (`ProbeReport` or `str` or `Path` or a list of them, *optional*):
            Reports of [`~scissorhands_hf.audit.probe_concept`] on this pipeline, or where they were saved: the card shows them.
        safe_serialization (`bool`, *optional*, defaults to `True`):
            Only `True`; pickled weights are not written.
        options (*optional*):
            Fields of [`~scissorhands_hf.report.CardOptions`]; `disclose` is `"full"` unless it is given, and the base model
            what the pipeline was loaded by. Any others are arguments of the stock `save_pretrained`.

    Returns:
        `Path`: of the card, or of `directory` without one.

    Raises:
        ValueError: an argument out of range.
    """
    run = save_run(pipe, Path(directory), **options)
    if run is None:
        return Path(directory)
    try:
        return write_readme(run, plot=draw_plot(run))
    except UploadRefusedError as error:
        logger.warning("The pipeline was saved, but not its card. %s", error)
        return run.directory


def save_run(
    pipe: Any,
    directory: Path,
    *,
    reports: Sequence[Any] | None = None,
    fp16_variant: bool = False,
    variant: str | None = None,
    safe_serialization: bool = True,
    probes: Any = None,
    **options: Any,
) -> SavedRun | None:
    """As [`save_pipeline`], but for the card; None for a pipeline from which nothing was erased."""
    given = {name: options.pop(name) for name in CardOptions().card_options() if name in options}
    card = CardOptions(**given)
    if not safe_serialization:
        raise ValueError("safe_serialization=False writes pickles, which can run code when they are loaded; leave it True")
    if options.pop("push_to_hub", False):
        raise ValueError("push_to_hub=True: save first, then call pipe.push_to_hub(repo_id)")
    if variant == FP16 and fp16_variant:
        raise ValueError('give variant="fp16" (half precision alone) or fp16_variant=True (beside full precision), not both')
    if variant is not None and not re.fullmatch(r"[A-Za-z0-9_]+", variant):
        raise ValueError(f"variant={variant!r} becomes a part of file names; use letters, digits and underscores, as 'fp16'")
    _check_variant_type(pipe, variant)
    probed = [] if probes is None else read_probes(probes)
    reports = list(reports if reports is not None else getattr(pipe, "erasure_reports", ()))
    stock = stock_class(pipe)
    before = {path: file_stamps(path) for path in directory.glob("*") if path.is_dir()}
    stock.save_pretrained(pipe, directory, safe_serialization=True, variant=variant, **options)
    for path, stamps in before.items():
        remove_unwritten(path, stamps)
    if stock.__name__ != type(pipe).__name__:
        # diffusers writes the name of the object's class, which nobody else has.
        index = directory / "model_index.json"
        values = {**json.loads(index.read_text(encoding="utf-8")), "_class_name": stock.__name__}
        index.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    if not reports:
        return None
    info = pipeline_info(stock.__name__)
    source = pipe.name_or_path
    info.base_model = hub_id_of(source)
    for name, value in local_card_values(source).items():
        setattr(info, name, value)
    info.update(**given)
    info.variant, info.fp16_variant = variant, fp16_variant
    if fp16_variant:
        for folder in component_folders(directory, info.library).values():
            write_fp16_copies(folder)
    info.weights = weight_digests(directory, info.library, variant)
    info.reports = [report.to_dict() for report in reports]
    info.probes = probed
    info.strips = _save_pictures(reports[-1], directory, card.pictures)
    info.save(directory)
    reports[-1].save(directory)
    if card.pictures == "all":
        _draw(reports[-1], directory / ERASURE_PLOT)
    else:
        (directory / ERASURE_PLOT).unlink(missing_ok=True)
    return SavedRun(directory, info, info.reports[-1])


def push_pipeline(
    pipe: Any,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    exist_ok: bool = True,
    token: str | None = None,
    check: str = "full",
    local_dir: str | Path | None = None,
    **save_options: Any,
) -> CommitInfo:
    """Save a pipeline as [`save_pipeline`] does and push it as [`push.push_folder`] does.

    Args:
        pipe (`Any`):
            A pipeline from which something was erased.
        repo_id, revision, private, create_pr, commit_message, exist_ok (`str`):
            See [`push.Destination`].
        token (`str`, *optional*):
            Access token; None for the stored one.
        check (`str`, *optional*, defaults to `"full"`):
            "full" reloads the pipeline from the folder and compares weights and latents with the live one (which needs
            memory for two); "weights" leaves the latents out.
        local_dir (`str` or `Path`, *optional*):
            Folder to save to and keep. By default a temporary one, which is kept if the push fails.
        save_options (*optional*):
            Of [`save_pipeline`].

    Returns:
        The commit; `pr_url` is that of the pull request.

    Raises:
        ValueError: nothing was erased, or an argument is out of range.
        UploadRefusedError: what was saved is not the live pipeline, or would give away something private; nothing was sent.
        HubPushError: the Hub or the line would not have it; the message names the folder and the command to go on with.
    """
    check_choice(check)
    if not (save_options.get("reports") or getattr(pipe, "erasure_reports", ())):
        raise ValueError(
            "nothing was erased from this pipeline: pipe.erasure_reports is empty. Call pipe.erase_concept(...) first, or push "
            "the pipeline as it is with diffusers' own push_to_hub."
        )
    message = commit_message or f"Upload unlearned {stock_class(pipe).__name__}"
    destination = Destination(repo_id, revision, private, create_pr, message, exist_ok)
    kept = local_dir is not None
    directory = Path(local_dir) if kept else Path(tempfile.mkdtemp(prefix=f"{repo_id.rpartition('/')[2]}-"))
    try:
        run = save_run(pipe, directory, **save_options)
        commit = push_run(run, destination, token=token, check=check, live=pipe)
    except (UploadRefusedError, ValueError):
        if not kept:
            shutil.rmtree(directory)
        raise
    if not kept:
        shutil.rmtree(directory)
    return commit


def _check_variant_type(pipe: Any, variant: str | None) -> None:
    if variant != FP16:
        return
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and getattr(part, "dtype", torch.float16) != torch.float16:
            raise ValueError(
                f'variant="fp16", but {name} is {part.dtype}: the file would not be what its name says. Use '
                "pipe.to(torch.float16) first, or fp16_variant=True to write half-precision copies beside full precision."
            )


def _save_pictures(report: Any, directory: Path, choice: str) -> list[dict[str, str]]:
    """Before/after strips of the first prompts of each group as PNG. File names are counted, never made of a prompt."""
    folder = directory / PICTURE_FOLDER
    if folder.is_dir():
        shutil.rmtree(folder)
    if choice == "none" or not getattr(report, "pictures", None):
        return []
    groups = {row.prompt: row.group for row in report.prompts}
    shown: dict[str, int] = {}
    entries = []
    for prompt, pair in report.pictures.items():
        group = groups.get(prompt, "concept")
        if (choice == "kept" and not may_show_kept(group)) or shown.get(group, 0) >= _PROMPTS_SHOWN:
            continue
        if not pair.get("original") or not pair.get("unlearned"):
            continue
        shown[group] = shown.get(group, 0) + 1
        folder.mkdir(exist_ok=True)
        entry = {"prompt": prompt, "group": group}
        for side, model in (("before", "original"), ("after", "unlearned")):
            name = f"{PICTURE_FOLDER}/{len(entries) + 1:02d}-{side}.png"
            compose_strip(pair[model][:_PICTURES_SHOWN], side=max(CELL, *pair[model][0].size)).save(directory / name)
            entry[side] = name
        entries.append(entry)
    return entries


def _draw(report: Any, path: Path) -> None:
    try:
        report.plot(path)
    except ImportError:
        logger.warning("The card has no plot: matplotlib is missing (pip install 'scissorhands_hf[demo]')")
    except ValueError:  # nothing to draw
        path.unlink(missing_ok=True)
