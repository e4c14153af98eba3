"""A client of `x2sam-rt serve`: frames and words to a server, masks back. Needs no PyTorch, and no checkpoint.

    with Client("http://127.0.0.1:8000").stream("the red circle") as stream:
        for frame in frames:  # (H, W, 3) uint8 RGB, or an encoded JPEG or PNG
            result = stream.step(frame)  # masks, labels, scores, ids, boxes
        stream.ask("the dog")

`AsyncClient` is the same with `await`.
"""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Any, Self

import httpx
from PIL import Image
from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection as SyncConnection
from websockets.sync.client import connect as connect_sync

from x2sam_rt.errors import ServeError
from x2sam_rt.media.types import Pixels
from x2sam_rt.serve.conversation import Conversation, Prompt, RemoteResult, RemoteSegment, ask_message, first_messages
from x2sam_rt.serve.messages import Asked, Close, Drop, Masks, Save, encode
from x2sam_rt.tasks.instruction import as_instruction

_SECONDS = 60.0


class Stream(Conversation):
    """Made by `Client.stream`. Raises ServeError for what the server refuses or cannot do; `code` says what."""

    def __init__(self, connection: SyncConnection, wire: ExitStack, seconds: float) -> None:
        super().__init__()
        self._connection, self._wire, self._seconds = connection, wire, seconds

    def step(self, frame: Pixels | bytes) -> RemoteResult:
        """One frame's result, waited for."""
        number = self.send(frame)
        while (result := self.receive()).frame != number:
            pass
        return result

    def send(self, frame: Pixels | bytes, number: int | None = None) -> int:
        """Does not wait. frame: (H, W, 3) uint8 RGB, or an encoded JPEG or PNG. number: rising; None = the next.
        Returns it."""
        number, data = self.frame(frame, number)
        self._say(data)
        return number

    def receive(self, timeout: float | None = None) -> RemoteResult:
        """The next result. Raises ServeError ("timeout") where none comes in so many seconds."""
        while not self.results:
            self._hear(timeout)
        return self.results.popleft()

    def ask(self, prompt: Prompt, *, number: int = 0, keep_memory: bool = True, wait: bool = False) -> None:
        """As `VideoSession.ask`, for the frames sent from now on. number: comes back in `answers`."""
        self._say(ask_message(prompt, number, keep_memory, wait))

    def snapshot(self) -> bytes:
        """The session, for `Client.stream(snapshot=…)`."""
        self._say(encode(Save()))
        while not self.saved:
            self._hear(None)
        return self.saved.popleft()

    def end(self) -> None:
        """No more frames come; `receive` gives the results still at work, then raises ServeError ("closed")."""
        self._say(encode(Close()))

    def close(self) -> None:
        """Waits for the frame at work; results that were not received are lost. Closing twice is allowed."""
        try:
            self.end()
            while True:
                self._hear(None)
        except ServeError:
            self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def _say(self, data: bytes) -> None:
        try:
            self._connection.send(data)
        except ConnectionClosed:
            while True:  # ends with what the server said last, or with the connection
                self._hear(None)

    def _hear(self, timeout: float | None) -> None:
        try:
            self.take(self._connection.recv(self._seconds if timeout is None else timeout))
        except TimeoutError as error:
            raise ServeError("timeout", "The server said nothing in time.") from error
        except ConnectionClosed as error:
            raise _gone(error) from error


class AsyncStream(Conversation):
    """As `Stream`."""

    def __init__(self, connection: AsyncConnection, wire: AsyncExitStack) -> None:
        super().__init__()
        self._connection, self._wire = connection, wire

    async def step(self, frame: Pixels | bytes) -> RemoteResult:
        number = await self.send(frame)
        while (result := await self.receive()).frame != number:
            pass
        return result

    async def send(self, frame: Pixels | bytes, number: int | None = None) -> int:
        number, data = self.frame(frame, number)
        await self._say(data)
        return number

    async def receive(self) -> RemoteResult:
        while not self.results:
            await self._hear()
        return self.results.popleft()

    async def ask(self, prompt: Prompt, *, number: int = 0, keep_memory: bool = True, wait: bool = False) -> None:
        await self._say(ask_message(prompt, number, keep_memory, wait))

    async def snapshot(self) -> bytes:
        await self._say(encode(Save()))
        while not self.saved:
            await self._hear()
        return self.saved.popleft()

    async def end(self) -> None:
        await self._say(encode(Close()))

    async def close(self) -> None:
        try:
            await self.end()
            while True:
                await self._hear()
        except ServeError:
            await self._wire.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        await self.close()

    async def _say(self, data: bytes) -> None:
        try:
            await self._connection.send(data)
        except ConnectionClosed:
            while True:
                await self._hear()

    async def _hear(self) -> None:
        try:
            self.take(await self._connection.recv())
        except ConnectionClosed as error:
            raise _gone(error) from error


