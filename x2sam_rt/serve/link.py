"""The wire between the server and a worker: packets over a socket pair, each with its length in front."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import threading
from typing import Any

from pydantic import TypeAdapter

from x2sam_rt.serve.messages import TO_WORKER, Message, Packet, decode, encode

_HEAD = struct.Struct(">QQ")  # the session, the length of its packet


def framed(packet: Packet) -> bytes:
    data = encode(packet.message, packet.payload)
    return _HEAD.pack(packet.session, len(data)) + data


async def read_packet(reader: asyncio.StreamReader, kind: TypeAdapter[Any]) -> Packet:
    """The server's end. Raises asyncio.IncompleteReadError, or OSError, where the worker is gone."""
    session, length = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    found = decode(await reader.readexactly(length), kind)
    return Packet(found.message, found.payload, session)


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
