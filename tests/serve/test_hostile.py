"""Clients that mean no good: each is refused by name, and the server goes on in the same memory."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import socket
import struct
import time
import zlib
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from serving import TOKEN, Served, serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from x2sam_rt.client import Client
from x2sam_rt.errors import ConfigError, ServeError
from x2sam_rt.serve.app import _require_origin, make_app
from x2sam_rt.serve.live_session import LiveSession
from x2sam_rt.serve.messages import (
    FROM_SERVER,
    Ask,
    Asked,
    Failed,
    Frame,
    Message,
    Open,
    Packet,
    Part,
    Result,
    Resume,
    decode,
    encode,
)
from x2sam_rt.serve.metrics import Metrics
from x2sam_rt.serve.settings import Settings
from x2sam_rt.serve.stream import _whole

BEARER = {"Authorization": f"Bearer {TOKEN}"}
FRAME = np.zeros((45, 61, 3), np.uint8)


def connected(served: Served, **options: object) -> ClientConnection:
    given = {"additional_headers": BEARER, "compression": None, **options}
    return connect(served.url.replace("http", "ws") + "/v1/stream", **given)


def said(wire: ClientConnection) -> Message:
    return decode(wire.recv(20), FROM_SERVER).message


def require_alive(served: Served) -> None:
    with Client(served.url, token=TOKEN).stream("dog", drop="never") as stream:
        assert stream.step(FRAME).frame == 0


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that says this size, whatever it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMBS = {
    "a huge size": png(60_000, 60_000),
    "zeros that unpack to gigabytes": png(30_000, 30_000, zlib.compress(bytes(10_000_000), 9)),
    "more pixels than allowed": png(300, 300, zlib.compress(bytes(300 * 901))),
    "a small size with gigabytes behind": png(40, 40, zlib.compress(bytes(50_000_000), 9)),
    "no data": png(40, 40),
    "a GIF": b"GIF89a" + bytes(100),
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_no_memory(served: Served, name: str) -> None:
    worker = served.workers()[0]
    before = worker.memory_info().rss
    with connected(served) as wire:
        wire.send(encode(Open(instruction=Asked(phrases=("dog",)))))
        assert said(wire).type == "opened"
        wire.send(encode(Frame(frame=0, format="png"), BOMBS[name]))
        answer = said(wire)
        if name == "a small size with gigabytes behind":  # Pillow stops at the size it was told
            while answer.type not in ("result", "error"):
                answer = said(wire)
        else:
            assert (answer.type, answer.code, answer.frame) == ("error", "frame", 0)
    assert worker.memory_info().rss - before < 60 * 2**20


NOT_MESSAGES = {
    "no JSON": b"\xff\xff\xff\xff",
    "text that is none": "nonsense",
    "a deep nest": "[" * 100_000,
    "no type": "{}",
    "an unknown type": '{"type": "sudo"}',
    "the server's own": '{"type": "clip", "instruction": {}, "height": 1, "width": 1, "shown": 0, "drawn_on": []}',
    "a message too many fields": '{"type": "open", "path": "/etc/passwd"}',
    "a text without end": '{"type": "open", "instruction": {"phrases": ["' + "a" * 100_000 + '"]}}',
    "a text too many": '{"type": "open", "instruction": {"phrases": ' + str(["a"] * 300).replace("'", '"') + "}}",
    "a huge number": '{"type": "frame", "frame": ' + "9" * 400 + "}",
    "JSON beyond the limit": '{"type": "open", "again": "' + "a" * 2**21 + '"}',
    "a frame first": '{"type": "frame", "frame": 0}',
    "a length that lies": struct.pack(">I", 2**31) + b"{}",
}


@pytest.mark.parametrize("name", NOT_MESSAGES)
def test_what_is_no_message_ends_the_stream_by_name(served: Served, name: str) -> None:
    with connected(served) as wire:
        wire.send(NOT_MESSAGES[name])
        answer = said(wire)
        assert (answer.type, answer.code, answer.fatal) == ("error", "protocol", True)
        with pytest.raises(ConnectionClosed):
            wire.recv(20)


def test_the_same_in_mid_stream(served: Served) -> None:
    with connected(served) as wire:
        wire.send(encode(Open()))
        assert said(wire).type == "opened"
        wire.send(encode(Open()))
        answer = said(wire)
        assert (answer.code, answer.fatal) == ("protocol", True)
        assert said(wire).type == "closed"


def test_frame_numbers_that_fall(served: Served) -> None:
    with connected(served) as wire:
        wire.send(encode(Open(instruction=Asked(phrases=("dog",)))))
        for number in (5, 5):
            wire.send(encode(Frame(frame=number, format="rgb", height=1, width=1), bytes(3)))
        found = [said(wire)]
        while found[-1].type != "closed":
            found.append(said(wire))
        assert "protocol" in [one.code for one in found if one.type == "error"]


def test_oversized_messages_end_the_connection(served: Served) -> None:
    with connected(served) as wire:
        with contextlib.suppress(ConnectionClosed):
            wire.send(bytes(9 * 2**20))
        with pytest.raises(ConnectionClosed):
            wire.recv(20)
        assert wire.close_code in (1009, 1006)  # told, or cut off before it was read
    require_alive(served)


def test_compression_is_not_offered(served: Served) -> None:
    """A small compressed message would unpack to any size."""
    with connected(served, compression="deflate") as wire:
        assert "Sec-WebSocket-Extensions" not in wire.response.headers


def test_a_flood_of_questions_ends_the_stream(served: Served) -> None:
    with connected(served) as wire:
        wire.send(encode(Open(instruction=Asked(phrases=("dog",)))))
        wire.send(encode(Frame(frame=0, format="rgb", height=45, width=61), FRAME.tobytes()))
        try:
            for number in range(400):
                wire.send(encode(Ask(instruction=Asked(phrases=(f"dog {number}",)), number=number)))
                wire.send(encode(Frame(frame=number + 1, format="rgb", height=45, width=61), FRAME.tobytes()))
            while (answer := said(wire)).type != "closed":
                assert answer.type in ("opened", "result", "answered", "error")
        except ConnectionClosed:
            pass
    require_alive(served)


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic " + TOKEN, "Bearer", "Bearer " + TOKEN + "x", TOKEN])
def test_wrong_tokens(served: Served, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for path in ("/v1/info", "/metrics", "/v1/videos/x"):
        answer = httpx.get(served.url + path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    with pytest.raises(InvalidStatus) as caught, connected(served, additional_headers=headers):
        pass
    assert caught.value.response.status_code == 401
    with pytest.raises(ServeError) as refused:
        Client(served.url, token=(header or "").removeprefix("Bearer ") + "!").stream("dog")
    assert refused.value.code == "unauthorized"


def test_pages_of_others(served: Served) -> None:
    with pytest.raises(InvalidStatus), connected(served, origin="https://elsewhere.example"):
        pass
    answer = httpx.options(
        served.url + "/v1/info",
        headers={"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"},
    )
    assert "access-control-allow-origin" not in answer.headers


def in_base64url(token: str) -> str:
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def test_the_servers_own_page_brings_its_token_as_a_subprotocol(served: Served) -> None:
    offered = ["x2sam-rt", f"x2sam-rt.token.{in_base64url(TOKEN)}"]
    with connected(served, origin=served.url, subprotocols=offered, additional_headers={}) as wire:
        assert wire.subprotocol == "x2sam-rt"


@pytest.mark.parametrize("token", ["", "x2sam-rt.token.", "x2sam-rt.token.!", "x2sam-rt.token._w", "x2sam-rt.token.YQ"])
def test_a_page_without_the_token_is_told_so(served: Served, token: str) -> None:
    offered = ["x2sam-rt", *([token] if token else [])]
    with connected(served, subprotocols=offered, additional_headers={}) as wire:
        failed = said(wire)
        assert isinstance(failed, Failed)
        assert (failed.code, failed.fatal) == ("unauthorized", True)
        with pytest.raises(ConnectionClosed):
            wire.recv(20)


@pytest.mark.parametrize("origin", ["http://rebound.example:8000", "http://127.0.0.1.rebound.example:8000", "null"])
def test_without_a_token_only_names_of_this_machine_are_its_own(origin: str, tmp_path: Path) -> None:
    """With one, whoever leads another name here has no token."""
    settings = Settings(tmp_path)
    _require_origin(Settings(tmp_path, token=TOKEN), "https://machine.example", "machine.example")
    _require_origin(settings, "http://localhost:8000", "localhost:8000")
    with pytest.raises(ServeError):
        _require_origin(settings, "http://localhost:3000", "localhost:8000")
    with pytest.raises(ServeError):
        _require_origin(settings, origin, origin.removeprefix("http://"))


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "%2e%2e", "....//", "%00", "a" * 65, "C:%5Cx", "~", "result", "*"]
)
def test_names_that_look_like_paths(served: Served, name: str) -> None:
    for path in (f"/v1/videos/{name}", f"/v1/videos/{name}/result"):
        answer = served.get(path)
        assert answer.status_code in (404, 422)
        assert "root:" not in answer.text


def test_a_prompt_that_names_a_file_is_a_text(served: Served, tmp_path: Path) -> None:
    """Nothing of a client's is opened: neither mask, nor wording, nor checkpoint."""
    secret = tmp_path / "mask.png"
    Image.fromarray(np.full((45, 61), 255, np.uint8)).save(secret)
    before = os.stat(secret).st_atime_ns
    with Client(served.url, token=TOKEN).stream(f"mask:{secret}", drop="never") as stream:
        assert stream.step(FRAME).frame == 0
    assert os.stat(secret).st_atime_ns == before


