"""What a server answers to: one stream per WebSocket, single images, uploaded videos, and how it is doing."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, File, Form, Path, Request, Response, UploadFile, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from x2sam_rt.errors import ServeError, X2SamError
from x2sam_rt.serve.body_limit import BodyLimit
from x2sam_rt.serve.hub import Hub
from x2sam_rt.serve.image import segment_image
from x2sam_rt.serve.messages import Asked, explained, in_few_words
from x2sam_rt.serve.own_source import OwnSource
from x2sam_rt.serve.page import add_page
from x2sam_rt.serve.settings import LOOPBACK, Settings
from x2sam_rt.serve.snapshots import Snapshots
from x2sam_rt.serve.stream import refuse_stream, serve_stream, subprotocol_of_a_page, token_of_a_page
from x2sam_rt.serve.videos import VideoJob, Videos

_STATUS = {
    "unauthorized": 401, "not_found": 404, "not_done": 409, "too_large": 413, "misdirected": 421, "busy": 503,
    "draining": 503, "not_ready": 503, "worker_lost": 503,
}  # fmt: skip
_CODES = {404: "not_found", 405: "not_allowed", 408: "too_slow", 413: "too_large"}
_SCHEME = HTTPBearer(auto_error=False)
_RETRY_AFTER = "5"  # seconds; sessions end any time


class Problem(BaseModel):
    """code: a name that programs can read."""

    code: str
    message: str


class Shown(BaseModel):
    """A source of the server's owner, which the page plays. phrases: what it asks for by itself."""

    name: str
    kind: Literal["image", "video", "camera"]
    phrases: list[str]


class Info(BaseModel):
    """bundle: SHA-256 of its manifest, which snapshots are bound to. capacity: sessions at once. most_*: pixels of a
    frame, bytes of a message, of a snapshot in parts, of an upload. shown: where the server was begun with a source of
    its own."""

    bundle: str
    device: list[str]
    tasks: list[str]
    capacity: int
    most_pixels: int
    most_message: int
    most_snapshot: int
    most_upload: int
    shown: Shown | None = None


class ShownPass(BaseModel):
    """id: of `GET /v1/shown/ID`."""

    id: str


class ImageResult(BaseModel):
    """record: as `FrameResult.record`. timings: milliseconds per stage."""

    record: dict[str, Any]
    timings: dict[str, float]


class VideoState(BaseModel):
    """state: running, done, failed or cancelled. frames: segmented so far; total: where it is known."""

    id: str
    state: str
    frames: int
    total: int | None
    error: Problem | None = None


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 408, 413, 421, 422, 503)
}  # fmt: skip
_MISDIRECTED: dict[int | str, dict[str, Any]] = {421: {"model": Problem}}
_OF_A_VIDEO: dict[int | str, dict[str, Any]] = {404: {"model": Problem}, 409: {"model": Problem}}


def make_app(settings: Settings, snapshots: Snapshots | None = None, own: OwnSource | None = None) -> FastAPI:
    """The application; its workers start and end with its lifespan. snapshots: see `Hub`. own: what the page plays."""
    hub = Hub(settings, snapshots)
    videos = Videos(hub)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await hub.start()
        try:
            yield
        finally:
            await videos.close()
            await hub.stop()
            if own is not None:
                await asyncio.to_thread(own.close)

    # No pages of documentation: they would load scripts from elsewhere. /openapi.json describes everything.
    about: dict[str, Any] = {"title": "x2sam-rt", "docs_url": None, "redoc_url": None, "redirect_slashes": False}
    app = FastAPI(**about, lifespan=lifespan, dependencies=[Depends(_own_host(settings))])
    app.state.hub = hub
    app.add_middleware(BodyLimit, most_bytes=settings.most_upload, seconds=settings.upload_seconds)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=["Authorization"]
        )
    _add_errors(app, hub)
    _add_health(app, hub)
    _add_segmenting(app, hub, videos)
    _add_info(app, hub, own)
    if own is not None:
        _add_own_source(app, hub, own)
    add_page(app)
    return app


