"""Batches: one result per video, whatever is killed; a failure is named and stops nobody."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from x2sam_rt.cli.app import app
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.errors import ConfigError
from x2sam_rt.media.video import VideoWriter
from x2sam_rt.runtime.bundle import read_manifest
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.serve import processes
from x2sam_rt.serve.batch import Batch, BatchVideo, Heard, Outcome, Segmenter, batch_videos, segment_file
from x2sam_rt.tasks.instruction import Instruction

DOG = Instruction(phrases=("dog",))
FRAMES = 5


def write_clips(folder: Path, count: int, frames: int = FRAMES) -> list[Path]:
    paths = [folder / f"clip{number}.mp4" for number in range(count)]
    for seed, path in enumerate(paths):
        with VideoWriter(path, 64, 48, 10) as video:
            for frame in make_clip(seed, ClipSettings(side=64, frames=frames)).frames:
                video.write(frame[:48])
    return paths


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_clips(tmp_path_factory.mktemp("clips"), 4)


def run(bundle: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["batch", str(bundle), *map(str, arguments)])


def report(folder: Path) -> dict[str, dict]:
    return {entry.pop("name"): entry for entry in json.loads((folder / "report.json").read_text())}


def require_results(bundle: Path, clips: list[Path], folder: Path) -> None:
    """Exactly one of each, those of a session here to the last digit, and nothing unfinished."""
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["batch.json", "report.json", *(f"{clip.stem}.jsonl" for clip in clips)]
    )
    with Runtime.load(bundle, device="cpu") as runtime:
        for clip in clips:
            alone = folder.parent / f"{clip.stem}.alone.jsonl"
            segment_file(runtime, BatchVideo("alone", clip, DOG), Segmenter(bundle).again, alone)
            assert (folder / f"{clip.stem}.jsonl").read_bytes() == alone.read_bytes()


def test_one_result_each_and_failures_are_named(onnx_bundle: Path, clips: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    out = tmp_path / "out"
    done = run(onnx_bundle, *clips[:2], bad, tmp_path / "none.mp4", "-p", "dog", "-o", out)
    assert done.exit_code == 1
    assert "2 failed: bad, none" in done.stderr.replace("\n", " ")
    require_results(onnx_bundle, clips[:2], out)
    said = report(out)
    assert [said[name]["state"] for name in ("clip0", "clip1", "bad", "none")] == ["done", "done", "failed", "failed"]
    assert said["clip0"]["frames"] == FRAMES
    assert said["bad"]["error"].startswith("VideoError: ")

    before = {path: path.stat().st_mtime_ns for path in out.glob("clip*.jsonl")}
    again = run(onnx_bundle, *clips, "-p", "dog", "-o", out)
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [entry["state"] for entry in report(out).values()] == ["there", "there", "done", "done"]
    require_results(onnx_bundle, clips, out)

    other = run(onnx_bundle, *clips, "-p", "cat", "-o", out)
    assert other.exit_code == 1
    assert "result clip0 is there of another instruction.phrases: ['dog']; this run has ['cat']" in other.stderr


def batch_children(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children()
    return [one for one in children if "spawn_main" in " ".join(one.cmdline())]


def until(condition: object, process: subprocess.Popen) -> object:
    deadline = time.monotonic() + 60
    while not (found := condition()):  # type: ignore[operator]
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_killed_workers_and_a_killed_batch_cost_no_result(onnx_bundle: Path, tmp_path: Path) -> None:
    clips, out = write_clips(tmp_path, 5, frames=60), tmp_path / "out"
    arguments = ["batch", str(onnx_bundle), *map(str, clips), "-p", "dog", "-o", str(out)]
    command = [sys.executable, "-m", "x2sam_rt.cli.app", *arguments, "--device=cpu", "--device=cpu"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        until(lambda: list(out.glob(".report.json.partial/*/.clip*")), process)  # two are at work
        batch_children(process)[0].kill()
        until(lambda: list(out.glob("clip*.jsonl")), process)
        workers = batch_children(process)
    finally:
        process.kill()
        process.wait(30)
    assert psutil.wait_procs(workers, 10)[1] == []  # they end with it
    there = len(list(out.glob("clip*.jsonl")))
    assert 1 <= there < len(clips)
    done = run(onnx_bundle, *clips, "-p", "dog", "-o", out, "--device=cpu")
    assert done.exit_code == 0, done.output
    assert [entry["state"] for entry in report(out).values()].count("there") == there
    require_results(onnx_bundle, clips, out)


class Dying:
    """Workers of a play: each entry is what number 0 says next."""

    def __init__(self, *play: Heard) -> None:
        self.play, self.given = list(play), list[str]()

    def give(self, worker: int, video: BatchVideo) -> None:
        self.given.append(video.name)

    def hear(self) -> Heard:
        return self.play.pop(0)

    def collect(self, worker: int, video: BatchVideo, target: Path) -> None:
        target.write_text(video.name)

    def close(self) -> None:
        pass


READY, DONE, LOST = Heard(0, "ready"), Heard(0, "done", Outcome(5)), Heard(0, "lost", why="SIGKILL")


def test_a_video_that_kills_its_workers_fails_alone(onnx_bundle: Path, tmp_path: Path) -> None:
    videos = [BatchVideo(name, tmp_path / name, DOG) for name in ("a", "b")]
    workers = Dying(READY, LOST, READY, DONE, LOST, READY, LOST, READY)
    told = list[tuple[str, Outcome]]()
    with Batch(Segmenter(onnx_bundle), videos, tmp_path / "out") as batch:
        batch.run(workers, lambda video, outcome: told.append((video.name, outcome)))
        assert batch.failed == ["a"]
    assert workers.given == ["a", "b", "a", "a"]
    assert told == [("b", Outcome(5)), ("a", Outcome(error="3 workers ended over it, the last by SIGKILL."))]
    assert (tmp_path / "out" / "b.jsonl").read_text() == "b"


def test_workers_that_never_load_end_the_batch(onnx_bundle: Path, clips: list[Path], tmp_path: Path) -> None:
    done = run(onnx_bundle, clips[0], "-p", "dog", "-o", tmp_path / "out", "--device", "cuda:7")
    assert done.exit_code == 1
    assert "cuda" in done.stderr
    videos = [BatchVideo("a", tmp_path / "a", DOG)]
    with (
        Batch(Segmenter(onnx_bundle), videos, tmp_path / "out2") as batch,
        pytest.raises(Exception, match="3 workers ended as they loaded"),
    ):
        batch.run(Dying(LOST, LOST, LOST), lambda video, outcome: None)


def test_two_batches_do_not_write_one_folder(onnx_bundle: Path, clips: list[Path], tmp_path: Path) -> None:
    with Batch(Segmenter(onnx_bundle), [BatchVideo("a", clips[0], DOG)], tmp_path / "out"):
        done = run(onnx_bundle, clips[0], "-p", "dog", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "another process is writing it now" in " ".join(done.stderr.split())


def test_a_manifest_names_results_and_instructions(clips: list[Path], tmp_path: Path) -> None:
    lines = [{"video": "a.mp4"}, {"video": "a.mp4", "name": "a cat", "phrases": ["cat"]}]
    manifest = tmp_path / "videos.jsonl"
    manifest.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    first, second, third = batch_videos([manifest, clips[0]], DOG)
    assert (first.name, first.path, first.instruction.phrases) == ("a", tmp_path / "a.mp4", ("dog",))
    assert (second.name, second.instruction.phrases) == ("a cat", ("cat",))
    assert third.name == "clip0"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"video": "a.mp4"}', "nothing is asked of it"),
        ('{"name": "a"}', "wanted {"),
        ('{"video": "a.mp4", "name": "../a", "phrases": ["x"]}', "cannot name a result"),
        ('{"video": "a.mp4", "name": ".report.json.partial", "phrases": ["x"]}', "cannot name a result"),
        ('{"video": "a.mp4", "phrase": ["x"]}', "phrase"),
        ('{"video": "a.mp4", "phrases": ["x"]}\n{"video": "b/a.mp4", "phrases": ["x"]}', "would both have the result"),
        ("[]", "line 1"),
    ],
)
def test_manifests_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "videos.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=message.replace("{", "\\{")):
        batch_videos([tmp_path / "videos.jsonl"], None)


def test_as_many_processes_as_fit(onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read_manifest(onnx_bundle)
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda pid: set(range(8)))
    for free, videos, wanted in ((None, 20, 8), (None, 3, 3), (3.5, 20, 3), (0.5, 20, 1)):
        memory = None if free is None else int(free * processes.process_bytes(manifest))
        monkeypatch.setattr(processes, "free_memory", lambda memory=memory: memory)
        assert processes.fitting_devices(manifest, videos) == [None] * wanted


def test_ctrl_c_leaves_what_is_done_and_a_report(onnx_bundle: Path, tmp_path: Path) -> None:
    clips, out = write_clips(tmp_path, 3, frames=60), tmp_path / "out"
    command = [sys.executable, "-m", "x2sam_rt.cli.app", "batch", str(onnx_bundle), *map(str, clips), "-p", "dog"]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # who runs in the background may ignore it
    process = subprocess.Popen([*command, "-o", str(out), "--device=cpu"], preexec_fn=heard)
    until(lambda: list(out.glob("clip*.jsonl")), process)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    states = [entry["state"] for entry in report(out).values()]
    assert states.count("waiting") >= 1
    assert len(list(out.glob("clip*.jsonl"))) == states.count("done")
    assert not list(out.glob(".*"))
