"""Who is here and what is theirs: a folder for each visitor, found only by secrets, given back when they leave.

Everything of a visitor (the unlearned pipeline, pictures, reports) lies in one folder with a random name. It is found by the
page's session hash, or by a random handle which the visitor's own browser keeps, so that signing in, which loads the page anew,
does not lose the model. A folder goes when its visitor has been gone or idle for a while, or when others need the room.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spaces_demo.jobs import CancelFlag
from spaces_demo.limits import RefusedError


logger = logging.getLogger(__name__)

# Where the pipeline and the language model of a session are left.
MODEL_FOLDER, LANGUAGE_FOLDER = "unlearned", "forgotten"


@dataclass
class Session:
    """One visitor's things.

    Args:
        handle: secret by which the visitor's browser finds the session again after a reload.
        folder: all that is on disk.
        erased, forgotten: what the Erase page and the Language model page made last, None before.
        latest: the name of the one of these two that was made last.
        running: runs at work in the folder, which must stay.
        waiting: whether a run of the page waits for its turn.
    """

    handle: str
    folder: Path
    erased: Any = None
    forgotten: Any = None
    latest: str | None = None
    last_used: float = field(default_factory=time.monotonic)
    left: float | None = None
    running: int = 0
    waiting: bool = False

    @property
    def cancel(self) -> CancelFlag:
        return CancelFlag(self.folder)

    @property
    def model_folder(self) -> Path:
        return self.folder / MODEL_FOLDER

    @property
    def language_folder(self) -> Path:
        return self.folder / LANGUAGE_FOLDER

    @property
    def empty(self) -> bool:
        """Whether nothing was made that would be lost."""
        return self.erased is None and self.forgotten is None

    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    def file(self, name: str) -> Path:
        """The path of a file directly in the folder.

        Raises:
            RefusedError: the name leads out of it, or is hidden.
        """
        path = self.folder / name
        if path.name != name or name.startswith(".") or path.resolve().parent != self.folder.resolve():
            raise RefusedError(f"{name[:60]!r} is not a plain file name.")
        return path


class SessionStore:
    """All sessions of this process. Thread-safe.

    Args:
        root: folder that becomes theirs; it is made with access for this user only.
        most: sessions kept at once; beyond, the longest unused goes.
        most_bytes: on disk, likewise.
        idle_seconds, grace_seconds: how long an idle session, and one whose page was closed, is kept.
    """

    def __init__(
        self,
        root: Path,
        most: int = 16,
        most_bytes: int = 20 * 10**9,
        idle_seconds: float = 3600,
        grace_seconds: float = 600,
    ):
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.root, self.most, self.most_bytes = root, most, most_bytes
        self.idle_seconds, self.grace_seconds = idle_seconds, grace_seconds
        self._by_page: dict[str, Session] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._all())

    def get(self, page: str) -> Session:
        """The session of a page (its session hash); made when it has none."""
        with self._lock:
            session = self._by_page.get(page)
            if session is None:
                handle = secrets.token_urlsafe(24)
                session = Session(handle, self.root / secrets.token_hex(16))
                session.folder.mkdir(mode=0o700)
                self._by_page[page] = session
            session.last_used, session.left = time.monotonic(), None
            self.sweep(keep=session)
            return session

    def claim(self, page: str, handle: str) -> Session | None:
        """Hand the session with this handle to a new page, if its old page was closed; else None."""
        with self._lock:
            for old_page, session in self._by_page.items():
                if secrets.compare_digest(session.handle, handle):
                    if session.left is None:
                        return None
                    del self._by_page[old_page]
                    self._discard(page)
                    self._by_page[page] = session
                    session.last_used, session.left = time.monotonic(), None
                    return session
        return None

    def knows(self, handle: str) -> bool:
        with self._lock:
            return any(secrets.compare_digest(session.handle, handle) for session in self._by_page.values())

    def leave(self, page: str) -> None:
        """The page was closed: stop what it started. Its folder goes after the grace time; at once if it holds nothing."""
        with self._lock:
            session = self._by_page.get(page)
            if session is None:
                return
            session.left = time.monotonic()
            if session.running:
                session.cancel.set()
            elif session.empty:
                self._discard(page)
            self.sweep()

    def sweep(self, keep: Session | None = None) -> None:
        """Give back what is no longer used. Sessions at work are left alone."""
        with self._lock:
            now = time.monotonic()
            for page, session in list(self._by_page.items()):
                gone = session.left is not None and now - session.left > self.grace_seconds
                if session is not keep and not session.running and (gone or now - session.last_used > self.idle_seconds):
                    self._discard(page)
            oldest_first = sorted(self._by_page.items(), key=lambda entry: entry[1].last_used)
            sizes = {page: session.size() for page, session in oldest_first}
            for page, session in oldest_first:
                if len(self._by_page) <= self.most and sum(sizes.values()) <= self.most_bytes:
                    break
                if session is not keep and not session.running:
                    self._discard(page)
                    del sizes[page]

    def close(self) -> None:
        """Delete everything."""
        with self._lock:
            self._by_page.clear()
            shutil.rmtree(self.root, ignore_errors=True)

    def _all(self) -> list[Session]:
        with self._lock:
            return list(self._by_page.values())

    def _discard(self, page: str) -> None:
        session = self._by_page.pop(page, None)
        if session is not None:
            shutil.rmtree(session.folder, ignore_errors=True)
            logger.info("A session's folder was given back; %d left", len(self._by_page))
