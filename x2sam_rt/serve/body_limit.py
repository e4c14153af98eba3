"""Bodies of requests end: by their size, and in time."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_END = {"Connection": "close"}  # or the rest of the body would still be read


class BodyLimit:
    """Around an application: reading a body beyond `most_bytes`, or for longer than `seconds`, raises an
    HTTPException inside it. What a client says its size is, is not asked."""

    def __init__(self, app: ASGIApp, most_bytes: int, seconds: float) -> None:
        self._app, self._most, self._seconds = app, most_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = self._counted(receive)
        await self._app(scope, receive, send)

    def _counted(self, receive: Receive) -> Receive:
        seen, ended, deadline = 0, False, asyncio.get_running_loop().time() + self._seconds

        async def counted() -> Message:
            nonlocal seen, ended
            if ended:  # what comes after the body is only that the client is gone
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"The request was not there in {self._seconds:g} seconds.", _END) from error
            seen += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if seen > self._most:
                raise HTTPException(413, f"The request has more than {self._most} bytes.", _END)
            return message

        return counted
