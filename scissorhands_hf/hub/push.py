"""Pushes a saved run: builds the one folder that may be seen, checks it, and commits it in one piece."""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete

from .card import build_card
from .connection import Connection, HubPushError, hub_cause, quoted_options
from .folder import no_longer_ours, stage
from .readme import draw_plot, drawn_probes, hub_card_values, merge, newest, read_readme, save_readme, set_probes, user_text
from .run import CARD_NAME, PLOT_NAME, CardInfo, SavedRun, load_run
from .verify import check_bytes, check_choice, check_digests, check_loads, check_private, check_texts, secrets, strings


logger = logging.getLogger(__name__)
# How often a card is merged anew because someone else changed the repository in between.
_MERGES = 4


@dataclass(frozen=True)
class Destination:
    """Where a push goes.

    Args:
        repo_id (`str`):
            "owner/name", or "name" in the token's own namespace.
        revision (`str`, *optional*):
            Branch, created if need be; None for the default one.
        private (`bool`, *optional*):
            True to create it private and to refuse a public one; None for the account's default.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead of changing the branch; the repository must exist.
        commit_message (`str`, *optional*, defaults to `"Upload unlearned model"`):
            First line of the commit.
        exist_ok (`bool`, *optional*, defaults to `True`):
            False to refuse a repository that exists.

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
    probes: Any = None,
    **options: Any,
) -> CommitInfo:
    """Push what a trainer or pipeline saved in `directory`.

    Only files of an allow-list go up, in one commit: configurations, tokenizers, safetensors weights, the card, and the part
    of the report that `disclose` allows. Before anything is sent, the folder is reloaded with the stock library, its weights
    are compared with those that the report was written for, and every byte is searched for tokens and paths of this machine.
    Other weights in the repository, such as those from before, are deleted in the same commit; its history keeps them.

    Args:
        directory (`str` or `Path`):
            output_dir of a trainer, or the folder of a pipeline's `save_pretrained`.
        repo_id, revision, private, create_pr, commit_message, exist_ok (`str`):
            See [`Destination`].
        token (`str`, *optional*):
            Access token; None for the stored one.
        check (`str`, *optional*, defaults to `"full"`):
            "full" or "weights", see `verify`. No live model is at hand here, so both only reload.
        probes (`ProbeReport` or `str` or `Path` or a list of them, *optional*):
            Reports that the card shows, see [`readme.write_card`].
        options (*optional*):
            Fields of [`CardOptions`] to change, see [`readme.write_card`].

    Returns:
        The commit; `pr_url` is that of the pull request.

    Raises:
        UploadRefusedError: the folder is not fit to be published; nothing was sent.
        HubPushError: the Hub or the line would not have it; the folder is complete and the message says how to go on.
        ValueError: an argument out of range.
    """
    destination = Destination(repo_id, revision, private, create_pr, commit_message, exist_ok)
    run = load_run(directory)
    set_probes(run, probes)
    return push_run(run, destination, token=token, check=check, **options)


def push_run(
    run: SavedRun,
    destination: Destination,
    *,
    token: str | None = None,
    check: str = "full",
    live: Any = None,
    probe: Any = None,
    **options: Any,
) -> CommitInfo:
    """As [`push_folder`], compared with the `live` model or pipeline where there is one."""
    check_choice(check)
    run.info.update(**options)
    with staged(run, check=check, live=live, probe=probe, token=token) as (folder, names):
        return upload(run, folder, names, destination, token=token)


@contextmanager
def staged(
    run: SavedRun, *, check: str, live: Any = None, probe: Any = None, token: str | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """The checked folder of what may be uploaded, gone afterwards; without the card, which depends on what the Hub has.

    Raises:
        UploadRefusedError: it is not fit to be published, or a text for its card is not.
    """
    info, directory = run.info, run.directory
    if live is None:
        check_digests(directory, info.library, info.weights, info.variant)
    needles = secrets([token], [directory, *_paths(live)])
    existing = read_readme(directory) or ""
    user_text(existing)  # refuses one in which the user's part cannot be told
    texts = list(strings(run.public_texts))
    check_texts(texts)
    check_bytes(CARD_NAME, "\n".join([existing, *texts, *strings(info.card_options())]).encode(), needles)
    draw_plot(run)
    drawn_probes(run)
    # On the run's own disk, so that weights need not be copied.
    with tempfile.TemporaryDirectory(prefix=".scissorhands-upload-", dir=directory) as temporary:
        folder = Path(temporary)
        names = stage(directory, folder, info, run.public_report)
        check_private(folder, names, needles)
        check_loads(folder, info, live, check, probe)
        yield folder, names


def upload(run: SavedRun, folder: Path, names: list[str], destination: Destination, *, token: str | None = None) -> CommitInfo:
    """Create or reuse the repository and commit the staged folder with the card merged into the one that is there.

    Raises:
        HubPushError: see [`push_folder`].
    """
    hub = Connection(token, run.directory, destination.repo_id, destination.options())
    local_card, repo_id = read_readme(run.directory), None
    try:
        repo_id = open_repository(hub, destination)
        _inherit(run.info, token)
    finally:
        # After a failure, too: what is named in its message is complete.
        card = build_card(run.info, run.report, repo_id, plot=PLOT_NAME in names, probe_plots=names)
        save_readme(run, card, local_card)
    text, remote_card = "", None
    for attempt in range(_MERGES):
        head, existing = _head(hub, repo_id, destination)
        found = _remote_card(hub, repo_id, head) if CARD_NAME in existing else None
        if not text or found != remote_card:
            remote_card = found
            text = merge(card, newest(local_card, remote_card), frozenset(run.info.explicit))
        stale = no_longer_ours(existing, [*names, CARD_NAME])
        try:
            commit = _commit(hub, repo_id, folder, names, text, stale, head, destination)
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
    run.info.repo_id = repo_id
    (run.directory / CARD_NAME).write_text(text, encoding="utf-8", newline="")
    run.info.save(run.directory)
    return commit


def open_repository(hub: Connection, destination: Destination) -> str:
    """Check the token, create or find the repository and the branch. Returns the full id.

    Raises:
        HubPushError: see [`push_folder`].
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


def _inherit(info: CardInfo, token: str | None) -> None:
    """Licence and language of a base model on the Hub, where neither the user nor a local card gave them."""
    if info.base_model and info.license is None:
        for key, value in hub_card_values(info.base_model, token).items():
            if not getattr(info, key):
                setattr(info, key, value)


def _paths(live: Any) -> list[str]:
    """Local folders that a live model or pipeline was loaded from."""
    parts = [live, *getattr(live, "components", {}).values()] if live is not None else []
    names = [getattr(part, "name_or_path", None) for part in parts]
    # Models of diffusers 0.42 have no public name for what `from_pretrained` notes in their configuration.
    configs = [getattr(part, "config", None) for part in parts]
    names += [config.get("_name_or_path") for config in configs if isinstance(config, Mapping)]
    return [os.fspath(name) for name in names if isinstance(name, (str, os.PathLike)) and Path(name).is_absolute()]
