"""A short round of every fuzz target, and all inputs that were trouble once. Long rounds: `make fuzz`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz as fuzzing
from limits import ROOM, Limits, Progress, peak_alone
from targets import TARGETS, as_objects

from x2sam_rt.documents import parse_object

SECONDS, MOST = 4.0, 2000
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured on Linux")


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"media"}))
def test_target(name: str) -> None:
    run_one = fuzzing.runner(name)
    for data in [*TARGETS[name].seeds(), *fuzzing.corpus(name)]:
        run_one(data)
    assert fuzzing.run_random(name, run_one, SECONDS, seed=1, most=MOST) > 20


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"index", "run_lengths", "prompt"}))
def test_seeds_are_sound(name: str) -> None:
    """What every mutant comes from passes; otherwise nothing behind the first check would be reached."""
    target = TARGETS[name]
    if name == "manifest":  # of this version's schema
        target.run(target.seeds()[-1])
    elif name == "region":  # the last one names a file that is not there
        for data in target.seeds()[:-1]:
            target.run(data)
    else:
        for data in target.seeds():
            target.run(data)


def test_media() -> None:
    """In a process of their own: a decoder that crashes must not take the tests along."""
    counts = fuzzing.fuzz("media", 60, seed=1, executions=150)
    assert (counts.executions >= 150, counts.found) == (True, 0)


def test_mutants_are_chosen_by_what_they_reach(tmp_path: Path) -> None:
    """What reached something new is kept among the seeds; nothing is where the code is not instrumented."""
    pytest.importorskip("atheris", reason="extra [fuzz]")
    command = [
        sys.executable,
        fuzzing.__file__,
        "config",
        "--work",
        str(tmp_path),
        "--executions",
        "500",
        "--seed",
        "3",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert Progress(tmp_path / "progress").count >= 500
    sown = len(TARGETS["config"].seeds()) + len(fuzzing.corpus("config"))
    assert len(list((tmp_path / "seeds-3").iterdir())) > sown


@linux
def test_an_input_that_takes_more_memory_than_it_needs_is_trouble() -> None:
    limits, kept = Limits(), list[bytes]()
    limits.run(lambda: bytes(1000), lambda: 0)
    with pytest.raises(MemoryError, match=r"bytes for one input; wanted at most 16,977,216"):
        limits.run(lambda: bytearray(b"x" * (4 * ROOM)), lambda: 100_000)
    limits.run(lambda: kept.append(b"x" * (8 * ROOM)), lambda: 8 * ROOM)


@linux
def test_the_need_of_documents_is_what_python_makes_of_them() -> None:
    for content in (b"[],", b'{"":{}},', b'{"a":1},', b'"\xc3\xa9\xc3\xa9",', b"1.5,"):
        data = b'{"a":[' + content * (10**6 // len(content)) + b"1]}"
        taken = peak_alone(lambda data=data: parse_object(data, "a document"))  # type: ignore[misc]
        assert taken < as_objects(data) + ROOM, content


def test_an_input_that_takes_a_second_is_trouble() -> None:
    until = time.process_time() + 1.1

    def work() -> None:
        while time.process_time() < until:
            pass

    with pytest.raises(TimeoutError, match="for one input"):
        Limits().run(work, lambda: 0)


def test_an_input_that_ends_its_process_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    progress, child = Progress(path), os.fork()
    if child == 0:
        own = Progress(path)
        own.begin(b"sound")
        own.begin(b"deadly")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert (progress.count, progress.last) == (2, b"deadly")
