"""The last look before an upload: is there a token, a user name or a path of this machine in any file?"""

import getpass
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_token

from .errors import UploadRefusedError


_TOKEN = re.compile(rb"\bhf_[A-Za-z0-9]{30,}")
_HOME_FOLDER = re.compile(rb"(/home/|/Users/|[A-Za-z]:\\+Users\\+)[\w.-]+")
# Accounts that identify nobody.
_SHARED_ACCOUNTS = {"root", "user", "ubuntu", "admin", "runner", "jovyan", "ec2-user", "nobody", "vscode", "docker"}
# In these, a short path can stand by chance or by right: weights, and the vocabulary of a tokenizer.
_OPAQUE = (".safetensors", "tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", ".model", ".spm", ".codes", ".png")
_OPAQUE_LENGTH = 12
_CHUNK = 1 << 24


def secrets(tokens: Iterable[str | None] = (), paths: Iterable[str | os.PathLike | None] = ()) -> dict[bytes, str]:
    """What must not be in any file, with what to call it in an error: tokens, home, working and cache folders, given paths."""
    found: dict[bytes, str] = {}
    for token in (*tokens, get_token()):
        if isinstance(token, str) and len(token) >= 8:
            found[token.encode()] = "an access token"
    here = [Path.home(), Path.cwd(), tempfile.gettempdir(), constants.HF_HOME, *(path for path in paths if path)]
    for path in here:
        text = os.path.abspath(path)
        if len(Path(text).parts) > 1:
            found[text.encode()] = "a path of this machine"
    return found


def check_private(folder: Path, names: Iterable[str], needles: dict[bytes, str]) -> None:
    """Look through every byte of the files.

    Raises:
        UploadRefusedError: naming the first file with a secret in it, and not the secret.
    """
    for name in names:
        opaque = name.endswith(_OPAQUE)
        for block in _blocks(folder / name, max(map(len, needles), default=1)):
            for needle, what in needles.items():
                if (not opaque or len(needle) >= _OPAQUE_LENGTH) and _holds(block, needle):
                    _refuse(name, what)
            if not opaque and (_TOKEN.search(block) or _HOME_FOLDER.search(block)):
                _refuse(name, "an access token" if _TOKEN.search(block) else "a path of this machine")


def check_texts(values: Any, account: str | None = None) -> None:
    """Look for this machine's user name among the texts that users wrote: notes, names, descriptions.

    Raises:
        UploadRefusedError: with the text that holds it.
    """
    account = account or account_name()
    if account is None or len(account) < 3 or account.lower() in _SHARED_ACCOUNTS:
        return
    for text in _strings(values):
        if re.search(rf"(?<![\w/-]){re.escape(account)}(?![\w/-])", text, re.IGNORECASE):
            raise UploadRefusedError(f"a text that would be published holds the name of your account: {text!r}. Reword it.")


def account_name() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for its user
        return None


def _holds(block: bytes, needle: bytes) -> bool:
    """Whether the block has the needle by itself, not as a part of a longer name or address."""
    start = block.find(needle)
    while start >= 0:
        before, after = block[start - 1 : start] if start else b"", block[start + len(needle) : start + len(needle) + 1]
        if not (before.isalnum() or after.isalnum() or after in (b"_", b"-")):
            return True
        start = block.find(needle, start + 1)
    return False


def _refuse(name: str, what: str) -> None:
    raise UploadRefusedError(f"{name} holds {what} and is not uploaded. Take it out of the file, or save the model again.")


def _blocks(path: Path, overlap: int) -> Iterator[bytes]:
    """The file in blocks that overlap, so that nothing hides on a border."""
    with path.open("rb") as file:
        tail = b""
        while chunk := file.read(_CHUNK):
            yield tail + chunk
            tail = chunk[-overlap:]


def _strings(values: Any) -> Iterator[str]:
    if isinstance(values, str):
        yield values
    elif isinstance(values, dict):
        for key, value in values.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _strings(value)
