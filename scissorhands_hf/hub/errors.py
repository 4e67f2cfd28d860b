"""What can go wrong between a finished run and the Hub, each with one message that says what to do."""

import shlex
from pathlib import Path


class HubPushError(RuntimeError):
    """A push failed; the result is complete on disk.

    Args:
        kind: "token", "read-only", "missing", "taken", "offline", "conflict", "rejected" or "server".
        reason: what happened and what to do about it, in one or two sentences.
        directory: the folder with the complete result, if there is one.
        repo_id: where it was to go.
        options: of `scissorhands push` that the push was made with.
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
