"""The last snapshots of sessions, for clients who come back by a session's name."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import replace
from typing import Protocol

from x2sam_rt.serve.messages import Packet, Resume


class Snapshots(Protocol):
    """Where they are kept: in the server's memory, or on a cluster in one place for all servers."""

    def keep(self, session: str, snapshot: Packet) -> None:
        """In place of the one before. Never waits. snapshot: a `Resume` with its bytes."""

    def forget(self, session: str) -> None:
        """A session that was closed."""

    async def find(self, session: str) -> Packet | None:
        """None: there is none, or it was too old."""


class KeptSnapshots:
    """At most so many bytes of them, none older than `seconds`; the oldest go first."""

    def __init__(self, most_bytes: int, seconds: float) -> None:
        self._most_bytes, self._seconds = most_bytes, seconds
        self._kept: OrderedDict[str, tuple[float, Packet]] = OrderedDict()
        self.bytes = 0

    def keep(self, session: str, snapshot: Packet) -> None:
        self.forget(session)
        self._kept[session] = time.monotonic(), snapshot
        self.bytes += len(snapshot.payload)
        while self.bytes > self._most_bytes or self._oldest_is_late():
            self.forget(next(iter(self._kept)))

    def forget(self, session: str) -> None:
        if session in self._kept:
            self.bytes -= len(self._kept.pop(session)[1].payload)

    def find(self, session: str) -> Packet | None:
        while self._oldest_is_late():
            self.forget(next(iter(self._kept)))
        return self._kept[session][1] if session in self._kept else None

    def _oldest_is_late(self) -> bool:
        return bool(self._kept) and time.monotonic() - next(iter(self._kept.values()))[0] > self._seconds


class SnapshotsHere:
    """In this process."""

    def __init__(self, most_bytes: int, seconds: float) -> None:
        self._kept = KeptSnapshots(most_bytes, seconds)

    def keep(self, session: str, snapshot: Packet) -> None:
        self._kept.keep(session, snapshot)

    def forget(self, session: str) -> None:
        self._kept.forget(session)

    async def find(self, session: str) -> Packet | None:
        return self._kept.find(session)


def going_on(first: Packet, kept: Packet) -> Packet:
    """The first message of a client who comes back, with what was kept of the session."""
    assert isinstance(first.message, Resume), "asked by name"
    assert isinstance(kept.message, Resume), "kept as what resumes it"
    return replace(kept, message=first.message.model_copy(update={"frames": kept.message.frames, "session": None}))
