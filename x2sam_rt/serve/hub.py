"""The workers and the sessions on them: who may come, where a session lives, and what happens when a worker ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterator

import psutil

from x2sam_rt.errors import ProtocolError, ServeError
from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES
from x2sam_rt.serve.link import ChildProcess
from x2sam_rt.serve.live_session import LiveSession
from x2sam_rt.serve.messages import FROM_WORKER, Close, Failed, Packet, Ready, Resume
from x2sam_rt.serve.metrics import Metrics
from x2sam_rt.serve.settings import Settings, WorkerConfig
from x2sam_rt.serve.snapshots import Snapshots, SnapshotsHere, going_on

log = logging.getLogger("x2sam_rt.serve")
_RESTART_SECONDS = (0.0, 1.0, 5.0, 15.0)  # before a worker is started again that ended so often in a row
_MOST_MEMORY_SHARE = 0.5


class WorkerProcess:
    """A worker as the server has it: a process, a wire, and the sessions that live there."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.ready: Ready | None = None
        self.sessions: dict[int, LiveSession] = {}
        self._process: ChildProcess | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self) -> Ready:
        """Raises ServeError when it ends before its engines run; what it wrote to stderr says why."""
        self._process = await ChildProcess.start("x2sam_rt.serve.worker", self.config.arguments())
        try:
            packet = await self._process.receive(FROM_WORKER)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ServeError("worker_lost", "A worker ended before it could work; it says why above.") from error
        assert isinstance(packet.message, Ready), "the first that a worker says"
        self.ready = packet.message
        return packet.message

    def send(self, packet: Packet) -> None:
        """Never waits: what is on its way is a frame of each session, and few messages beside."""
        if self._process is not None:
            self._process.send(packet)

    async def listen(self) -> None:
        """Hands what the worker says to its sessions, until it ends."""
        assert self._process is not None, "started"
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                packet = await self._process.receive(FROM_WORKER)
                if packet.session in self.sessions:
                    self.sessions[packet.session].hear(packet)
        await self.stop()

    async def stop(self) -> None:
        self.ready = None
        if self._process is not None:
            await self._process.stop()


