"""What a run takes: this process's anonymous memory and, of a GPU, what torch's allocator gave out, by stage, with seconds."""

import ctypes
import fcntl
import gc
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


# Of mallopt, and the size from which a block is mapped by itself.
M_MMAP_THRESHOLD, MAPPED_FROM = -3, 128 * 1024


def map_large_blocks() -> None:
    """Let glibc map every large block by itself, so that it is given back when it is freed. Left alone it raises the size from
    which it does, to that of what is freed (up to 32 MB), and keeps smaller blocks on a heap where what is freed between others
    stays a hole."""
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)


def anonymous() -> int:
    """Bytes of this process that belong to no file."""
    row = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("RssAnon"))
    return 1024 * int(row.split()[1])


class Watch:
    """Seconds of each stage, the largest `anonymous` in it, which a thread of its own looks up, and on a GPU the most that
    torch's allocator gave out and held."""

    def __init__(self, device: str) -> None:
        self.stage, self.device = "make", torch.device(device)
        self.anonymous: dict[str, int] = {}
        self.allocated: dict[str, int] = {}
        self.reserved: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self._base, self._began, self._over = anonymous(), time.perf_counter(), False
        self._processor = time.process_time()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over:
            self.anonymous[self.stage] = max(self.anonymous.get(self.stage, 0), anonymous() - self._base)
            time.sleep(0.02)

    def __call__(self, stage: str) -> None:
        if stage == self.stage:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            for found, most in (
                (self.allocated, torch.cuda.max_memory_allocated),
                (self.reserved, torch.cuda.max_memory_reserved),
            ):
                found[self.stage] = max(found.get(self.stage, 0), most(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)
        now = time.perf_counter()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self._began
        self._began, self.stage = now, stage

    def end(self) -> None:
        self("end")
        self._processor, self._over = time.process_time() - self._processor, True
        self._thread.join()
        self.anonymous.pop("end", None)

    def to_dict(self) -> dict[str, Any]:
        """The peak is of what the device holds once the weights are made."""
        peaks = self.anonymous if self.device.type == "cpu" else self.allocated
        peak = max(peaks[stage] for stage in peaks if stage != "make")
        found = {"peak": peak, "peaks": peaks, "seconds": self.seconds, "processor": self._processor}
        if self.device.type == "cuda":
            found |= {"reserved": self.reserved, "anonymous": self.anonymous}
        return found


def name_of(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


@contextmanager
def alone(lock: Path | None) -> Iterator[None]:
    """Wait for the others that are given the same file, and leave a line in it when it is one's turn."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        print(os.getpid(), file=file, flush=True)
        yield


def release() -> None:
    """Give back what is not used any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
