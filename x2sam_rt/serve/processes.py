"""Workers of a batch as processes of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from x2sam_rt.errors import X2SamError
from x2sam_rt.runtime.bundle import Manifest
from x2sam_rt.runtime.engines import find_backend
from x2sam_rt.runtime.needs import AskedFrames, answer_bytes, frame_bytes, free_memory, loaded_bytes
from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES
from x2sam_rt.serve.batch import BatchVideo, Failure, Heard, Outcome, Segmenter, segment_file

_LARGEST = (1080, 1920)  # of frames whose answers have to fit
_SPAWN = get_context("spawn")  # engines and their threads do not survive a fork


class Processes:
    """Workers on these devices, one for each, which share the cores. folder: where they write."""

    def __init__(self, segmenter: Segmenter, devices: Sequence[str | None], folder: Path) -> None:
        self._folder = folder
        threads = max(1, len(os.sched_getaffinity(0)) // len(devices))
        self._start = [partial(_Process, segmenter, device, folder, threads) for device in devices]
        self._workers = [start() for start in self._start]

    def give(self, worker: int, video: BatchVideo) -> None:
        with contextlib.suppress(OSError):  # one that has just ended is heard of next
            self._workers[worker].wire.send(video)

    def hear(self) -> Heard:
        wires = [worker.wire for worker in self._workers]
        number = wires.index(next(one for one in wait(wires) if isinstance(one, Connection)))
        try:
            said = wires[number].recv()
        except (EOFError, OSError):
            return self._replace(number)
        if isinstance(said, Outcome):
            return Heard(number, "done", said)
        if isinstance(said, Failure):
            raise said.error()
        return Heard(number, "ready")

    def collect(self, worker: int, video: BatchVideo, target: Path) -> None:
        shutil.move(_unfinished(self._folder, video), target)

    def close(self) -> None:
        for worker in self._workers:
            worker.end()

    def _replace(self, number: int) -> Heard:
        lost = self._workers[number]
        lost.end()
        self._workers[number] = self._start[number]()
        code = lost.process.exitcode or 0
        return Heard(number, "lost", why=signal.Signals(-code).name if code < 0 else f"exit code {code}")


class _Process:
    def __init__(self, *work: object) -> None:
        """work: the arguments of `_work` behind its end of the wire."""
        self.wire, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(theirs, *work), daemon=True)
        self.process.start()
        theirs.close()

    def end(self) -> None:
        self.wire.close()
        self.process.kill()  # SIGTERM may be ignored, as whoever started this may have it
        self.process.join()


def _work(wire: Connection, segmenter: Segmenter, device: str | None, folder: Path, threads: int) -> None:
    """The other process: one video after the other, until nobody gives any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is meant for the one that gives
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        runtime = segmenter.load(device)
    except X2SamError as error:
        wire.send(Failure.of(error))
        return
    wire.send(None)
    with runtime, contextlib.suppress(EOFError):
        while True:
            video = wire.recv()
            wire.send(segment_file(runtime, video, segmenter.again, _unfinished(folder, video)))


def _end_with_parent() -> None:
    """Whoever killed the one that gives, wants no more results."""
    parent = parent_process()
    assert parent is not None, "started by another process"
    parent.join()
    os._exit(1)


def _unfinished(folder: Path, video: BatchVideo) -> Path:
    return folder / f"{video.name}.jsonl"


def fitting_devices(manifest: Manifest, videos: int) -> list[str | None]:
    """Where to segment so many videos at once: every GPU for a bundle that runs on them; else as many processes as
    this machine has cores and memory for, at least one."""
    if find_backend(manifest.backend).needs_gpu and torch.cuda.is_available():
        return [f"cuda:{index}" for index in range(min(torch.cuda.device_count(), videos))]
    fit = [len(os.sched_getaffinity(0)), videos]
    free = free_memory()
    if free is not None:
        fit.append(free // process_bytes(manifest))
    return [None] * max(1, min(fit))


def process_bytes(manifest: Manifest) -> int:
    """Most that a process takes for a video of 1080p."""
    asked = AskedFrames("video", PROMPT_FRAMES, *_LARGEST)
    return loaded_bytes(manifest) + answer_bytes(manifest, asked) + frame_bytes(manifest.model)
