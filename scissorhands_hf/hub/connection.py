"""Calls to the Hub: tried again when the line or the server fails for a moment, and one clear error when it stays so.

What can go wrong between a finished run and the Hub has two errors, each with one message that says what to do.
"""

import json
import logging
import os
import queue
import shlex
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_token, is_offline_mode
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx


logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_TRANSIENT = (429, 500, 502, 503, 504)
# Seconds before each further attempt. The client itself tries transfers again; creating, looking up and committing it does not.
_WAITS = (0.5, 1.0, 2.0, 4.0)
# Seconds that the first request may take; the client (huggingface_hub 2.4) sets no limit of its own and takes none.
FIRST_CONTACT_SECONDS = 20.0
_TOKENS = "https://huggingface.co/settings/tokens"


class HubPushError(RuntimeError):
    """A push failed; the result is complete on disk.

    Args:
        kind (`str`):
            "token", "read-only", "missing", "taken", "offline", "conflict", "rejected" or "server".
        reason (`str`):
            What happened and what to do about it, in one or two sentences.
        directory (`Path`, *optional*):
            The folder with the complete result, if there is one.
        repo_id (`str`, *optional*):
            Where it was to go.
        options (`tuple[str, ...]`, *optional*, defaults to `()`):
            Of `scissorhands push` that the push was made with.
    """

    def __init__(
        self,
        kind: str,
        reason: str,
        directory: Path | None = None,
        repo_id: str | None = None,
        options: tuple[str, ...] = (),
    ):
        self.kind = kind
        self.reason = reason
        self.directory = directory
        self.command = None
        message = reason
        if directory is not None and repo_id is not None:
            self.command = shlex.join(["scissorhands", "push", str(directory), repo_id, *options])
            message += f"\nThe result is complete in {directory}. Push it later with:\n    {self.command}"
        super().__init__(message)


class UploadRefusedError(ValueError):
    """A folder is not fit to be uploaded: it does not load as it should, or would give away something private."""


