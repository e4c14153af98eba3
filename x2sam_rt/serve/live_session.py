"""A session as the server has it: between its client and the worker it lives on."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Protocol

from x2sam_rt.errors import ProtocolError
from x2sam_rt.serve.messages import (
    Answered,
    Ask,
    Clip,
    Close,
    Closed,
    Draining,
    Failed,
    Frame,
    Message,
    Open,
    Opened,
    Packet,
    Part,
    Result,
    Resume,
    Resumed,
    Saved,
)
from x2sam_rt.serve.metrics import Metrics
from x2sam_rt.serve.snapshots import Snapshots

_MOST_WAITING = 32  # messages that are no frames
_MOST_UNREAD = 4  # results; a client that reads slower gets fewer
_MOST_DROPPED = 1000  # numbers that are told with one result
_MOST_LOSSES = 2  # workers that may end in a row under one session


class Home(Protocol):
    """Where a session lives: a worker."""

    def send(self, packet: Packet) -> None: ...


@dataclass(frozen=True, eq=False)
class Waiting:
    packet: Packet
    since: float


class LiveSession:
    """Its worker has at most one of its frames; the others wait here, by the policy only the newest one. What it would
    take to go on with another worker is here too: how it began or its last snapshot, and the instructions since."""

    def __init__(
        self, number: int, name: str, first: Packet, home: Home, metrics: Metrics, snapshots: Snapshots | None
    ) -> None:
        """first: an `Open` or `Resume`. snapshots: where they are kept for a client who comes back; None = its worker
        takes none, and the session ends with it once a frame was segmented."""
        assert isinstance(first.message, Open | Resume), "streams begin with these"
        self.number, self.name, self.metrics, self._snapshots = number, name, metrics, snapshots
        self.drop, self._masks = first.message.drop, first.message.masks
        self.replies: asyncio.Queue[Packet] = asyncio.Queue()
        self.heard, self.results, self.ended = time.monotonic(), 0, False
        self._home = home
        self._origin: Packet | None = replace(first, session=number)
        self._asks: list[Packet] = []  # that the origin does not know of
        self._asked = 0  # of those that its worker has, how many the origin knows of
        self._kept = first.message.frames[-1][0] if isinstance(first.message, Resume) and first.message.frames else None
        self._waiting: deque[Waiting] = deque()
        self._room = asyncio.Event()
        self._in_flight: Waiting | None = None
        self._last_frame, self._losses = -1, 0
        self._dropped: deque[int] = deque(maxlen=_MOST_DROPPED)
        self.dropped = 0
        home.send(self._origin)
        self.tell(Opened(session=name))

    def come_back(self) -> None:
        """Goes on from a kept snapshot, which is kept on under its own name."""
        assert self._origin is not None, "it has just begun"
        if self._snapshots is not None:
            self._snapshots.keep(self.name, self._origin)
        self.tell(Resumed(frame=self._kept))

    def offer(self, packet: Packet) -> None:
        """What the client says. Raises ProtocolError for what has no place here."""
        message, self.heard = packet.message, time.monotonic()
        if isinstance(message, Open | Resume | Part):
            raise ProtocolError("The stream is open already; one connection is one stream.")
        if isinstance(message, Frame):
            self._require_newer(message)
            if self.drop == "oldest":
                self._drop_waiting()
        elif len(self._waiting) >= _MOST_WAITING:
            raise ProtocolError(f"{len(self._waiting)} messages wait already; wait for their answers.")
        self._waiting.append(Waiting(replace(packet, session=self.number), time.perf_counter()))
        self._pump()

    async def room(self) -> None:
        """Returns when the next message can be taken: at once, unless nothing may be dropped."""
        while self.drop == "never" and not self.ended and any(_is_frame(one) for one in self._waiting):
            self._room.clear()
            await self._room.wait()

    def hear(self, packet: Packet) -> None:
        """What the worker says."""
        match packet.message:
            case Result():
                self._give(packet, packet.message)
            case Saved() as saved:
                self._keep(packet, saved)
                if saved.wanted:
                    self.tell(saved, packet.payload)
            case Failed() as failed:
                self._failed(failed)
            case message:
                self.metrics.answers.inc(isinstance(message, Answered))
                self.tell(message)
        self._pump()

    def lost(self) -> bool:
        """Its worker is gone, and with it what it made of the frame at work, which is tried again unless a newer one
        may take its place. Returns whether the session can go on with another worker."""
        self._losses += 1
        if self._in_flight is not None and self.drop == "oldest" and any(map(_is_frame, self._waiting)):
            self._count_dropped(self._in_flight.packet.message)
        elif self._in_flight is not None:
            self._waiting.appendleft(self._in_flight)
        self._in_flight = None
        if self._origin is not None and self._losses <= _MOST_LOSSES:
            return True
        why = "no snapshot of it was taken" if self._origin is None else "each time it was this session's turn"
        self.end(Failed(code="worker_lost", message=f"What segmented the stream ended ({why}).", fatal=True))
        return False

    def go_on(self, home: Home) -> None:
        """With another worker, from the last snapshot."""
        assert self._origin is not None, "asked with lost()"
        self._home, self._asked = home, 0
        home.send(self._origin)
        for ask in self._asks:
            home.send(ask)
        self.tell(Resumed(frame=self._kept))
        self._pump()

    def end(self, last: Failed | None = None) -> None:
        """Tells so, and takes nothing any more. last: what it ended of."""
        if self.ended:
            return
        self.ended = True
        if last is not None:
            self.metrics.errors.labels(last.code).inc()
            self.tell(last)
        self.tell(Closed(results=self.results, dropped=self.dropped))
        self._waiting.clear()
        self._room.set()

    def drain(self, seconds: float) -> None:
        self.tell(Draining(seconds=seconds))

    def tell(self, message: Message, payload: bytes = b"") -> None:
        self.replies.put_nowait(Packet(message, payload))

    def read(self) -> None:
        """The client has read a reply."""
        self._pump()

    def _pump(self) -> None:
        """Sends what waits, up to a frame; the next frame goes when that one is back and its client reads."""
        while self._waiting and self._in_flight is None and not self.ended:
            if _is_frame(self._waiting[0]) and self.replies.qsize() >= _MOST_UNREAD:
                return
            waiting = self._waiting.popleft()
            if isinstance(waiting.packet.message, Close):
                self._forget()
                self.end()
                return
            self._send(waiting)
        self._room.set()

    def _send(self, waiting: Waiting) -> None:
        message = waiting.packet.message
        if isinstance(message, Frame):
            self._in_flight = waiting
        elif isinstance(message, Ask | Clip):
            self._asks.append(waiting.packet)
        self._home.send(waiting.packet)

    def _give(self, packet: Packet, result: Result) -> None:
        """A result, with what only the server knows of it."""
        assert self._in_flight is not None, "a result is a frame's"
        seconds = time.perf_counter() - self._in_flight.since
        self._in_flight, self._losses = None, 0
        self.results += 1
        self.metrics.frames.inc()
        self.metrics.latency.observe(seconds)
        for stage, milliseconds in result.timings.items():
            self.metrics.stages.labels(stage).observe(milliseconds / 1e3)
        timings = {**result.timings, "served": seconds * 1e3}
        known = {"timings": timings, "dropped": tuple(self._dropped), "dropped_in_all": self.dropped}
        self.tell(result.model_copy(update=known), packet.payload)
        self._dropped.clear()
        if self._snapshots is None:
            self._origin = None  # nobody can repeat what it remembers now

    def _keep(self, packet: Packet, saved: Saved) -> None:
        again = Resume(frames=saved.frames, drop=self.drop, masks=self._masks)
        self._origin = Packet(again, packet.payload, self.number)
        self._kept = saved.frames[-1][0]
        if self._snapshots is not None:
            self._snapshots.keep(self.name, self._origin)
        self._asks, self._asked = self._asks[saved.asks - self._asked :], saved.asks

    def _forget(self) -> None:
        if self._snapshots is not None:
            self._snapshots.forget(self.name)

    def _failed(self, failed: Failed) -> None:
        if failed.fatal:
            self.end(failed)
            return
        if failed.frame is not None:
            self._in_flight = None
        self.metrics.errors.labels(failed.code).inc()
        self.tell(failed)

    def _require_newer(self, message: Frame) -> None:
        if message.frame <= self._last_frame:
            raise ProtocolError(f"Frame {message.frame} after frame {self._last_frame}; wanted rising numbers.")
        self._last_frame = message.frame

    def _drop_waiting(self) -> None:
        for old in [one for one in self._waiting if _is_frame(one)]:
            self._waiting.remove(old)
            self._count_dropped(old.packet.message)

    def _count_dropped(self, message: Message) -> None:
        assert isinstance(message, Frame), "only frames are dropped"
        self._dropped.append(message.frame)
        self.dropped += 1
        self.metrics.dropped.inc()


def _is_frame(waiting: Waiting) -> bool:
    return isinstance(waiting.packet.message, Frame)
