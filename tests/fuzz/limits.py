"""What one input may take: a second of work, and twice the memory that it honestly needs."""

from __future__ import annotations

import gc
import mmap
import struct
import time
from collections.abc import Callable
from pathlib import Path

MOST_SECONDS = 1.0
ROOM = 16 * 2**20  # of allocators and decoders, which keep pages for the next call
_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_HEAD = struct.Struct("QQ")


class Limits:
    """Runs inputs one by one and raises TimeoutError or MemoryError for one that took more than it may.

    Of most inputs one number is looked at, the process's peak. One that raised it is run once more, alone, and its own
    peak is measured (Linux only).
    """

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()  # what stays for good is not looked through again whenever a peak is measured
        self._peak = 0
        if _RESET.exists():
            _RESET.write_text("5")
            self._peak = _resident("VmHWM")

    def run(self, call: Callable[[], object], need: Callable[[], int]) -> None:
        """need: bytes that this input honestly needs; asked for only where it matters."""
        began = time.process_time()
        call()
        if (seconds := time.process_time() - began) > MOST_SECONDS:
            raise TimeoutError(f"{seconds:.1f} s for one input")
        if _RESET.exists() and _resident("VmHWM") > self._peak:
            taken, most = peak_alone(call), 2 * need() + ROOM
            self._peak = max(self._peak, _resident("VmHWM"))
            if taken > most:
                raise MemoryError(f"{taken:,} bytes for one input; wanted at most {most:,}")


def peak_alone(call: Callable[[], object]) -> int:
    """Resident bytes that a call took at its height, beyond what was there before it."""
    gc.collect()
    _RESET.write_text("5")
    before = _resident("VmRSS")
    call()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Bytes. (`getrusage` knows a peak too, but one that a process inherits and nothing lowers.)"""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


class Progress:
    """How many inputs a process has begun, and the last of them, in a file that outlives it."""

    def __init__(self, path: Path, most: int = 2**20) -> None:
        if not path.exists():
            path.write_bytes(bytes(_HEAD.size + most))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)
        self._most = most

    def begin(self, data: bytes) -> None:
        self._shared[_HEAD.size : _HEAD.size + min(len(data), self._most)] = data[: self._most]
        self._shared[: _HEAD.size] = _HEAD.pack(self.count + 1, min(len(data), self._most))

    @property
    def count(self) -> int:
        return int(_HEAD.unpack(self._shared[: _HEAD.size])[0])

    @property
    def last(self) -> bytes:
        length = _HEAD.unpack(self._shared[: _HEAD.size])[1]
        return self._shared[_HEAD.size : _HEAD.size + length]
