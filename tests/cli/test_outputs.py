"""What commands write: nothing is lost that was there, nothing half done is left, whatever ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from x2sam_rt.cli.app import app
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.media.video import VideoReader, VideoWriter
from x2sam_rt.model.frame_layout import RGB, Frame, Layout
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.runtime.writers import read_coco_rle, read_davis, read_panoptic

FRAMES = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frames = make_clip(0, ClipSettings(side=64, frames=FRAMES)).frames
    Image.fromarray(frames[0]).save(tmp_path / "photo.png")
    with VideoWriter(tmp_path / "clip.mp4", 64, 64, 12) as video:
        for frame in frames:
            video.write(frame)
    return tmp_path


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("x2sam_rt.runtime.runtime.Runtime.load", lambda *_, **__: pytest.fail("the model was loaded"))


def run(bundle: Path, *arguments: object) -> Result:
    prompt = [] if "-r" in arguments else ["-p", "the circle"]
    return CliRunner().invoke(app, ["run", str(bundle), *map(str, arguments), *prompt])


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.usefixtures("unloadable")
def test_the_segmented_file_is_never_written_to(torch_bundle: Path, folder: Path) -> None:
    clip, before = folder / "clip.mp4", (folder / "clip.mp4").read_bytes()
    (folder / "link.mp4").symlink_to("clip.mp4")
    os.link(clip, folder / "same.mp4")
    for output in (clip, folder / "link.mp4", folder / "same.mp4", folder / "." / "clip.mp4"):
        for more in ((), ("--overwrite",)):
            result = run(torch_bundle, "--video", clip, "-o", output, *more)
            assert result.exit_code == 1
            assert "would be lost" in said(result)
    result = run(torch_bundle, "--image", folder / "photo.png", "--panoptic", folder, "--overwrite")
    assert "would be lost" in said(result)
    assert clip.read_bytes() == before
    assert names(folder) == ["clip.mp4", "link.mp4", "photo.png", "same.mp4"]


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--video", "clip.mp4", "-o", "there.mp4"), "there.mp4: exists already"),
        (("--video", "clip.mp4", "-o", "new.jsonl", "-o", "there.mp4"), "there.mp4: exists already"),
        (("--video", "clip.mp4", "-o", "new.mp4", "-o", "./new.mp4"), "named as an output twice"),
        (("--video", "clip.mp4", "-o", "new.png"), "holds one image"),
        (("--video", "clip.mp4", "-o", "new.gif"), "cannot write .gif"),
        (("--video", "clip.mp4", "--davis", "new", "-o", "nowhere/new.mp4"), "no folder nowhere"),
        (("--video", "clip.mp4", "--davis", "new", "--panoptic", "diary", "--overwrite"), "diary: exists already"),
        (("--video", "clip.mp4", "--panoptic", "new", "--davis", "there.mp4"), "there.mp4: cannot be written"),
        (("--image", "photo.png", "-o", "new.mp4"), "an image makes no video"),
        (("--image", "photo.png", "-o", "new.jsonl", "-o", "photo.png"), "would be lost"),
        (("--image", "clip.mp4", "-o", "new.png"), "is not an image"),
        (("--video", "clip.mp4", "-t", "chat", "-o", "new.mp4"), "answers in words"),
        (("--video", "clip.mp4", "-o", "new.webm", "--codec", "h264"), ".webm files hold no h264; wanted one of"),
        (("--video", "clip.mp4", "-o", "new.mp4", "--crf", "70"), "h264 takes a crf from 0 to 51, not 70"),
        (("--video", "clip.mp4", "-o", "new.jsonl", "--crf", "20"), "no output is a video of overlays or mattes"),
        (("--video", "clip.mp4", "--cutout", "new.mp4"), "wanted one of .mov, .mkv, .webm"),
        (("--video", "clip.mp4", "--cutout", "new.png"), "holds one image; wanted one of .mov, .mkv, .webm for"),
        (("--video", "clip.mp4", "--cutout", "diary", "--overwrite"), "diary: exists already"),
        (("--video", "clip.mp4", "--matte", "clip.mp4"), "would be lost"),
        (("--video", "clip.mp4", "--matte", "new.mp4", "-o", "new.mp4"), "named as an output twice"),
        (("--image", "photo.png", "--cutout", "new.jpg"), "wanted one of .png"),
        (("--image", "photo.png", "--matte", "new"), "cannot write a file without suffix"),
        (("--video", "clip.mp4", "-o", "n" * 251 + ".mp4"), "File name too long"),
        (("small/", "--davis", "new", "-o", "new.mkv", "--codec", "hevc"), "takes no frames of 2×2 pixels"),
        (("--video", "clip.mp4", "-t", "object", "-r", "point:64,9", "-o", "new.mp4"), "outside the 64×64 frame"),
        (("--video", "clip.mp4", "-t", "object", "-r", "box:70,9,80,20@5", "-o", "new.mp4"), "outside the 64×64"),
        (("--video", "clip.mp4", "-t", "object", "-r", "point:9,9@6", "-o", "new.mp4"), "Prompt on frames [6], but"),
        (("--image", "photo.png", "-t", "interactive", "-r", "point:9,64", "-o", "new.png"), "outside the 64×64"),
        (("--image", "photo.png", "-t", "object", "-r", "point:9,9", "-o", "new.png"), "object is for videos"),
        (("clip.mp4", "-t", "interactive", "-r", "point:9,9", "-o", "new.mp4"), "interactive is for images"),
        (("*.png", "-t", "object", "-r", "point:64,9", "-o", "new.mp4"), "point at (64, 9) lies outside the 64×64"),
        (("http://127.0.0.1:9/a.jpg", "-o", "new.mp4"), "a.jpg: cannot be opened"),
        (("small/", "-t", "object", "-r", "mask:photo.png", "-o", "new.mp4"), "mask is 64×64, the frame 2×2"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[2:])[:40],
)
def test_what_cannot_be_written_is_refused_before_the_model_is_loaded(
    torch_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(folder)
    Path("there.mp4").write_text("mine")
    Path("small").mkdir()
    Image.new("RGB", (2, 2)).save("small/0.png")
    Path("diary").mkdir()
    Path("diary/monday.txt").write_text("mine")
    before = names(folder)
    result = run(torch_bundle, *arguments)
    assert result.exit_code == 1
    assert message in said(result)
    assert names(folder) == before
    assert Path("there.mp4").read_text() == "mine"


def test_outputs_are_replaced_on_request(torch_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    outputs = ("-o", "masks.jsonl", "-o", "masked.mkv", "--davis", "davis", "--panoptic", "panoptic")
    command = (torch_bundle, "--video", "clip.mp4", *outputs)
    assert run(*command).exit_code == 0
    Path("masks.jsonl").write_text("older")
    Path("davis/clip/00000.png").unlink()
    Path("panoptic/panoptic.json").write_text("older")
    assert "exists already" in said(run(*command))
    result = run(*command, "--overwrite")
    assert result.exit_code == 0, result.output
    assert len(list(read_coco_rle("masks.jsonl"))) == FRAMES
    assert len(list(read_davis("davis/clip"))) == FRAMES
    assert len(list(read_panoptic("panoptic"))) == FRAMES
    with av.open("masked.mkv") as container:
        assert "matroska" in container.format.name
    assert [name for name in names(folder) if name.startswith(".")] == []


def test_mattes_and_cut_outs(torch_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    outputs = ("-o", "masked.webm", "--matte", "matte.mp4", "--cutout", "cut.mov", "--davis", "davis", "--crf", "10")
    result = run(torch_bundle, "clip.mp4", *outputs)
    assert result.exit_code == 0, result.output
    with av.open("cut.mov") as container:
        alpha = [np.frombuffer(frame.planes[3], np.uint16).reshape(64, -1)[:, :64] for frame in container.decode()]
    with VideoReader("matte.mp4") as video:
        white = [frame.pixels.mean(axis=2) for frame in video]
    masks = [map >= 0 for map in read_davis("davis/clip")]
    assert len(alpha) == len(white) == len(masks) == FRAMES
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(alpha[index] > 2000, mask)
        assert (np.abs(white[index] - 255.0 * mask) > 60).mean() < 0.01
    photo = run(torch_bundle, "photo.png", "--cutout", "cut.png")
    assert photo.exit_code == 0, photo.output
    assert Image.open("cut.png").mode == "RGBA"


def test_sound_is_copied_or_said_to_be_left_out(
    torch_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    talking("talk.mp4")
    outputs = ("-o", "masked.mp4", "-o", "masked.webm", "--matte", "matte.mp4", "--max-frames", "3")
    result = run(torch_bundle, "talk.mp4", *outputs)
    assert result.exit_code == 0, result.output
    assert "masked.webm gets no sound: webm holds no aac" in said(result)
    assert "masked.mp4" not in said(result)
    for name, streams in (("masked.mp4", 2), ("masked.webm", 1), ("matte.mp4", 1)):
        with av.open(name) as container:
            assert len(container.streams) == streams
    mute = run(torch_bundle, "talk.mp4", "-o", "mute.mp4", "--no-sound", "--max-frames", "2")
    assert mute.exit_code == 0, mute.output
    with av.open("mute.mp4") as container:
        assert len(container.streams) == 1


def talking(name: str) -> None:
    with av.open(name, "w") as container:
        picture, sound = container.add_stream("libx264", rate=10), container.add_stream("aac", rate=48_000)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"  # type: ignore[union-attr]
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * index, np.uint8))
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(picture.encode(frame))  # type: ignore[union-attr, arg-type]
            noise = np.random.default_rng(index).uniform(-0.5, 0.5, (2, 4800)).astype(np.float32)
            waves = av.AudioFrame.from_ndarray(noise, format="fltp", layout="stereo")
            waves.sample_rate, waves.pts, waves.time_base = 48_000, 4800 * index, Fraction(1, 48_000)
            container.mux(sound.encode(waves))  # type: ignore[union-attr, arg-type]
        for stream in (picture, sound):
            container.mux(stream.encode(None))  # type: ignore[union-attr]


def test_masks_can_be_followed_while_they_are_written(
    torch_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads the file that the message names has every frame that is done, also after it took its name."""
    monkeypatch.chdir(folder)
    followed: list[int] = []

    def follow() -> None:
        with growing.open() as file:
            followed.append(len(file.read().splitlines()))

    growing = Path(".masks.jsonl.partial/masks.jsonl")
    stopping_at(4, follow, monkeypatch)
    result = run(torch_bundle, "clip.mp4", "-o", "masks.jsonl", "--live")  # without a frame read ahead
    assert result.exit_code == 0, result.output
    assert f"masks.jsonl can be followed: tail -f {growing}" in said(result)
    assert followed == [4]  # frames 0 to 3, while 4 is worked on
    assert not growing.exists()