class Connection:
    """A Hub, a token and the name of the folder and repository for error messages.

    Args:
        token (`str`, *optional*):
            An access token; None for the one that `hf auth login` stored or HF_TOKEN holds.
        directory (`Path`, *optional*):
            The complete local result, named in errors.
        repo_id (`str`, *optional*):
            Where it is to go, named in errors.
        options (`tuple[str, ...]`, *optional*, defaults to `()`):
            Of the command that would push it later.
    """

    def __init__(
        self,
        token: str | None = None,
        directory: Path | None = None,
        repo_id: str | None = None,
        options: tuple[str, ...] = (),
    ):
        self.token = token
        self.directory, self.repo_id, self.options = directory, repo_id, options
        self.api = HfApi(token=token, library_name="scissorhands_hf")

    def __call__(self, function: Callable[..., Result], *arguments: Any, **keywords: Any) -> Result:
        """Call, again after failures that pass.

        Raises:
            HubPushError: for what the Hub or the line will not do.
        """
        for wait in (*_WAITS, None):
            try:
                return function(*arguments, **keywords)
            except Exception as error:
                cause = hub_cause(error)
                if cause is None:
                    raise
                if wait is None or not _passes(cause):
                    raise self.translate(cause) from error
                logger.warning("The Hub: %s; trying again in %s s", _short(cause), wait)
                time.sleep(wait)
        raise AssertionError("unreachable")

    def who(self) -> dict[str, Any]:
        """Who the token is of; the first contact, with a time limit.

        Raises:
            HubPushError: offline, no token, a wrong one, or one that can only read.
        """
        if is_offline_mode():
            raise self.error("offline", "HF_HUB_OFFLINE is set, so nothing is sent. Unset it to push.")
        if self.token is None and get_token() is None:
            raise self.error("token", "There is no access token. Log in with `hf auth login`, set HF_TOKEN, or pass a token.")

        who = self(within, FIRST_CONTACT_SECONDS, self.api.whoami)
        if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise self._read_only()
        return who

    def error(self, kind: str, reason: str) -> HubPushError:
        return HubPushError(kind, reason, self.directory, self.repo_id, self.options)

    def _read_only(self) -> HubPushError:
        return self.error(
            "read-only",
            f"The token may not write to {self.repo_id or 'repositories'} (read-only there, or the name is someone else's). "
            f"Make a token with write access at {_TOKENS}, or choose a name of your own.",
        )

    def translate(self, cause: Exception) -> HubPushError:
        """One message for what happened, with what to do."""
        repo = self.repo_id or "the repository"
        if isinstance(cause, OfflineModeIsEnabled):
            return self.error("offline", "HF_HUB_OFFLINE is set, so nothing is sent. Unset it to push.")
        if isinstance(cause, RevisionNotFoundError):
            return self.error("missing", f"{repo} has no such revision. Create the branch, or leave the revision out.")
        status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
        said = getattr(cause, "server_message", None) or ""
        if status == 401 and not isinstance(cause, RepositoryNotFoundError):
            return self.error(
                "token", f"The Hub does not know the token (401). Make one at {_TOKENS}, and log in with `hf auth login`."
            )
        if isinstance(cause, RepositoryNotFoundError) or status == 404:
            return self.error(
                "missing", f"{repo} does not exist, or the token may not see it (404). Check the name; create it if need be."
            )
        if status == 403:
            return self._read_only()
        if status == 409:
            return self.error("taken", f"The name {repo} is taken, or another change to it is going on (409{_also(said)}).")
        if status == 412:
            return self.error("conflict", f"{repo} was changed by someone else during the push (412). Push again.")
        if isinstance(cause, (BadRequestError, HFValidationError)) or (
            status is not None and 400 <= status < 500 and status != 429
        ):
            return self.error("rejected", f"The Hub rejected the upload ({_short(cause)}{_also(said)}).")
        if status is not None or isinstance(cause, json.JSONDecodeError):
            return self.error("server", f"The Hub failed several times ({_short(cause)}). Try again later.")
        return self.error(
            "offline",
            f"The Hub cannot be reached, or the connection broke and did not come back ({_short(cause)}). What was uploaded "
            "so far is not sent again.",
        )


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """The function's result, or a TimeoutError; the call itself is then left to end by itself, which nothing waits for."""
    answers: queue.SimpleQueue[tuple[Result | None, Exception | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            answers.put((function(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def hub_cause(error: Exception) -> Exception | None:
    """The error of the Hub or the line behind `error`, None if it is not one of those."""
    for link in _chain(error):
        # The client wraps what happens in a transfer in a RuntimeError; Xet fails with the built-in ConnectionError.
        if isinstance(link, HfHubHTTPError):
            return link
    for link in _chain(error):
        if isinstance(
            link, (httpx.TransportError, ConnectionError, TimeoutError, LocalEntryNotFoundError, json.JSONDecodeError)
        ):
            return link
    # The client (huggingface_hub 2.4) says only in words that the Hub rejects a card's metadata: a ValueError.
    if isinstance(error, HFValidationError) or "metadata in README.md" in str(error):
        return error
    return None


def _passes(cause: Exception) -> bool:
    """Whether waiting may help."""
    if isinstance(cause, HfHubHTTPError):
        return cause.response.status_code in _TRANSIENT
    return not isinstance(cause, (OfflineModeIsEnabled, HFValidationError)) and "metadata in README.md" not in str(cause)


def _short(cause: Exception) -> str:
    if isinstance(cause, HfHubHTTPError):
        return f"status {cause.response.status_code}"
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}{': ' + ' '.join(lines)[:200] if lines else ''}"


def _also(said: str) -> str:
    return f": {said[:200]}" if said else ""


def quoted_options(**values: Any) -> tuple[str, ...]:
    """Options of `scissorhands push` for what is not the default."""
    options: list[str] = []
    for name, value in values.items():
        if value is True:
            options.append(f"--{name}")
        elif value not in (None, False):
            options += [f"--{name}", os.fspath(value) if isinstance(value, os.PathLike) else str(value)]
    return tuple(options)
