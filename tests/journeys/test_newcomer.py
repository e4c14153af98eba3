"""Somebody who has nothing but the README: its commands and its snippet, in their order, as processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from walk import typed

import x2sam_rt
from x2sam_rt.media.video import VideoReader
from x2sam_rt.runtime.writers import read_coco_rle

README = (Path(__file__).parents[2] / "README.md").read_text()
SESSION = re.findall(r"^\$ (x2sam-rt .*)$", README, re.MULTILINE)
SNIPPET = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]  # type: ignore[index]
TASK = next(
    line for line in README.splitlines() if line.startswith("x2sam-rt run bundle --video") and "referring" in line
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves of media, and the bundle that the README's first command makes."""
    folder = tmp_path_factory.mktemp("newcomer")
    typed("x2sam-rt demo-media -o demo", folder)
    printed, _ = typed(SESSION[0], folder)
    assert re.fullmatch(r"bundle: 5 stages for onnxruntime, [\d.]+ MiB\n", printed)
    return folder


def test_the_version() -> None:
    printed, _ = typed("x2sam-rt --version", Path())
    assert x2sam_rt.__version__ in printed


def test_the_first_session(folder: Path) -> None:
    """Prints and writes what the README shows, up to figures that vary by machine."""
    printed, _ = typed(SESSION[1], folder)
    shown = README.split(SESSION[1])[1].split("```")[0].strip().splitlines()
    lines = printed.strip().splitlines()
    assert lines[-1] == shown[-1] == "96 frames; last frame above."
    assert lines[0].split()[0] == shown[0].split()[0]
    assert lines[0].split("px")[1] == shown[0].split("px")[1]
    area = [int(line.split()[2]) for line in (lines[0], shown[0])]
    assert area[0] == pytest.approx(area[1], rel=0.1)
    with VideoReader(folder / "masked.mp4") as video, VideoReader(folder / "demo/clip.mp4") as clip:
        masked, plain = [frame.pixels for frame in video], [frame.pixels for frame in clip]
    assert len(masked) == len(plain) == 96
    assert all(np.abs(one.astype(int) - other).max() > 100 for one, other in zip(masked, plain, strict=True))


def test_a_second_time_says_what_is_there_already(folder: Path) -> None:
    _, said = typed("x2sam-rt run bundle demo/photo.png -p it -o demo/photo.png", folder, code=1)
    assert "would be lost" in said
    _, said = typed("x2sam-rt export toy -o bundle", folder, code=1)
    assert "--overwrite" in said


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        ("x2sam-rt inspect bundle", "frame_encoder"),
        ("x2sam-rt verify bundle --quick", "mask_decoder"),
        ("x2sam-rt profile bundle --video short.mkv --html profile.html", "p99"),
        ("x2sam-rt eval bundle --limit 1", "referring"),
    ],
)
def test_the_other_commands(folder: Path, command: str, wanted: str) -> None:
    short = "x2sam-rt run bundle demo/clip.mp4 -p it --max-frames 6 --alpha 0 --outline 0 --no-legend --overwrite"
    typed(f"{short} -o short.mkv", folder)
    printed, said = typed(command, folder)
    assert wanted in printed + said
    if "--html" in command:
        assert "<html" in (folder / "profile.html").read_text()


def test_a_task_of_the_table_on_a_part_of_the_film(folder: Path) -> None:
    command = TASK.replace("--video clip.mp4", "demo/clip.mp4 --start 1 --end 1.3")
    typed(command, folder)
    lines = [json.loads(line) for line in (folder / "clip_referring.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(8))
    assert len(list(read_coco_rle(folder / "clip_referring.jsonl"))) == 8


def test_the_snippet(folder: Path) -> None:
    """Typed off the page; `frames` comes from the film."""
    script = folder / "snippet.py"
    script.write_text(
        "from itertools import islice\n"
        "from x2sam_rt.media.video import VideoReader\n"
        "frames = [frame.pixels for frame in islice(VideoReader('demo/clip.mp4'), 4)]\n"
        f"{SNIPPET}"
        "assert len(blob) > 1000\n"
        "print('came to the end', result)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "came to the end" in done.stdout
