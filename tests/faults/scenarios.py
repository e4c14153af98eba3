"""Writers and exports on the faulty file layer: killed, and on a full disk, at every one of their writes.

python scenarios.py FOLDER [NAME…] [--every], with layer.c preloaded. Prints, as JSON, how many writes each scenario has
and what went wrong in it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from recordings import RANDOM_TOY

from x2sam_rt.errors import X2SamError
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.media.image import write_image
from x2sam_rt.media.video import VideoWriter
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation
from x2sam_rt.runtime.writers.opening import OutputPlan, RunOutputs

Judge = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p)
FULL, READ_ONLY = errno.ENOSPC, errno.EROFS
_KILLS = 3  # of an export in a quick check
_FRAME = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Scenario:
    """write: makes `target` in a folder, or replaces it."""

    target: str
    write: Callable[[Path], None]


class Checked(TypedDict):
    """writes: of one run. tried: at how many of them it was made to fail. killed: at how many its process was killed.
    wrong: what was found then."""

    writes: int
    tried: int
    killed: int
    wrong: list[str]


def result(index: int) -> FrameResult:
    map = np.full((40, 48), -1, np.int32)
    map[5:20, 7:30] = 0
    segment = Segment(map == 0, "a thing", 0, 0.5, 0, True)
    return FrameResult(index, Segmentation((segment,), map, -1), "text")


def outputs(folder: Path, rate: int | None, **named: Path | tuple[Path, ...]) -> None:
    source = folder.parent / "source.mp4"
    source.touch()
    plan = OutputPlan(overwrite=True, **named)  # type: ignore[arg-type]
    with RunOutputs(plan, source, rate) as writer:  # type: ignore[arg-type]
        for index in range(1 if rate is None else 3):
            writer.write(_FRAME, result(index))


def video(path: Path) -> None:
    with VideoWriter(path, 48, 40, 25) as writer:
        for _ in range(3):
            writer.write(_FRAME)


def export(path: Path) -> None:
    export_bundle(ExportPlan(load_checkpoint(RANDOM_TOY), "torch", verify=False), path, overwrite=True)


SCENARIOS = {
    "jsonl": Scenario("out.jsonl", lambda folder: outputs(folder, 25, outputs=(folder / "out.jsonl",))),
    "mp4": Scenario("out.mp4", lambda folder: outputs(folder, 25, outputs=(folder / "out.mp4",))),
    "mkv": Scenario("out.mkv", lambda folder: video(folder / "out.mkv")),
    "png": Scenario("out.png", lambda folder: outputs(folder, None, outputs=(folder / "out.png",))),
    "image": Scenario("out.jpg", lambda folder: write_image(folder / "out.jpg", _FRAME)),
    "davis": Scenario("source", lambda folder: outputs(folder, 25, davis=folder)),
    "panoptic": Scenario("out", lambda folder: outputs(folder, 25, panoptic=folder / "out")),
    "export": Scenario("bundle", lambda folder: export(folder / "bundle")),
}


@contextmanager
def watched(folder: Path, judge: Callable[[str, str], int]) -> Iterator[None]:
    layer = ctypes.CDLL(None)
    function = Judge(lambda operation, path: judge(operation.decode(), path.decode()))
    layer.x2sam_watch(function, os.fsencode(folder))
    try:
        yield
    finally:
        layer.x2sam_watch(None, None)


class FailingFrom:
    """Counts writes; those from one on fail, as on a disk that is full then."""

    def __init__(self, first: int | None = None, error: int = FULL) -> None:
        self.first, self.error, self.count = first, error, 0

    def __call__(self, operation: str, path: str) -> int:
        self.count += 1
        return self.error if self.first is not None and self.count > self.first else 0


class KilledAt(FailingFrom):
    def __call__(self, operation: str, path: str) -> int:
        self.count += 1
        if self.first is not None and self.count > self.first:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0


def tree(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """What tells two states of a file or folder apart without reading it; () where there is none."""
    if not path.exists():
        return ()
    files = sorted((path, *path.rglob("*")))
    found = ((str(file.relative_to(path)), file.stat()) for file in files)
    return tuple(
        (name, stat.st_ino, stat.st_size if not stat.st_mode & 0o40000 else 0, stat.st_mtime_ns) for name, stat in found
    )


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def fresh(folder: Path, scenario: Scenario, *, there: bool) -> None:
    """there: the scenario's own result from before, to be replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if there:
        scenario.write(folder)