class Hub:
    """Begins and ends with the server: `start`, `stop`. Between them `admit`, `open` and `close` for each session."""

    def __init__(self, settings: Settings, snapshots: Snapshots | None = None) -> None:
        """snapshots: where they are kept for clients who come back; None = here."""
        self.settings = settings
        self.snapshots = snapshots or SnapshotsHere(settings.most_kept, settings.keep_seconds)
        self.workers = [WorkerProcess(settings.worker(device)) for device in settings.devices]
        self.metrics = Metrics(lambda: len(self.sessions), self.resident_bytes, lambda: len(self._working))
        self.sessions: dict[int, LiveSession] = {}
        self.capacity, self.session_bytes, self.most_snapshot, self.draining = 0, 0, 0, False
        self._admitted, self._numbers = 0, 0
        self._watchers: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()

    @property
    def ready(self) -> bool:
        return bool(self._working) and not self.draining

    @property
    def _working(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers if worker.ready is not None]

    async def start(self) -> None:
        """Raises ServeError when a worker cannot begin, or not one session fits the memory."""
        try:
            self._budget(await asyncio.gather(*(worker.start() for worker in self.workers)))
        except ServeError:
            await self.stop()
            raise
        self._watchers = [asyncio.create_task(self._watch(worker)) for worker in self.workers]

    async def stop(self) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*(worker.stop() for worker in self.workers))

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """A place for a session. Raises ServeError where there is none."""
        if self.draining or not self._working:
            raise ServeError("draining" if self.draining else "not_ready", "No session can begin now; try elsewhere.")
        if self._admitted >= self.capacity:
            raise ServeError("busy", f"All {self.capacity} places are taken; try again later.")
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def open(self, first: Packet) -> LiveSession:
        """first: an `Open` or `Resume`. Raises ServeError for a session that is not kept."""
        found = await self._found(first)
        worker = await self._place()
        self._numbers += 1
        name, snapshots = secrets.token_hex(16), self.snapshots if self.settings.save_every > 0 else None
        session = LiveSession(self._numbers, name, found, worker, self.metrics, snapshots)
        if found is not first:
            session.come_back()
        worker.sessions[session.number] = self.sessions[session.number] = session
        return session

    async def _found(self, first: Packet) -> Packet:
        """With the snapshot of a session that is asked for by name."""
        message = first.message
        if not isinstance(message, Resume) or message.session is None:
            return first
        if first.payload or message.frames:
            raise ProtocolError("A stream is resumed by its session's name or by its snapshot, not by both.")
        kept = await self.snapshots.find(message.session)
        if kept is None:
            raise ServeError("snapshot", "No snapshot of that session is kept here; begin anew, or bring one.")
        return going_on(first, kept)

    def close(self, session: LiveSession) -> None:
        """Gives back what it has, wherever it lives."""
        session.end()
        self.sessions.pop(session.number, None)
        for worker in self.workers:
            if worker.sessions.pop(session.number, None) is not None:
                worker.send(Packet(Close(), session=session.number))

    def resident_bytes(self) -> int:
        total = psutil.Process().memory_info().rss
        for worker in self._working:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += psutil.Process(worker.pid).memory_info().rss
        return int(total)

    def _budget(self, ready: list[Ready]) -> None:
        """As many sessions as fit: buffers and the last frames at the worker, a snapshot of both and a message here."""
        frames = PROMPT_FRAMES * self.settings.frame_bytes
        device = max(one.session_bytes for one in ready) + frames
        self.most_snapshot = device + self.settings.most_message  # in which the regions' own frames have room
        self.session_bytes = device + self.most_snapshot
        budget = self.settings.memory or int(psutil.virtual_memory().available * _MOST_MEMORY_SHARE)
        fit = [budget // self.session_bytes, self.settings.sessions]
        fit += [int(one.free_bytes * 0.8) // device * len(ready) for one in ready if one.free_bytes is not None]
        self.capacity = min(fit)
        if self.capacity < 1:
            raise ServeError(
                "busy", f"A session takes up to {self.session_bytes >> 20} MiB, of {budget >> 20} MiB there are: give "
                "more with --memory, or take smaller frames with --max-pixels."
            )  # fmt: skip
        log.info(
            "sessions fit", extra={"capacity": self.capacity, "session_mib": self.session_bytes >> 20,
            "budget_mib": budget >> 20, "devices": [one.device for one in ready]},
        )  # fmt: skip

    async def _place(self) -> WorkerProcess:
        """The working worker with the fewest sessions; waits where all are being replaced."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._working)
        return min(self._working, key=lambda worker: len(worker.sessions))

    async def _watch(self, worker: WorkerProcess) -> None:
        """A worker's life: it works, ends, and is replaced; its sessions go on from their snapshots."""
        losses = 0
        while True:
            began = asyncio.get_running_loop().time()
            await worker.listen()
            losses = 0 if asyncio.get_running_loop().time() - began > 60 else losses + 1
            self.metrics.lost.inc()
            log.warning("worker lost", extra={"device": worker.config.device, "sessions": len(worker.sessions)})
            orphans, worker.sessions = [one for one in worker.sessions.values() if one.lost()], {}
            moving = asyncio.create_task(self._move(orphans))
            await self._replace(worker, losses)
            await moving

    async def _replace(self, worker: WorkerProcess, losses: int) -> None:
        while True:
            await asyncio.sleep(_RESTART_SECONDS[min(losses, len(_RESTART_SECONDS)) - 1])
            try:
                await worker.start()
                break
            except ServeError as error:
                losses += 1
                log.error("worker does not start", extra={"error": str(error)})
                await worker.stop()
        async with self._changed:
            self._changed.notify_all()

    async def _move(self, orphans: list[LiveSession]) -> None:
        for session in orphans:
            try:
                async with asyncio.timeout(self.settings.idle_seconds):
                    worker = await self._place()
            except TimeoutError:
                session.end(Failed(code="worker_lost", message="No worker could be started in time.", fatal=True))
                continue
            if not session.ended:
                worker.sessions[session.number] = session
                session.go_on(worker)
