"""`x2sam-rt show`: a source of the server's owner, played by the page without a click."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from x2sam_rt.cli.app import app
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.errors import ServeError, VideoError
from x2sam_rt.media.source import FrameSource
from x2sam_rt.media.sources import open_source
from x2sam_rt.serve.own_source import OwnSource

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SIDE, FRAMES = 96, 10


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, which no browser plays."""
    folder = tmp_path_factory.mktemp("shots")
    for index, frame in enumerate(make_clip(3, ClipSettings(side=SIDE, frames=FRAMES)).frames):
        Image.fromarray(frame).save(folder / f"{index}.png")
    return folder


@contextlib.contextmanager
def showing(bundle: Path, *arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address it prints, and the command."""
    command = [sys.executable, "-m", "x2sam_rt.cli.app", "show", str(bundle), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BROWSER": "true"}
    process = subprocess.Popen(
        [*command, "--threads=1"], stdout=subprocess.PIPE, text=True, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    watch = threading.Timer(90, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/#token=\S+", process.stdout.readline())
        assert found is not None
        yield found[0], process
    finally:
        watch.cancel()
        process.kill()
        process.wait()


def test_the_page_plays_a_source_of_the_command_line(onnx_bundle: Path, shots: Path) -> None:
    """Every frame once, masks on them all, and nothing was clicked; Ctrl-C ends the command."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make test-serve)")
    if CHROMIUM is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    with showing(onnx_bundle, shots, "-p", "the red circle") as (address, process), playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(address)
        status = page.get_by_role("status")
        playwright.expect(status).to_contain_text(f"ended; {FRAMES} frames were segmented", timeout=60_000)
        assert page.get_by_label("Phrase", exact=True).input_value() == "the red circle"
        assert "token" not in page.url
        page.reload()  # from the beginning, with the token it keeps
        playwright.expect(status).to_contain_text(f"ended; {FRAMES} frames were segmented", timeout=60_000)
        page.get_by_label("Phrase", exact=True).fill("the dog")
        assert httpx.get(address.partition("#")[0] + "v1/info").status_code == 401
        browser.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_one_page_at_a_time_gets_every_frame_once(shots: Path) -> None:
    own = OwnSource(lambda: open_source(shots))
    assert (own.name, own.kind) == (str(shots), "video")
    first, second = own.begin(), own.begin()
    with pytest.raises(ServeError, match="Another page shows"):
        own.next(first)
    pictures = list(iter(lambda: own.next(second), None))
    assert len(pictures) == FRAMES
    for index in (0, FRAMES - 1):
        wanted, got = (
            np.asarray(Image.open(one), int) for one in (shots / f"{index}.png", io.BytesIO(pictures[index]))
        )
        assert np.abs(wanted - got).mean() < 3
    assert own.next(second) is None
    assert own.next(own.begin()) == pictures[0]
    own.close()


def test_a_source_is_closed_with_its_pass(shots: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[FrameSource] = []
    own = OwnSource(lambda: open_source(shots / "0.png"))
    assert own.kind == "image"
    monkeypatch.setattr("x2sam_rt.media.sources.ImageSequence.close", lambda source: closed.append(source))
    own.begin()
    own.begin()
    own.close()
    assert len({id(source) for source in closed}) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.mp4",), "nowhere.mp4: no such file"),
        (("-",), "give a file or an address"),
    ],
)
def test_what_cannot_be_shown_is_said_at_once(
    onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("x2sam_rt.serve.server.serve", lambda *_: pytest.fail("a server was started"))
    result = CliRunner().invoke(app, ["show", str(onnx_bundle), *arguments])
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


def test_no_bundle(shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("x2sam_rt.serve.server.serve", lambda *_: pytest.fail("a server was started"))
    result = CliRunner().invoke(app, ["show", str(tmp_path), str(shots)])
    assert result.exit_code == 1
    assert "manifest" in result.stderr


def test_a_source_that_breaks_off_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    own = OwnSource(lambda: open_source(tmp_path))
    name = own.begin()
    assert own.next(name)
    with pytest.raises(VideoError, match=r"broken\.png"):
        own.next(name)