def check_failing(folder: Path, scenario: Scenario, moments: list[int], there: bool, error: int = FULL) -> list[str]:
    wrong = []
    fresh(folder, scenario, there=there)
    for first in moments:
        before = tree(folder / scenario.target)
        with watched(folder, FailingFrom(first, error)):
            try:
                scenario.write(folder)
                wrong.append(f"write {first}: no error")
            except X2SamError as told:
                if os.strerror(error) not in str(told):
                    wrong.append(f"write {first}: {told}")
            except BaseException as bare:
                wrong.append(f"write {first}: {type(bare).__name__}: {bare}")
        if tree(folder / scenario.target) != before:
            wrong.append(f"write {first}: the older one changed")
        if hidden(folder):
            wrong.append(f"write {first}: left {hidden(folder)}")
    return wrong


def check_kills(folder: Path, scenario: Scenario, moments: list[int], there: bool) -> list[str]:
    """In processes of their own, whose remains the next run has to deal with."""
    wrong = []
    fresh(folder, scenario, there=there)
    whole = len(tree(folder / scenario.target))
    for first in moments:
        before = tree(folder / scenario.target)
        child = os.fork()
        if child == 0:
            with watched(folder, KilledAt(first)):
                scenario.write(folder)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            wrong.append(f"write {first}: was not killed, but ended with {status}")
        after = tree(folder / scenario.target)
        if after not in ((), before) and not (len(after) == whole and after != before):
            wrong.append(f"write {first}: left half of it")
        if there and not after:
            wrong.append(f"write {first}: the older one is gone")
    scenario.write(folder)
    if hidden(folder):
        wrong.append(f"after all: left {hidden(folder)}")
    return wrong


def check_every_moment(folder: Path, scenario: Scenario, there: bool) -> list[str]:
    """One run, looked at before every write: what a kill would leave there is what is there."""
    fresh(folder, scenario, there=there)
    states = [tree(folder / scenario.target)]

    def look(operation: str, path: str) -> int:
        states.append(tree(folder / scenario.target))
        return 0

    with watched(folder, look):
        scenario.write(folder)
    states.append(tree(folder / scenario.target))
    changes = [n for n in range(1, len(states)) if states[n] != states[n - 1]]
    return [] if len(changes) == 1 else [f"{len(changes)} states between the old and the new, at writes {changes}"]


def count_writes(folder: Path, scenario: Scenario, *, there: bool) -> int:
    fresh(folder, scenario, there=there)
    counter = FailingFrom()
    with watched(folder, counter):
        scenario.write(folder)
    return counter.count


def sites(folder: Path, scenario: Scenario, *, there: bool) -> list[int]:
    """The last write to each file or folder: all before it is there then."""
    fresh(folder, scenario, there=there)
    found: dict[str, int] = {}
    writes = 0

    def note(operation: str, path: str) -> int:
        nonlocal writes
        found[path] = writes
        writes += 1
        return 0

    with watched(folder, note):
        scenario.write(folder)
    return sorted(found.values())


def check(folder: Path, name: str, *, every: bool) -> Checked:
    """every: at every write; else of an export, which has hundreds, at the last to each file."""
    scenario, wrong, tried, kills = SCENARIOS[name], list[str](), 0, 0
    quick = name == "export" and not every
    for there in (True,) if quick else (False, True):
        writes = count_writes(folder, scenario, there=there)
        moments = sites(folder, scenario, there=there) if quick else list(range(writes))
        tried += len(moments)
        wrong += [f"full disk, {one}" for one in check_failing(folder, scenario, moments, there)]
        wrong += [f"read-only, {one}" for one in check_failing(folder, scenario, [0], there, READ_ONLY)]
        killed = moments[:: max(1, len(moments) // _KILLS)] if quick else moments
        kills += len(killed)
        wrong += [f"killed, {one}" for one in check_kills(folder, scenario, killed, there)]
        wrong += [f"looked at, {one}" for one in check_every_moment(folder, scenario, there)]
    return {"writes": writes, "tried": tried, "killed": kills, "wrong": wrong}


def main(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)  # of what killed processes left
    folder, names = Path(arguments[0]), [name for name in arguments[1:] if name in SCENARIOS]
    print(json.dumps({name: check(folder / name, name, every="--every" in arguments) for name in names or SCENARIOS}))


if __name__ == "__main__":
    main(sys.argv[1:])