def _add_errors(app: FastAPI, hub: Hub) -> None:
    def problem(status: int, code: str, message: str) -> JSONResponse:
        headers = {"Retry-After": _RETRY_AFTER} if status == 503 else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        hub.metrics.refused.labels(code).inc()
        return JSONResponse(Problem(code=code, message=message).model_dump(), status, headers)

    @app.exception_handler(ServeError)
    async def refused(_request: Request, error: ServeError) -> JSONResponse:
        return problem(_STATUS.get(error.code, 422), error.code, str(error))

    @app.exception_handler(X2SamError)
    async def wrong(_request: Request, error: X2SamError) -> JSONResponse:
        return problem(422, "invalid", str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "invalid", in_few_words(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(_request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "bad_request")
        answer = problem(error.status_code, code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer


def _add_health(app: FastAPI, hub: Hub) -> None:
    @app.get("/healthz", responses=_MISDIRECTED)
    async def healthz() -> dict[str, str]:
        """Whether the server lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses=_MISDIRECTED | {503: {"model": Problem}})
    async def readyz() -> dict[str, str]:
        """Whether sessions can begin: engines run, and it is not about to end."""
        if not hub.ready:
            raise ServeError("draining" if hub.draining else "not_ready", "No session can begin now.")
        return {"status": "ready"}

    @app.get(
        "/metrics",
        dependencies=[Depends(_bearer(hub.settings))],
        responses=_MISDIRECTED | {401: {"model": Problem}},
        response_class=Response,
    )
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(hub.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_segmenting(app: FastAPI, hub: Hub, videos: Videos) -> None:
    token = [Depends(_bearer(hub.settings))]

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        """See docs/serving.md."""
        try:
            _require_token(hub.settings, socket.headers.get("authorization") or token_of_a_page(socket))
            _require_origin(hub.settings, socket.headers.get("origin"), socket.headers.get("host", ""))
            with hub.admit():
                await socket.accept(subprotocol_of_a_page(socket))
                await serve_stream(socket, hub)
        except ServeError as error:
            hub.metrics.refused.labels(error.code).inc()
            if subprotocol_of_a_page(socket):  # to scripts a refusal would only say that there was one
                await socket.accept(subprotocol_of_a_page(socket))
                await refuse_stream(socket, error)
                return
            content = Problem(code=error.code, message=str(error)).model_dump()
            headers = {"Retry-After": _RETRY_AFTER}
            await socket.send_denial_response(JSONResponse(content, _STATUS[error.code], headers))

    @app.post("/v1/image", dependencies=token, responses=_PROBLEMS)
    async def image(
        image: Annotated[UploadFile, File(description="JPEG or PNG")],
        instruction: Annotated[str, Form(description="An instruction as JSON (see Asked)", max_length=2**20)],
    ) -> ImageResult:
        """One still image."""
        with hub.admit():
            result = await segment_image(hub, await image.read(), _asked(instruction))
        return ImageResult(record=result.record, timings=result.timings)

    @app.post("/v1/videos", dependencies=token, responses=_PROBLEMS, status_code=202)
    async def upload(
        video: Annotated[UploadFile, File(description="A video file, of any kind FFmpeg knows")],
        instruction: Annotated[str, Form(description="An instruction as JSON (see Asked)", max_length=2**20)],
    ) -> VideoState:
        """A video, to be segmented as fast as it goes beside everything else."""
        return _state(await videos.begin(video, _asked(instruction)))

    @app.get("/v1/videos/{name}", dependencies=token, responses=_PROBLEMS | _OF_A_VIDEO)
    async def progress(name: Annotated[str, Path(max_length=64)]) -> VideoState:
        """How far it is."""
        return _state(videos.find(name))

    @app.delete("/v1/videos/{name}", dependencies=token, responses=_PROBLEMS | _OF_A_VIDEO)
    async def cancel(name: Annotated[str, Path(max_length=64)]) -> VideoState:
        """Ends it, and removes its files."""
        return _state(await videos.remove(name))

    @app.get(
        "/v1/videos/{name}/result", dependencies=token, responses=_PROBLEMS | _OF_A_VIDEO, response_class=FileResponse
    )
    async def result(name: Annotated[str, Path(max_length=64)]) -> FileResponse:
        """JSON lines, one frame each, as `x2sam-rt run -o masks.jsonl` writes them."""
        return FileResponse(videos.result(name), media_type="application/jsonl", filename="masks.jsonl")


def _add_info(app: FastAPI, hub: Hub, own: OwnSource | None) -> None:
    shown = None if own is None else Shown(name=own.name, kind=own.kind, phrases=list(own.phrases))

    @app.get("/v1/info", dependencies=[Depends(_bearer(hub.settings))], responses=_PROBLEMS)
    async def info() -> Info:
        """What is served here, and its limits."""
        ready = [worker.ready for worker in hub.workers if worker.ready is not None]
        if not ready:
            raise ServeError("not_ready", "The workers are starting.")
        limits = {name: getattr(hub.settings, name) for name in ("most_pixels", "most_message", "most_upload")}
        limits |= {"capacity": hub.capacity, "most_snapshot": hub.most_snapshot}
        devices, tasks = [one.device for one in ready], list(ready[0].tasks)
        return Info(bundle=ready[0].bundle, device=devices, tasks=tasks, shown=shown, **limits)


def _add_own_source(app: FastAPI, hub: Hub, own: OwnSource) -> None:
    token = [Depends(_bearer(hub.settings))]

    @app.post("/v1/shown", dependencies=token, responses=_PROBLEMS, status_code=201)
    async def begin() -> ShownPass:
        """The owner's source from its beginning; whoever saw it before sees no more of it."""
        return ShownPass(id=await asyncio.to_thread(own.begin))

    @app.get("/v1/shown/{name}", dependencies=token, responses=_PROBLEMS | _OF_A_VIDEO, response_class=Response)
    async def following(name: Annotated[str, Path(max_length=64)]) -> Response:
        """The next frame, a JPEG; 204 at the end."""
        picture = await asyncio.to_thread(own.next, name)
        return Response(status_code=204) if picture is None else Response(picture, media_type="image/jpeg")


def _state(job: VideoJob) -> VideoState:
    error = None if job.error is None else Problem(code=job.error.code, message=str(job.error))
    return VideoState(id=job.name, state=job.state, frames=job.frames, total=job.total, error=error)


def _asked(text: str) -> Asked:
    """Raises ServeError for what is no instruction, PromptError for one that cannot be asked."""
    try:
        asked = Asked.model_validate_json(text)
    except ValidationError as error:
        raise ServeError("invalid", f"instruction: {explained(error)}.") from error
    asked.instruction()
    return asked


def _bearer(settings: Settings) -> Any:
    """A dependency that wants the token; OpenAPI says so where there is one."""

    async def require(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_SCHEME)]) -> None:
        _require_token(settings, None if given is None else f"{given.scheme} {given.credentials}")

    async def open_to_all() -> None:
        pass

    return open_to_all if settings.token is None else require


def _own_host(settings: Settings) -> Any:
    """A dependency that, without a token, wants requests at a name of this machine or of an allowed page: a browser
    would bring those of a page whose own name was made to lead here. Streams are checked by their page's origin."""
    own = {settings.host, *LOOPBACK, *(urlsplit(origin).hostname for origin in settings.origins)} - {None}

    async def require(connection: HTTPConnection) -> None:
        host = connection.headers.get("host", "")
        if connection.scope["type"] == "http" and settings.token is None and _hostname(host) not in own:
            why = f"No server is called {host[:200]!r} here; allow it with --origin http://NAME, or set a token."
            raise ServeError("misdirected", why)

    return require


def _hostname(host: str) -> str | None:
    """Of a Host header; None where it has none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _require_token(settings: Settings, header: str | None) -> None:
    """Raises ServeError. In a time that tells nothing of the token."""
    if settings.token is None:
        return
    scheme, _, given = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), settings.token.encode()):
        raise ServeError("unauthorized", "Bring the server's token: `Authorization: Bearer TOKEN`.")


def _require_origin(settings: Settings, origin: str | None, host: str) -> None:
    """A page of another origin could otherwise use a server on this machine: WebSockets know no CORS. Without a token
    a page of the same host must be at a name of this machine, or another's name could be made to lead here."""
    if origin is None or origin in settings.origins:
        return
    found = urlsplit(origin)
    same = found.scheme in ("http", "https") and found.netloc == host
    if not (same and (settings.token is not None or found.hostname in {settings.host, *LOOPBACK})):
        raise ServeError("unauthorized", f"Pages of {origin[:200]} may not use this server; allow it with --origin.")
