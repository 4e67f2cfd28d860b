"""Several processes that share a folder of results: each run is made by one of them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def claimed(target: Path) -> Iterator[bool]:
    """Whether this process alone works on ``target``; a claim whose process has died does not count."""
    claim = target.with_suffix(".claim")
    if not _took(claim):
        try:
            owner = claim.read_text()
        except FileNotFoundError:  # done meanwhile
            yield False
            return
        if Path(f"/proc/{owner}").exists():
            yield False
            return
        claim.unlink(missing_ok=True)
        if not _took(claim):
            yield False
            return
    try:
        yield True
    finally:
        claim.unlink(missing_ok=True)


def _took(claim: Path) -> bool:
    """Put the file there with this process's number in it, at once, unless it is there."""
    with tempfile.NamedTemporaryFile("w", dir=claim.parent, prefix=".claim-") as written:
        written.write(str(os.getpid()))
        written.flush()
        try:
            os.link(written.name, claim)
        except FileExistsError:
            return False
    return True
