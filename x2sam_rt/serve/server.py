"""The server's process: uvicorn with clients that must hurry, logs that programs can read, and an end that waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from x2sam_rt.errors import ServeError
from x2sam_rt.serve.app import make_app
from x2sam_rt.serve.hub import Hub
from x2sam_rt.serve.own_source import OwnSource
from x2sam_rt.serve.settings import Settings

TOKEN = "X2SAM_RT_TOKEN"
OnStarted = Callable[[int], None]
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """One object per line: time, level, logger, message, and what was logged with it."""

    def format(self, record: logging.LogRecord) -> str:
        more = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **more,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _is_news(record: logging.LogRecord) -> bool:
    """uvicorn takes every refused stream for an application that forgot to answer; refusals are counted as such."""
    return record.getMessage() != "ASGI callable returned without completing handshake."


def impatient_http(seconds: float) -> type[HttpToolsProtocol]:
    """HTTP whose connections are closed unless a request's head is there in so many seconds; uvicorn itself waits for
    ever."""

    class Impatient(HttpToolsProtocol):
        _heads: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._heads = self.loop.call_later(seconds, transport.close)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            if self._heads is None:  # of a later request on the same connection
                self._heads = self.loop.call_later(seconds, self.transport.close)

        def on_headers_complete(self) -> None:
            self._there()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._there()
            super().connection_lost(exc)

        def _there(self) -> None:
            if self._heads is not None:
                self._heads.cancel()
            self._heads = None

    return Impatient


class DrainingServer(uvicorn.Server):
    """On the first SIGTERM or SIGINT sessions are told, and get `drain_seconds` to end; on the second it ends now."""

    def __init__(self, config: uvicorn.Config, hub: Hub, on_started: OnStarted | None = None) -> None:
        super().__init__(config)
        self._hub, self._on_started = hub, on_started
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._drain is not None or self._loop is None:
            super().handle_exit(sig, frame)
        else:
            self._hub.draining = True
            self._loop.call_soon_threadsafe(self._begin)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._on_started is not None and self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            await asyncio.to_thread(self._on_started, port)

    def _begin(self) -> None:
        self._drain = self._drain or asyncio.create_task(self._end())

    async def _end(self) -> None:
        seconds, loop = self._hub.settings.drain_seconds, asyncio.get_running_loop()
        logging.getLogger("x2sam_rt.serve").info("draining", extra={"sessions": len(self._hub.sessions)})
        for session in list(self._hub.sessions.values()):
            session.drain(seconds)
        deadline = loop.time() + seconds
        while self._hub.sessions and loop.time() < deadline:
            await asyncio.sleep(0.05)
        for session in list(self._hub.sessions.values()):
            session.end()
        await asyncio.sleep(0.1)  # for what was told last
        self.should_exit = True


def log_as_json_lines(level: int = logging.INFO) -> None:
    """All of this process's logs, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(_is_news)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def serve(settings: Settings, own: OwnSource | None = None, on_started: OnStarted | None = None) -> None:
    """Until it is told to end. own: what the page plays; of such a server only troubles are logged. on_started: is told
    the port. Raises ServeError when it cannot begin."""
    log_as_json_lines(logging.INFO if own is None else logging.WARNING)
    app = make_app(settings, own=own)
    config: dict[str, Any] = {"host": settings.host, "port": settings.port, "log_config": None, "access_log": False}
    limits: dict[str, Any] = {
        "http": impatient_http(settings.hello_seconds),
        "timeout_keep_alive": 10,
        "ws": "websockets-sansio",
        "ws_max_size": settings.most_message,
        "ws_per_message_deflate": False,  # a small message would unpack to any size
        "ws_ping_interval": 20.0,
        "ws_ping_timeout": 20.0,
        "limit_concurrency": 2 * settings.sessions + 64,
        "timeout_graceful_shutdown": 5,
        "server_header": False,
    }
    server = DrainingServer(uvicorn.Config(app, **config, **limits), app.state.hub, on_started)
    with contextlib.suppress(SystemExit):  # uvicorn's own, where the workers cannot begin
        server.run()
    if not server.started:
        raise ServeError("not_started", "The server could not begin; the lines above say why.")


def token_from_environment() -> str | None:
    """Not from the command line, which every user of the machine can read."""
    return os.environ.get(TOKEN) or None


def new_token() -> str:
    return secrets.token_urlsafe(24)
