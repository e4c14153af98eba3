"""The wire between the server and a process of its own: packets over a socket pair, each with its length in front."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
import threading
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import Process
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from x2sam_rt.serve.messages import TO_WORKER, Message, Packet, decode, encode

_HEAD = struct.Struct(">QQ")  # the session, the length of its packet


def framed(packet: Packet) -> bytes:
    data = encode(packet.message, packet.payload)
    return _HEAD.pack(packet.session, len(data)) + data


class ChildProcess:
    """A process of the server's own with a wire to it, as the server has it."""

    def __init__(self, process: Process, reader: StreamReader, writer: StreamWriter) -> None:
        self._process, self._reader, self._writer = process, reader, writer

    @classmethod
    async def start(cls, module: str, arguments: Sequence[str]) -> ChildProcess:
        """module: whose `main` takes `--wire`, its end of a socket pair, and these arguments."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", module, f"--wire={theirs.fileno()}", *arguments]
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        return cls(process, *await asyncio.open_connection(sock=ours))

    @property
    def pid(self) -> int | None:
        """None: it has ended."""
        return None if self._process.returncode is not None else self._process.pid

    def send(self, packet: Packet) -> None:
        """Never waits."""
        if not self._writer.is_closing():
            self._writer.write(framed(packet))

    async def receive(self, kind: TypeAdapter[Any]) -> Packet:
        """Raises asyncio.IncompleteReadError, or OSError, where it is gone."""
        session, length = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
        found = decode(await self._reader.readexactly(length), kind)
        return Packet(found.message, found.payload, session)

    async def stop(self) -> None:
        """It ends when its wire does; one that does not is killed."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class WorkerLink:
    """The worker's end, which blocks. Several threads may send."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire, self._sending = wire, threading.Lock()

    def send(self, session: int, message: Message, payload: bytes = b"") -> None:
        data = framed(Packet(message, payload, session))
        with self._sending:
            self._wire.sendall(data)

    def receive(self, patience: float | None) -> Packet | None:
        """The next packet; None after so many seconds without one. Raises EOFError when the server is gone."""
        if not select.select([self._wire], [], [], patience)[0]:
            return None
        session, length = _HEAD.unpack(self._exactly(_HEAD.size))
        found = decode(self._exactly(length), TO_WORKER)
        return Packet(found.message, found.payload, session)

    def _exactly(self, count: int) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            got = self._wire.recv_into(view)
            if not got:
                raise EOFError("the server is gone")
            view = view[got:]
        return bytes(data)