def raw(served: Served) -> socket.socket:
    at = urlsplit(served.url)
    return socket.create_connection((at.hostname, at.port), timeout=30)


def test_a_slow_head_is_cut_off(served: Served) -> None:
    """One byte now and then, for ever."""
    with raw(served) as wire:
        began, cut = time.monotonic(), False
        wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        while not cut and time.monotonic() - began < 25:
            time.sleep(0.5)
            try:
                wire.sendall(b"X-a: b\r\n")
            except (ConnectionError, TimeoutError):
                cut = True
        assert cut


def test_a_connection_that_says_nothing_is_cut_off(served: Served) -> None:
    with raw(served) as wire:
        assert wire.recv(1) == b""


def test_a_stream_that_never_begins_is_closed(served: Served) -> None:
    with connected(served) as wire:
        answer = said(wire)
        assert (answer.type, answer.code) == ("error", "idle")


def test_a_body_beyond_the_limit(onnx_bundle: Path, served: Served) -> None:
    def endless() -> object:
        yield b'--x\r\nContent-Disposition: form-data; name="video"; filename="v"\r\n\r\n'
        for _ in range(400):
            yield bytes(2**20)

    headers = {**BEARER, "Content-Type": "multipart/form-data; boundary=x"}
    try:
        answer = httpx.post(served.url + "/v1/videos", content=endless(), headers=headers, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    except httpx.TransportError:  # cut off while it was still sending
        pass
    require_alive(served)


def test_when_all_places_are_taken(served: Served) -> None:
    capacity = served.get("/v1/info").json()["capacity"]
    assert capacity == 24
    client, streams = Client(served.url, token=TOKEN), []
    served.wait_for("x2sam_sessions", 0)
    try:
        streams = [client.stream("dog") for _ in range(capacity)]
        with pytest.raises(InvalidStatus) as caught, connected(served):
            pass
        assert caught.value.response.status_code == 503
        assert int(caught.value.response.headers["Retry-After"]) > 0
        file = io.BytesIO()
        Image.fromarray(FRAME).save(file, "PNG")
        answer = httpx.post(
            served.url + "/v1/image",
            files={"image": file.getvalue()},
            data={"instruction": '{"phrases": ["dog"]}'},
            headers=BEARER,
        )
        assert (answer.status_code, answer.json()["code"]) == (503, "busy")
        assert int(answer.headers["Retry-After"]) > 0
    finally:
        for stream in streams:
            stream.close()
    require_alive(served)


def test_who_does_not_read_gets_no_more_frames() -> None:
    """They give way, as if it were the device that is slow; when something is read, the newest goes on."""
    sent = list[Packet]()
    session = LiveSession(1, "a", Packet(Open()), SimpleNamespace(send=sent.append), Metrics(*[lambda: 0] * 3), None)
    for number in range(50):
        session.offer(Packet(Frame(frame=number)))
        if isinstance(sent[-1].message, Frame) and sent[-1].message.frame == number:
            record = {"frame": number, "size": [1, 1], "segments": [], "text": "", "spans": []}
            session.hear(Packet(Result(frame=number, record=record, timings={})))
    assert [one.message.frame for one in sent[1:]] == [0, 1, 2]  # the fourth reply is that it was opened
    assert session.dropped == 46
    session.replies.get_nowait()
    session.read()
    assert sent[-1].message == Frame(frame=49)


def test_forged_snapshots(served: Served) -> None:
    for payload in (b"", b"\0" * 100, os.urandom(5000), (2**40).to_bytes(8, "little") + b"{}"):
        with connected(served) as wire:
            wire.send(encode(Resume(frames=((5, 2),)), payload))
            found = [said(wire)]
            while found[-1].type != "closed":
                found.append(said(wire))
            assert [one.code for one in found if one.type == "error"] == ["snapshot"]
    require_alive(served)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([(Resume(size=10**15), b"x")], "snapshot"),  # more than a session can have
        ([(Resume(size=9), b"1234"), (Part(), b"567890")], "protocol"),  # more than was said
        ([(Resume(size=9), b"1234567890")], "protocol"),
        ([(Resume(size=9), b"1234"), (Part(), b"")], "protocol"),
        ([(Resume(size=9), b"1234"), (Frame(frame=1), b"56789")], "protocol"),
        ([(Resume(size=9), b"1234"), (Part(), b"56789")], "snapshot"),  # whole, and none
        ([(Resume(size=0), b"")], "snapshot"),
        ([(Part(), b"1")], "protocol"),
        ([(Open(), b""), (Part(), b"1")], "protocol"),
    ],
)
def test_parts_of_snapshots_that_are_none(served: Served, messages: list[tuple[Message, bytes]], code: str) -> None:
    with connected(served) as wire:
        for message, payload in messages:
            wire.send(encode(message, payload))
        found = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                found.append(said(wire))
    assert [one.code for one in found if one.type == "error"] == [code]
    require_alive(served)