@pytest.mark.usefixtures("unloadable")
def test_a_profile_replaces_nothing(torch_bundle: Path, folder: Path) -> None:
    written = folder / "profile.json"
    written.write_text("mine")
    arguments = ["profile", torch_bundle, "--video", folder / "clip.mp4", "--json", written]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 1
    assert "exists already" in said(result)


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A suite that runs in the background may ignore Ctrl-C and the end of its terminal."""
    numbers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stopping_at(frame: int, stop: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    step = VideoSession.step

    def stopped(session: VideoSession, pixels: Frame, layout: Layout = RGB) -> FrameResult:
        result = step(session, pixels, layout)
        if result.index == frame:
            stop()
        return result

    monkeypatch.setattr(VideoSession, "step", stopped)


def signalled(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing(
    torch_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    stopping_at(3, signalled(number), monkeypatch)
    before = names(folder)
    outputs = ("-o", folder / "masked.mp4", "-o", folder / "masks.jsonl", "--davis", folder / "davis")
    result = run(torch_bundle, "--video", folder / "clip.mp4", *outputs, "--panoptic", folder / "panoptic")
    assert result.exit_code == 128 + number
    assert "3 frames are not kept (--keep-partial keeps them)" in said(result)
    assert names(folder) == before
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("frame", [0, 3])
def test_an_interrupted_run_keeps_what_is_done_on_request(
    torch_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, frame: int
) -> None:
    stopping_at(frame, signalled(signal.SIGINT), monkeypatch)
    before = names(folder)
    outputs = ("-o", folder / "masked.mp4", "-o", folder / "masks.jsonl", "--davis", folder / "davis")
    result = run(torch_bundle, "--video", folder / "clip.mp4", *outputs, "--keep-partial")
    assert result.exit_code == 130
    if frame == 0:  # there is nothing to keep
        assert names(folder) == before
        return
    assert f"3 frames are kept in {folder / 'masked.mp4'}, {folder / 'masks.jsonl'}" in said(result)
    with VideoReader(folder / "masked.mp4") as video:
        assert len(list(video)) == 3
    assert len(list(read_coco_rle(folder / "masks.jsonl"))) == 3
    assert len(list(read_davis(folder / "davis" / "clip"))) == 3
    assert [name for name in names(folder) if "partial" in name] == []


def test_a_signal_while_a_frame_is_written_waits_for_all_outputs(
    torch_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One output must not have a frame that another lacks."""
    write, written = VideoWriter.write, 0

    def stopped(writer: VideoWriter, *arguments: object) -> None:
        nonlocal written
        written += 1
        if written == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        write(writer, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoWriter, "write", stopped)
    outputs = ("-o", folder / "masked.mp4", "-o", folder / "masks.jsonl", "--keep-partial")
    result = run(torch_bundle, "--video", folder / "clip.mp4", *outputs)
    assert result.exit_code == 143
    with VideoReader(folder / "masked.mp4") as video:
        assert len(list(video)) == len(list(read_coco_rle(folder / "masks.jsonl"))) == 3


