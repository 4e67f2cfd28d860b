"""Pushes a saved run: builds the one folder that may be seen, checks it, and commits it in one piece."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete

from .base import hub_card_values
from .card import PLOT_NAME
from .check import check_choice, check_diffusers, check_digests, check_fp16_copies, check_transformers
from .connection import Connection, hub_cause, quoted_options
from .errors import HubPushError
from .markers import newest
from .privacy import check_private, secrets
from .render import SavedRun, draw_plot, load_run, render
from .staging import CARD_NAME, no_longer_ours, stage


logger = logging.getLogger(__name__)
# How often a card is merged anew because someone else changed the repository in between.
_MERGES = 4


@dataclass(frozen=True)
class Destination:
    """Where a push goes.

    Args:
        repo_id: "owner/name", or "name" in the token's own namespace.
        revision: branch, created if need be; None for the default one.
        private: True to create it private and to refuse a public one; None for the account's default.
        create_pr: open a pull request instead of changing the branch; the repository must exist.
        commit_message: first line of the commit.
        exist_ok: False to refuse a repository that exists.

    Raises:
        ValueError: a pull request against a branch, which the Hub cannot open.
    """

    repo_id: str
    revision: str | None = None
    private: bool | None = None
    create_pr: bool = False
    commit_message: str = "Upload unlearned model"
    exist_ok: bool = True

    def __post_init__(self):
        if self.create_pr and self.revision not in (None, "main"):
            raise ValueError(
                f"create_pr=True opens a pull request against the default branch; leave out revision={self.revision!r}"
            )
        if not self.commit_message or not self.commit_message.strip():
            raise ValueError("commit_message is empty; give the commit a first line")

    def options(self) -> tuple[str, ...]:
        """Of `scissorhands push`, for the same destination."""
        return quoted_options(revision=self.revision, private=self.private, create_pr=self.create_pr)


def push_folder(
    directory: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload unlearned model",
    exist_ok: bool = True,
    token: str | None = None,
    check: str = "full",
    **choices: Any,
) -> CommitInfo:
    """Push what a trainer or pipeline saved in ``directory``.

    Only files of an allow-list go up, in one commit: configurations, tokenizers, safetensors weights, the card, and the part
    of the report that `disclose` allows. Before anything is sent, the folder is reloaded with the stock library, its weights
    are compared with those that the report was written for, and every byte is searched for tokens and paths of this machine.
    Other weights in the repository, such as those from before, are deleted in the same commit; its history keeps them.

    Args:
        directory: output_dir of a trainer, or the folder of a pipeline's `save_pretrained`.
        repo_id, revision, private, create_pr, commit_message, exist_ok: see :class:`Destination`.
        token: access token; None for the stored one.
        check: "full" or "weights", see :mod:`.check`. No live model is at hand here, so both only reload.
        choices: fields of the card to change, see :func:`.render.write_card`.

    Returns:
        The commit; `pr_url` is that of the pull request.

    Raises:
        UploadRefusedError: the folder is not fit to be published; nothing was sent.
        HubPushError: the Hub or the line would not have it; the folder is complete and the message says how to go on.
        ValueError: an argument out of range.
    """
    destination = Destination(repo_id, revision, private, create_pr, commit_message, exist_ok)
    return push_run(load_run(directory), destination, token=token, check=check, **choices)


def push_run(
    run: SavedRun,
    destination: Destination,
    *,
    token: str | None = None,
    check: str = "full",
    live: Any = None,
    probe: Any = None,
    keep: bool = True,
    **choices: Any,
) -> CommitInfo:
    """As :func:`push_folder`, compared with the ``live`` model or pipeline where there is one.

    Args:
        keep: write card and choices back into the run's folder; False for a checkpoint, which is its trainer's.
    """
    check_choice(check)
    run.info.update(**choices)
    with staged(run, check=check, live=live, probe=probe, token=token, keep=keep) as (folder, names):
        return upload(run, folder, names, destination, token=token, keep=keep)


@contextmanager
def staged(
    run: SavedRun, *, check: str, live: Any = None, probe: Any = None, token: str | None = None, keep: bool = True
) -> Iterator[tuple[Path, list[str]]]:
    """The checked folder of what may be uploaded, but for the card, which depends on what the Hub has; gone afterwards.

    Raises:
        UploadRefusedError: it is not fit to be published.
    """
    info, directory = run.info, run.directory
    if live is None:
        check_digests(directory, info.library, info.weights, info.variant)
    draw_plot(run)
    local_card = _read(directory / CARD_NAME) if keep else None
    if keep:
        (directory / CARD_NAME).write_text(render(run, local_card), encoding="utf-8", newline="")
        info.save(directory)
    # On the run's own disk, so that weights need not be copied.
    with tempfile.TemporaryDirectory(prefix=".scissorhands-upload-", dir=directory) as temporary:
        folder = Path(temporary)
        names = stage(directory, folder, info, run.public_report)
        (folder / CARD_NAME).write_text(render(run, local_card), encoding="utf-8", newline="")
        check_private(folder, [*names, CARD_NAME], secrets([token], [directory, *_paths(live)]))
        if info.library == "diffusers":
            check_diffusers(folder, live, check, info.variant)
        else:
            check_transformers(folder, live, check, probe)
        if info.fp16_variant:
            check_fp16_copies(folder, info.library)
        yield folder, names


def upload(
    run: SavedRun, folder: Path, names: list[str], destination: Destination, *, token: str | None = None, keep: bool = True
) -> CommitInfo:
    """Create or reuse the repository and commit the staged folder with the card merged into the one that is there.

    Raises:
        HubPushError: see :func:`push_folder`.
    """
    directory = run.directory if keep else None
    hub = Connection(token, directory, destination.repo_id, destination.options())
    hub.repo_id = repo_id = open_repository(hub, destination)
    _inherit(run, token)
    local_card = _read(run.directory / CARD_NAME) if keep else None
    for attempt in range(_MERGES):
        head, existing = _head(hub, repo_id, destination)
        remote_card = _remote_card(hub, repo_id, head) if CARD_NAME in existing else None
        card = render(run, newest(local_card, remote_card), repo_id, plot=PLOT_NAME in names)
        stale = no_longer_ours(existing, [*names, CARD_NAME])
        try:
            commit = _commit(hub, repo_id, folder, names, card, stale, head, destination)
            break
        except HubPushError as error:
            if error.kind != "conflict" or attempt == _MERGES - 1:
                raise
            logger.warning("%s changed during the push; merging again", repo_id)
    if stale:
        logger.warning(
            "Taken out of %s: %s. Its history still holds them; HfApi().super_squash_history(%r) removes that.",
            repo_id,
            ", ".join(stale[:8]) + (f" and {len(stale) - 8} more" if len(stale) > 8 else ""),
            repo_id,
        )
    if keep:
        run.info.repo_id = repo_id
        (run.directory / CARD_NAME).write_text(card, encoding="utf-8", newline="")
        run.info.save(run.directory)
    return commit


def open_repository(hub: Connection, destination: Destination) -> str:
    """Check the token, create or find the repository and the branch. Returns the full id.

    Raises:
        HubPushError: see :func:`push_folder`.
    """
    who = hub.who()
    repo_id = destination.repo_id if "/" in destination.repo_id else f"{who['name']}/{destination.repo_id}"
    hub.repo_id = repo_id
    if not destination.create_pr:
        repo_id = hub(
            hub.api.create_repo, repo_id, private=destination.private, exist_ok=destination.exist_ok, repo_type="model"
        ).repo_id
        # create_repo is content with any repository that can be read, so it proves no permission.
        hub(hub.api.auth_check, repo_id, write=True)
    try:
        found = hub(hub.api.repo_info, repo_id)
    except HubPushError as error:
        if error.kind == "missing" and not destination.create_pr:
            raise hub.error("taken", f"The name {repo_id} is taken by a repository that the token may not see.") from error
        raise
    if destination.private and not found.private:
        raise hub.error(
            "taken",
            f"private=True, but {repo_id} exists and is public. Make it private in its settings, choose another name, or leave "
            "private out.",
        )
    revision = destination.revision
    if revision is not None and not revision.startswith("refs/"):
        hub(hub.api.create_branch, repo_id, branch=revision, exist_ok=True)
    return repo_id


def _head(hub: Connection, repo_id: str, destination: Destination) -> tuple[str | None, list[str]]:
    """Commit and files of the branch as it is now."""
    info = hub(hub.api.repo_info, repo_id, revision=destination.revision)
    return info.sha, [sibling.rfilename for sibling in info.siblings or ()]


def _remote_card(hub: Connection, repo_id: str, head: str | None) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        path = hub(hub.api.hf_hub_download, repo_id, CARD_NAME, revision=head, local_dir=temporary)
        return Path(path).read_text(encoding="utf-8-sig")


def _commit(
    hub: Connection,
    repo_id: str,
    folder: Path,
    names: list[str],
    card: str,
    stale: list[str],
    head: str | None,
    destination: Destination,
) -> CommitInfo:
    """One commit, or none. Files that are on the Hub already are not sent again, so calling it again resumes an upload."""

    def once() -> CommitInfo:
        operations = [
            CommitOperationAdd(CARD_NAME, card.encode("utf-8")),
            *(CommitOperationAdd(name, folder / name) for name in names),
            *(CommitOperationDelete(name) for name in stale),
        ]
        with warnings.catch_warnings():
            # The validator's remarks on metadata, such as an unknown licence, are for the log.
            warnings.simplefilter("default")
            return hub.api.create_commit(
                repo_id,
                operations,
                commit_message=destination.commit_message,
                repo_type="model",
                revision=destination.revision,
                create_pr=destination.create_pr,
                parent_commit=head,
            )

    if not destination.create_pr:
        return hub(once)
    # A commit whose answer got lost would open a second pull request if it were sent again. Send files first, then commit once.
    operations = [CommitOperationAdd(name, folder / name) for name in names]
    hub(hub.api.preupload_lfs_files, repo_id, operations, create_pr=True, free_memory=False)
    try:
        return once()
    except Exception as error:
        cause = hub_cause(error)
        if cause is None:
            raise
        raise hub.translate(cause) from error


def _inherit(run: SavedRun, token: str | None) -> None:
    """Licence and language of a base model on the Hub, where neither the user nor a local card gave them."""
    if run.info.base_model and run.info.license is None:
        for key, value in hub_card_values(run.info.base_model, token).items():
            if not getattr(run.info, key):
                setattr(run.info, key, value)


def _paths(live: Any) -> list[str]:
    """Local folders that a live model or pipeline was loaded from."""
    parts = [live, *getattr(live, "components", {}).values()] if live is not None else []
    names = []
    for part in parts:
        config = getattr(part, "config", None)
        names.append(config.get("_name_or_path") if isinstance(config, Mapping) else getattr(part, "name_or_path", None))
    return [name for name in names if isinstance(name, str) and Path(name).is_absolute()]


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
