"""The WebSocket of a stream: from its first message to its last."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from dataclasses import replace

from fastapi import WebSocket, WebSocketDisconnect

from x2sam_rt.errors import ProtocolError, ServeError
from x2sam_rt.serve.hub import Hub
from x2sam_rt.serve.live_session import LiveSession
from x2sam_rt.serve.messages import FROM_CLIENT, MOST_JSON, Closed, Failed, Open, Packet, Part, Resume, decode, encode
from x2sam_rt.serve.settings import Settings

NORMAL, REFUSED = 1000, 1008


_SUBPROTOCOL, _TOKEN = "x2sam-rt", "x2sam-rt.token."


def subprotocol_of_a_page(socket: WebSocket) -> str | None:
    """What a script offers, for which a WebSocket has no headers: this name, and the token beside it."""
    return _SUBPROTOCOL if _SUBPROTOCOL in socket.scope["subprotocols"] else None


def token_of_a_page(socket: WebSocket) -> str | None:
    """As in an Authorization header. Raises ServeError where it is no text in base64url."""
    offered = [one.removeprefix(_TOKEN) for one in socket.scope["subprotocols"] if one.startswith(_TOKEN)]
    if not offered:
        return None
    try:
        return f"Bearer {base64.urlsafe_b64decode(offered[0] + '==').decode()}"
    except ValueError as error:  # of base64, of UTF-8
        raise ServeError("unauthorized", "The token's subprotocol is no text in base64url.") from error


async def serve_stream(socket: WebSocket, hub: Hub) -> None:
    """An accepted connection, which has its place. Returns when it is closed."""
    with contextlib.suppress(WebSocketDisconnect):
        try:
            async with asyncio.timeout(hub.settings.hello_seconds):
                first = await _receive(socket, hub.settings.most_message)
            session = await hub.open(await _whole(first, socket, hub))
        except TimeoutError:
            await refuse_stream(socket, ServeError("idle", "No first message came in time, or not the whole of it."))
        except (ProtocolError, ServeError) as error:
            await refuse_stream(socket, error)
        else:
            await _run(socket, session, hub)


async def _whole(first: Packet, socket: WebSocket, hub: Hub) -> Packet:
    """The first message with all of its snapshot, for which its place has the memory. Raises ProtocolError,
    ServeError, TimeoutError."""
    if not isinstance(first.message, Open | Resume):
        raise ProtocolError("A stream begins with open or resume.")
    if isinstance(first.message, Open) or first.message.size is None:
        return first
    size, parts, there = first.message.size, [first.payload], len(first.payload)
    if size > hub.most_snapshot:
        raise ServeError("snapshot", f"A snapshot of {size} bytes; sessions here have up to {hub.most_snapshot}.")
    async with asyncio.timeout(hub.settings.upload_seconds):
        while there < size:
            part = await _receive(socket, hub.settings.most_message)
            if not isinstance(part.message, Part) or not part.payload:
                raise ProtocolError(f"After {there} of the snapshot's {size} bytes; wanted a part with more of them.")
            parts.append(part.payload)
            there += len(part.payload)
    if there > size:
        raise ProtocolError(f"{there} bytes of a snapshot of {size}.")
    return replace(first, message=first.message.model_copy(update={"size": None}), payload=b"".join(parts))


async def _run(socket: WebSocket, session: LiveSession, hub: Hub) -> None:
    settings = hub.settings
    works = _listen(socket, session, settings.most_message), _speak(socket, session), _watch(session, settings)
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if session.ended:  # what was told last is still on its way
            await asyncio.wait(tasks[1:2], timeout=settings.hello_seconds)
    finally:
        hub.close(session)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect | RuntimeError):
                raise outcome


async def _listen(socket: WebSocket, session: LiveSession, most: int) -> None:
    """Until the client ends, or says what is no message."""
    while not session.ended:
        try:
            packet = await _receive(socket, most)
            session.offer(packet)
        except ProtocolError as error:
            session.end(Failed(code="protocol", message=str(error), fatal=True))
        await session.room()


async def _speak(socket: WebSocket, session: LiveSession) -> None:
    while True:
        packet = await session.replies.get()
        session.read()
        await _send(socket, packet)
        if isinstance(packet.message, Closed):
            await socket.close(NORMAL)
            return


async def _watch(session: LiveSession, settings: Settings) -> None:
    """Ends a session that is silent or old."""
    began = time.monotonic()
    while not session.ended:
        now = time.monotonic()
        silent, old = session.heard + settings.idle_seconds - now, began + settings.total_seconds - now
        if silent <= 0:
            session.end(Failed(code="idle", message=f"Silent for {settings.idle_seconds:g} seconds.", fatal=True))
        elif old <= 0:
            session.end(Failed(code="too_long", message=f"Open for {settings.total_seconds:g} seconds.", fatal=True))
        else:
            await asyncio.sleep(min(silent, old, 1.0))


async def _receive(socket: WebSocket, most: int) -> Packet:
    """Raises WebSocketDisconnect, ProtocolError."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", NORMAL))
    data = message.get("bytes")
    data = message["text"] if data is None else data
    if len(data) > most:  # where what stands before this server lets larger ones through
        raise ProtocolError(f"A message of {len(data)} bytes; wanted up to {most}.")
    return decode(data, FROM_CLIENT, MOST_JSON)


async def _send(socket: WebSocket, packet: Packet) -> None:
    """Text where there are no bytes, which a browser's console can show."""
    if packet.payload:
        await socket.send_bytes(encode(packet.message, packet.payload))
    else:
        await socket.send_text(packet.message.model_dump_json())


async def refuse_stream(socket: WebSocket, error: ProtocolError | ServeError) -> None:
    """Says why, as the only message of an accepted connection."""
    code = error.code if isinstance(error, ServeError) else "protocol"
    await _send(socket, Packet(Failed(code=code, message=str(error), fatal=True)))
    await socket.close(REFUSED)
