"""Waits that end: a suite that hangs tells nobody why."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 300.0  # seconds; nothing in the suite takes a tenth of it


@contextmanager
def ends_in_time(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Around reading what a process says: one that says nothing more is killed, and the reading ends."""
    timer = threading.Timer(PATIENCE, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def join_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"{thread.name} still runs after {PATIENCE:g} s"
