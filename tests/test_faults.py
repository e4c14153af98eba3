"""Every output survives a kill and a full disk at every write: what was there stays, nothing half done is left.

Of an export, which has hundreds of writes, the last one to each file is taken, but with `--every` all of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bounded import PATIENCE

from x2sam_rt.errors import BundleError, VideoError
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.media.atomic import AtomicOutput, atomic_file
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.runtime.runtime import Runtime

HERE = Path(__file__).parent
WRITERS = ("jsonl", "mp4", "mkv", "png", "image", "davis", "panoptic")
ROUNDS = 40


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if compiler is None or sys.platform != "linux":
        pytest.skip("the file layer is made for Linux, with a C compiler")
    library = tmp_path_factory.mktemp("layer") / "layer.so"
    source = HERE / "faults" / "layer.c"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", library, source, "-ldl"], check=True, timeout=900
    )
    return library


@pytest.mark.parametrize("names", [WRITERS, ("export",)], ids=["writers", "export"])
def test_kills_and_full_disks_at_every_write(
    layer: Path, tmp_path: Path, names: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    every = ["--every"] * request.config.getoption("--every")
    command = [sys.executable, str(HERE / "faults" / "scenarios.py"), str(tmp_path), *names, *every]
    environment = {**os.environ, "LD_PRELOAD": str(layer), "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    most = 10_000 if every else 900
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=most)
    print(done.stdout)  # the counts: shown with -rP
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: one["wrong"] for name, one in found.items()} == {name: [] for name in names}
    for one in found.values():
        assert one["writes"] >= 4  # the hidden folder, the file, its content, its name
        assert one["tried"] >= 8
        assert one["killed"] == one["tried"] or not every


@pytest.mark.parametrize("what", ["the file", "the hidden folder", "all"])
def test_what_vanishes_while_it_is_written_is_an_error(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    output = AtomicOutput(folder / "out.txt")
    output.temporary.write_text("new")
    gone = {"the file": output.temporary, "the hidden folder": output.temporary.parent, "all": folder}[what]
    gone.unlink() if gone.is_file() else shutil.rmtree(gone)
    with pytest.raises(VideoError, match=r"out\.txt: cannot be written \(No such file"):
        output.publish()
    assert not folder.exists() or not list(folder.iterdir())


def test_files_that_vanish_from_a_bundle_are_named(toy: Checkpoint, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_bundle(ExportPlan(toy, "torch", verify=False), bundle)
    for file in sorted(path for path in bundle.rglob("*") if path.is_file()):
        away = file.rename(tmp_path / "away")
        with pytest.raises(BundleError):
            Runtime.load(bundle)
        away.rename(file)
    Runtime.load(bundle).close()


def _write_many(target: Path, text: str, refused: multiprocessing.SimpleQueue[int]) -> None:
    count = 0
    for _ in range(ROUNDS):
        try:
            with atomic_file(target) as temporary:
                temporary.write_text(text)
        except VideoError as error:
            count += 1
            if "another process is writing it" not in str(error):
                raise
    refused.put(count)


def test_two_processes_that_write_one_file(tmp_path: Path) -> None:
    """Each write is whole or refused; the lock of one is never taken for that of the other."""
    target, context = tmp_path / "out.txt", multiprocessing.get_context("fork")
    refused = context.SimpleQueue()
    texts = [letter * 100_000 for letter in "ab"]
    processes = [context.Process(target=_write_many, args=(target, text, refused)) for text in texts]
    for process in processes:
        process.start()
    until = time.monotonic() + PATIENCE
    while any(process.is_alive() for process in processes):
        assert time.monotonic() < until
        if target.exists():
            assert target.read_text() in texts
    assert [process.exitcode for process in processes] == [0, 0]
    assert all(refused.get() < ROUNDS for _ in processes)
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"]
