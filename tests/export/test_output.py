from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from x2sam_rt.errors import BundleError
from x2sam_rt.export.output import bundle_folder
from x2sam_rt.media import atomic
from x2sam_rt.runtime.bundle import MANIFEST


def write(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "bundle"


@pytest.fixture
def old(target: Path) -> Path:
    target.mkdir()
    write(target, "old")
    return target


def appear(target: Path, holds: str | None) -> None:
    target.mkdir()
    if holds:
        (target / holds).write_text("mine")


def beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_a_bundle_appears_when_it_is_complete(target: Path) -> None:
    with bundle_folder(target, overwrite=False) as folder:
        write(folder, "new")
        assert not target.exists()
    assert (target / MANIFEST).read_text() == "new"
    assert beside(target) == ["bundle"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_interrupted_export_leaves_what_was_there(old: Path, stop: type[BaseException]) -> None:
    def interrupted() -> None:
        with bundle_folder(old, overwrite=True) as folder:
            write(folder, "new")
            raise stop

    with pytest.raises(stop):
        interrupted()
    assert (old / MANIFEST).read_text() == "old"
    assert beside(old) == ["bundle"]


def test_overwriting_exchanges_names(old: Path) -> None:
    with bundle_folder(old, overwrite=True) as folder:
        write(folder, "new")
    assert (old / MANIFEST).read_text() == "new"
    assert beside(old) == ["bundle"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("holds", [None, "diary.txt"])
def test_what_appears_meanwhile_is_left_alone(target: Path, overwrite: bool, holds: str | None) -> None:
    with pytest.raises(BundleError), bundle_folder(target, overwrite=overwrite):
        appear(target, holds)
    assert [path.name for path in target.iterdir()] == ([holds] if holds else [])
    assert beside(target) == ["bundle"]


@pytest.mark.parametrize("had", [False, True])
def test_what_appears_at_the_last_moment_is_left_alone(
    target: Path, had: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last look, before the rename."""
    rename = atomic.rename

    def late(old_name: Path, new_name: Path, flag: int) -> None:
        if not (target / "diary.txt").exists():
            target.mkdir(exist_ok=True)
            (target / MANIFEST).unlink(missing_ok=True)
            (target / "diary.txt").write_text("mine")
        rename(old_name, new_name, flag)

    if had:
        target.mkdir()
        write(target, "old")
    monkeypatch.setattr(atomic, "rename", late)
    with pytest.raises(BundleError, match="left alone"), bundle_folder(target, overwrite=had) as folder:
        write(folder, "new")
    assert [path.name for path in target.iterdir()] == ["diary.txt"]
    assert beside(target) == ["bundle"]


def test_one_export_at_a_time(target: Path) -> None:
    with bundle_folder(target, overwrite=False) as folder:
        write(folder, "first")
        with pytest.raises(BundleError, match="another process"), bundle_folder(target, overwrite=False):
            pytest.fail("two exports to one folder")
    assert (target / MANIFEST).read_text() == "first"


KILLED = """
import os, signal, sys
from pathlib import Path
from x2sam_rt.export import output
from x2sam_rt.media import atomic
moment, target = sys.argv[1], Path(sys.argv[2])
def die(*_arguments, **_options): os.kill(os.getpid(), signal.SIGKILL)
rename = atomic.rename
if moment == "before": atomic.rename = die
if moment == "after": atomic.rename = lambda *arguments: (rename(*arguments), die())
if moment == "cleaning": atomic.shutil.rmtree = die
with output.bundle_folder(target, overwrite=True) as folder:
    (folder / "manifest.json").write_text("new")
    if moment == "writing": die()
"""


@pytest.mark.parametrize(
    ("moment", "left"), [("writing", "old"), ("before", "old"), ("after", "new"), ("cleaning", "new")]
)
def test_a_kill_leaves_one_or_the_other(old: Path, moment: str, left: str, caplog: pytest.LogCaptureFixture) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, moment, str(old)], capture_output=True, timeout=900)
    assert done.returncode == -signal.SIGKILL
    assert (old / MANIFEST).read_text() == left
    assert beside(old) == [".bundle.partial", "bundle"]
    with bundle_folder(old, overwrite=True) as folder:
        write(folder, "newest")
    assert ".bundle.partial: removed what a killed process had left there" in caplog.text
    assert beside(old) == ["bundle"]


def test_what_others_left_is_mentioned(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    left, held = (target.with_name(f".{name}.partial") for name in ("left", "held"))
    for folder in (left, held):
        folder.mkdir()
        (folder / "weights").write_bytes(bytes(10**7))
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with bundle_folder(target, overwrite=False) as folder:
        write(folder, "new")
    os.close(lock)
    assert f"{left}: 0.01 GB that a killed process left" in caplog.text
    assert str(held) not in caplog.text
    assert left.exists(), "it may be wanted by whoever looks into the failure"


def test_files_have_ordinary_modes(torch_bundle: Path, onnx_bundle: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    for bundle in (torch_bundle, onnx_bundle):
        for path in (bundle, *bundle.rglob("*")):
            assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path
