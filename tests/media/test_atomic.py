"""Outputs take their names at once, from one process at a time, and replace nothing they may not."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from x2sam_rt.errors import VideoError
from x2sam_rt.media import atomic
from x2sam_rt.media.atomic import AtomicOutput, any_file, atomic_file, nothing, uninterrupted


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out.txt"


def test_a_file_replaces_a_file_when_it_is_complete(target: Path) -> None:
    target.write_text("old")
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert beside(target) == ["out.txt"]


def test_a_link_is_replaced_and_not_what_it_shows(target: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    target.symlink_to(tmp_path / "elsewhere")
    with atomic_file(target) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "elsewhere").read_text() == "mine"
    assert not target.is_symlink()


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere")], ids=["fifo", "dir", "dead"]
)
def test_what_is_no_file_is_left_alone(target: Path, make: Callable[[Path], object]) -> None:
    make(target)
    with pytest.raises(VideoError, match="exists already"):
        AtomicOutput(target)
    assert beside(target) == ["out.txt"]


def test_what_appears_meanwhile_is_left_alone(target: Path) -> None:
    output = AtomicOutput(target, replaces=nothing)
    output.temporary.write_text("new")
    target.write_text("mine")
    with pytest.raises(VideoError, match="left alone"):
        output.publish()
    assert target.read_text() == "mine"
    assert beside(target) == ["out.txt"]


@pytest.mark.parametrize("folder", [False, True])
def test_what_appears_at_the_last_moment_is_left_alone(
    target: Path, folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last look, before the rename."""
    output = AtomicOutput(target, folder=folder, replaces=nothing)
    if not folder:
        output.temporary.write_text("new")
    exists = os.path.lexists

    def late(path: Path) -> bool:
        before = exists(path)
        target.write_text("mine")
        return before

    monkeypatch.setattr(atomic.os.path, "lexists", late)
    with pytest.raises(VideoError, match="left alone"):
        output.publish()
    assert target.read_text() == "mine"
    assert beside(target) == ["out.txt"]


def test_a_file_system_that_cannot_rename_so_replaces_nothing_either(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class System:
        def __init__(self, *_: object, **__: object) -> None: ...

        def renameat2(self, *_: object) -> int:
            atomic.ctypes.set_errno(22)
            return -1

    monkeypatch.setattr(atomic.ctypes, "CDLL", System)
    for folder in (False, True):
        output = AtomicOutput(target, folder=folder, replaces=nothing)
        (output.temporary / "one" if folder else output.temporary).write_text("new")
        output.publish()
        assert beside(target) == ["out.txt"]
        with pytest.raises(VideoError, match="exists already"):
            AtomicOutput(target, folder=folder, replaces=nothing)
        if not folder:
            target.unlink()
    output = AtomicOutput(target, folder=True, replaces=lambda old: True)
    with pytest.raises(VideoError, match="cannot exchange two names"):
        output.publish()
    assert (target / "one").read_text() == "new"
    assert beside(target) == ["out.txt"]


def test_one_writer_at_a_time(target: Path) -> None:
    with atomic_file(target) as temporary:
        temporary.write_text("first")
        with pytest.raises(VideoError, match="another process is writing it"), atomic_file(target):
            pytest.fail("two writers of one file")
    assert target.read_text() == "first"


def test_what_a_killed_process_left_goes(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = (
        "import os, sys; from x2sam_rt.media.atomic import AtomicOutput; output = AtomicOutput(sys.argv[1]); "
        "output.temporary.write_text('half'); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False, timeout=900)
    assert done.returncode == -signal.SIGKILL
    assert beside(target) == [".out.txt.partial"]
    with atomic_file(target) as temporary:
        temporary.write_text("new")
    assert ".out.txt.partial: removed what a killed process had left there" in caplog.text
    assert beside(target) == ["out.txt"]


def test_a_folder_that_its_holder_removed_is_not_taken_for_ours(target: Path) -> None:
    hidden = target.with_name(".out.txt.partial")
    hidden.mkdir()
    lock = os.open(hidden, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    hidden.rmdir()
    assert not atomic.is_still(hidden, lock)
    with atomic_file(target) as temporary:
        temporary.write_text("new")
    os.close(lock)
    assert target.read_text() == "new"


def test_a_name_too_long_is_named(tmp_path: Path) -> None:
    for length in (250, 300):
        with pytest.raises(VideoError, match="File name too long"):
            AtomicOutput(tmp_path / ("n" * length), replaces=any_file)
    assert not list(tmp_path.iterdir())


def test_signals_wait_for_what_must_not_be_half_done() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background may ignore it
    done = []

    def interrupted() -> None:
        with uninterrupted(), uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("first")
        done.append("never")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["first"]
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