def test_a_snapshot_that_never_ends_is_given_up() -> None:
    class Silent:
        async def receive(self) -> None:
            await asyncio.sleep(60)

    hub = SimpleNamespace(most_snapshot=100, settings=Settings(Path("bundle"), upload_seconds=0.1))
    with pytest.raises(TimeoutError):
        asyncio.run(_whole(Packet(Resume(size=9), b"1234"), Silent(), hub))


def test_an_address_for_others_wants_a_token() -> None:
    with pytest.raises(ConfigError, match="X2SAM_RT_TOKEN"):
        Settings(Path("bundle"), host="0.0.0.0")
    with pytest.raises(ConfigError, match="16"):
        Settings(Path("bundle"), host="0.0.0.0", token="short")


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("127.0.0.1:8000", True),
        ("localhost", True),
        ("[::1]:8000", True),
        ("LOCALHOST:1", True),
        ("a.page", True),  # allowed with --origin
        ("evil.example:8000", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
def test_without_a_token_only_requests_to_this_machine_are_answered(host: str, own: bool) -> None:
    """A page elsewhere can have its own name lead here, and its scripts then read what is answered."""
    app = make_app(Settings(Path("bundle"), origins=("https://a.page:8443", "null")))
    with_token = make_app(Settings(Path("bundle"), token=TOKEN))

    async def get(app: FastAPI, path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.get(path, headers={"Host": host})

    for path in ("/healthz", "/", "/metrics", "/v1/videos/a"):
        answer = asyncio.run(get(app, path))
        assert (answer.status_code != 421) == own
        if not own:
            assert answer.json()["code"] == "misdirected"
    assert asyncio.run(get(with_token, "/healthz")).status_code == 200


def test_too_little_memory_is_said_at_the_start(onnx_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="A session takes up to"), serving(onnx_bundle, tmp_path, "--memory=0.001"):
        pass


def test_nothing_was_an_error_of_the_servers_own(served: Served) -> None:
    """The last of this file: whatever was tried, no worker ended and nothing was raised."""
    assert served.metric("x2sam_workers_lost_total") == 0
    assert [event for event in served.events() if event["level"] == "error" or "exception" in event] == []