class _Address:
    """Where a server is, and what opens it."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url.rstrip("/")
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        # On a cluster, requests of one client reach one server; streams go wherever there is room.
        self.pinned = {**self.headers, "X-Session-Id": secrets.token_hex(8)}

    @property
    def stream(self) -> str:
        return "ws" + self.url.removeprefix("http") + "/v1/stream"

    def connecting(self) -> dict[str, Any]:
        return {"additional_headers": self.headers, "max_size": None, "compression": None}


class Client:
    """url: as "http://127.0.0.1:8000". seconds: that an answer is waited for."""

    def __init__(self, url: str, *, token: str | None = None, seconds: float = _SECONDS) -> None:
        self._at, self._seconds = _Address(url, token), seconds

    def stream(
        self,
        prompt: Prompt | None = None,
        *,
        snapshot: bytes | None = None,
        session: str | None = None,
        drop: Drop = "oldest",
        masks: Masks = "rle",
        again: str = "once",
    ) -> Stream:
        """A new stream, or one that goes on: from a snapshot, or from the last one that the server kept of a session by
        its name (`Stream.session`; `resumed[-1]` is the last frame it remembers). drop: "oldest" segments the newest
        frame where they come faster than they are segmented; "never" makes `send` wait. Raises ServeError where the
        server refuses."""
        wire = ExitStack()
        try:
            connecting = connect_sync(self._at.stream, **self._at.connecting(), open_timeout=self._seconds)
            connection = wire.enter_context(connecting)
        except (InvalidHandshake, OSError) as error:
            raise _refused(error) from error
        stream = Stream(connection, wire, self._seconds)
        for message in first_messages(prompt, snapshot, session, drop, masks, again):
            stream._say(message)
        while session is not None and not stream.resumed:
            stream._hear(None)
        return stream

    def segment_image(self, image: Pixels | bytes, prompt: Prompt) -> RemoteResult:
        """One still image: (H, W, 3) uint8 RGB, or an encoded JPEG or PNG."""
        with httpx.Client(headers=self._at.pinned, timeout=self._seconds) as http:
            answer = http.post(f"{self._at.url}/v1/image", **_image(image, prompt))
        return _image_result(answer)

    def info(self) -> dict[str, Any]:
        """The server's limits."""
        return _body(httpx.get(f"{self._at.url}/v1/info", headers=self._at.pinned, timeout=self._seconds))


class AsyncClient:
    """As `Client`."""

    def __init__(self, url: str, *, token: str | None = None, seconds: float = _SECONDS) -> None:
        self._at, self._seconds = _Address(url, token), seconds

    async def stream(
        self,
        prompt: Prompt | None = None,
        *,
        snapshot: bytes | None = None,
        session: str | None = None,
        drop: Drop = "oldest",
        masks: Masks = "rle",
        again: str = "once",
    ) -> AsyncStream:
        wire = AsyncExitStack()
        try:
            connecting = connect_async(self._at.stream, **self._at.connecting(), open_timeout=self._seconds)
            connection = await wire.enter_async_context(connecting)
        except (InvalidHandshake, OSError) as error:
            raise _refused(error) from error
        stream = AsyncStream(connection, wire)
        for message in first_messages(prompt, snapshot, session, drop, masks, again):
            await stream._say(message)
        while session is not None and not stream.resumed:
            await stream._hear()
        return stream

    async def segment_image(self, image: Pixels | bytes, prompt: Prompt) -> RemoteResult:
        async with httpx.AsyncClient(headers=self._at.pinned, timeout=self._seconds) as http:
            return _image_result(await http.post(f"{self._at.url}/v1/image", **_image(image, prompt)))


def _image(image: Pixels | bytes, prompt: Prompt) -> dict[str, Any]:
    if not isinstance(image, bytes):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=1)
        image = file.getvalue()
    asked = Asked.of(as_instruction(prompt)).model_dump_json()
    return {"files": {"image": ("image", image)}, "data": {"instruction": asked}}


def _image_result(answer: httpx.Response) -> RemoteResult:
    found = _body(answer)
    return RemoteResult(0, found["record"], found["timings"], ())


def _body(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()
    if answer.is_error:
        raise ServeError(found["code"], found["message"])
    return found


def _gone(error: ConnectionClosed) -> ServeError:
    return ServeError("gone", f"The connection ended ({error}); a snapshot goes on with another.")


def _refused(error: InvalidHandshake | OSError) -> ServeError:
    """What the server said instead of opening a stream."""
    if not isinstance(error, InvalidStatus):
        return ServeError("unreachable", f"No server answers there: {error}.")
    try:
        said = json.loads(error.response.body or b"")
        return ServeError(said["code"], said["message"])
    except (ValueError, KeyError, TypeError):
        return ServeError("refused", f"The server answered {error.response.status_code}.")


__all__: Sequence[str] = ("AsyncClient", "AsyncStream", "Client", "RemoteResult", "RemoteSegment", "Stream")
