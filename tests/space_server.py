"""The Space as its visitors meet it: a copy of the folder alone, under another name, started as Spaces start it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


REPOSITORY = Path(__file__).resolve().parents[1]
SPACE = REPOSITORY / "spaces_demo"
START_SECONDS = 120


class SpaceServer:
    """Started at construction. ``seconds`` is how long it took to answer; ``log()`` is all that it printed."""

    def __init__(self, folder: Path, **environment: str):
        app = folder / "app"  # not "spaces_demo": nothing may hang on the folder's name
        shutil.copytree(SPACE, app, ignore=shutil.ignore_patterns("__pycache__"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self._log = folder / "log"
        started = time.perf_counter()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py"],
                cwd=app,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(REPOSITORY),
                    "GRADIO_SERVER_PORT": str(port),
                    "OMP_NUM_THREADS": "1",
                    "HF_HUB_OFFLINE": "1",
                    "TMPDIR": str(self.temporary),
                    **environment,
                },
            )
        while not self._answers():
            if self.process.poll() is not None or time.perf_counter() - started > START_SECONDS:
                self.close()
                raise RuntimeError(f"the Space did not start:\n{self.log()}")
            time.sleep(0.1)
        self.seconds = time.perf_counter() - started

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def memory(self) -> int:
        """Bytes of the server's memory that no other process shares."""
        import psutil

        return psutil.Process(self.process.pid).memory_full_info().uss

    def session_folders(self) -> list[Path]:
        return sorted(self.temporary.glob("scissorhands-space-*/sessions/*"))

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(20)