COMMANDS = {  # each with what it is terminated in
    "export toy -o new --engine torch": "export.bundle_writer._write_weights",
    "run BUNDLE --video clip.mp4 -p it -o new.mp4 --davis new": "runtime.run.read_prompt_frames",
    "profile BUNDLE --video clip.mp4 --json new": "runtime.session.VideoSession.step",
    "eval BUNDLE --limit 1": "runtime.session.VideoSession.step",
    "verify BUNDLE": "export.verify.stage_error",
    "inspect BUNDLE": "runtime.bundle.load_manifest",
    "data make-vgd synthetic -o new --clips 1": "data.make_vgd.write_synthetic",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_cleans_up_when_it_is_terminated(
    torch_bundle: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(f"x2sam_rt.{COMMANDS[command]}", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    before = names(folder)
    result = CliRunner().invoke(app, command.replace("BUNDLE", str(torch_bundle)).split())
    assert result.exit_code == 143, result.output
    assert "stopped" in said(result)
    assert names(folder) == before


def test_a_terminated_process_leaves_nothing(torch_bundle: Path, folder: Path) -> None:
    """From outside, in the middle of its work."""
    endless = (
        "from x2sam_rt.media import video; once = video.VideoReader.__iter__; "
        "video.VideoReader.__iter__ = lambda self: (frame for head in once(self) for frame in [head] * 10000); "
        "from x2sam_rt.cli.app import app; app()"
    )
    before = names(folder)
    arguments = ["run", torch_bundle, "--video", folder / "clip.mp4", "-p", "it", "-o", folder / "masks.jsonl"]
    process = subprocess.Popen(
        [sys.executable, "-c", endless, *map(str, arguments)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    growing = folder / ".masks.jsonl.partial" / "masks.jsonl"
    for _ in range(600):
        if growing.is_file() and growing.stat().st_size:
            break
        time.sleep(0.1)
    assert process.poll() is None
    assert names(folder) != before
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert b"Traceback" not in errors
    assert names(folder) == before
