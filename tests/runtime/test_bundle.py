from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from x2sam_rt.errors import BundleError, EngineError
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.runtime.bundle import MANIFEST, SCHEMA, load_manifest
from x2sam_rt.runtime.runtime import Runtime

BUNDLES = Path(__file__).parents[1] / "fixtures" / "bundles"
EXPORT = "import sys; from x2sam_rt.cli.app import app; app(sys.argv[1:])"


@pytest.fixture
def bundle(onnx_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(onnx_bundle, tmp_path / "bundle"))


def change(bundle: Path, **fields: object) -> None:
    path = bundle / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_manifest_says_what_is_in_the_bundle(onnx_bundle: Path, toy: Checkpoint) -> None:
    manifest = load_manifest(onnx_bundle)
    assert manifest.model == toy.model.config
    assert [stage.name for stage in manifest.stages] == [
        "frame_encoder",
        "memory_attention",
        "mask_decoder",
        "memory_encoder",
        "vision_encoder",
    ]
    assert max(manifest.errors.values()) < 1e-4
    on_disk = {p.relative_to(onnx_bundle).as_posix() for p in onnx_bundle.rglob("*") if p.is_file()}
    assert on_disk == {MANIFEST, *manifest.files}


@pytest.mark.parametrize("name", ["stages/mask_decoder.onnx", "language/model.safetensors", "wording.json"])
def test_a_flipped_byte_is_found(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}: its SHA-256.*export again"):
        Runtime.load(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "stages/memory_attention.onnx").unlink()
    with pytest.raises(BundleError, match=r"memory_attention\.onnx.*missing"):
        Runtime.load(bundle)


def test_a_cut_file_is_named_without_hashing(bundle: Path) -> None:
    path = bundle / "stages/frame_encoder.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"frame_encoder\.onnx: \d+ bytes, wanted"):
        Runtime.load(bundle, check_hashes=False)


def test_a_missing_stage_is_named(bundle: Path) -> None:
    stages = json.loads((bundle / MANIFEST).read_text())["stages"]
    change(bundle, stages=[stage for stage in stages if stage["name"] != "memory_encoder"])
    with pytest.raises(BundleError, match="no stage 'memory_encoder'"):
        Runtime.load(bundle)


def test_other_tensors_than_this_versions_are_refused(bundle: Path) -> None:
    stages = json.loads((bundle / MANIFEST).read_text())["stages"]
    stages[1]["inputs"][-1]["name"] = "gaps"
    change(bundle, stages=stages)
    with pytest.raises(BundleError, match=r"other tensors in stage 'memory_attention'\. Export the checkpoint again"):
        Runtime.load(bundle)


@pytest.mark.parametrize(
    ("schema", "advice"), [(5, "update x2sam-rt"), (0, "x2sam-rt export"), ("one", "x2sam-rt export")]
)
def test_another_schema_says_what_to_do(bundle: Path, schema: object, advice: str) -> None:
    change(bundle, schema=schema)
    with pytest.raises(BundleError, match=advice):
        Runtime.load(bundle)


def test_every_schema_there_was_has_a_bundle() -> None:
    assert {path.name for path in BUNDLES.iterdir()} == {f"schema_{number}" for number in range(1, SCHEMA + 1)}


@pytest.mark.parametrize("folder", sorted(BUNDLES.iterdir()), ids=lambda folder: folder.name)
def test_a_bundle_of_every_schema_runs_or_says_what_to_run(folder: Path) -> None:
    """Written by the versions that had them (`tests/make_bundle_fixture.py`)."""
    if folder.name != f"schema_{SCHEMA}":
        advice = rf"schema \d; this version reads schema {SCHEMA}: export.* with `x2sam-rt export`"
        with pytest.raises(BundleError, match=advice):
            Runtime.load(folder)
        return
    with Runtime.load(folder, check_hashes=True) as runtime, runtime.stream("the red circle") as session:
        assert session.step(np.zeros((40, 50, 3), dtype=np.uint8)).index == 0


def test_foreign_manifests_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"found no manifest\.json"):
        Runtime.load(tmp_path)
    change(bundle, owner="somebody")
    with pytest.raises(BundleError, match="owner"):
        Runtime.load(bundle)
    (bundle / MANIFEST).write_text("[]")
    with pytest.raises(BundleError, match="found list"):
        Runtime.load(bundle)
    (bundle / MANIFEST).write_bytes(b"\xff\xfe{")
    with pytest.raises(BundleError, match="not JSON"):
        Runtime.load(bundle)


def test_a_manifest_cannot_point_outside(bundle: Path) -> None:
    record = {"sha256": "0" * 64, "size": 1, "sample": "0" * 64}
    change(bundle, files={"../secret": record})
    with pytest.raises(BundleError, match="outside the bundle"):
        Runtime.load(bundle)


def test_another_backend_is_refused(bundle: Path) -> None:
    change(bundle, backend="abacus")
    with pytest.raises(EngineError, match=r"no backend 'abacus' in this version\. .* --engine onnxruntime or torch"):
        Runtime.load(bundle)


def test_nothing_is_overwritten_unasked(toy: Checkpoint, torch_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="--overwrite"):
        export_bundle(ExportPlan(toy, "torch"), torch_bundle)
    with pytest.raises(BundleError, match="is no bundle"):
        export_bundle(ExportPlan(toy, "torch"), tmp_path, overwrite=True)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the middle of the weights."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); {EXPORT}"
    done = subprocess.run(
        [sys.executable, "-c", limited, "export", "toy", "-o", str(tmp_path / "out"), "--engine", "torch"],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "free space" in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_cannot_be_loaded(tmp_path: Path) -> None:
    """Killed at the worst moment: everything is written but the manifest."""
    dying = (
        "import os, signal; from x2sam_rt.runtime.bundle import Manifest; "
        f"Manifest.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL); {EXPORT}"
    )
    output = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", dying, "export", "toy", "-o", str(output), "--engine", "torch"],
        capture_output=True,
        timeout=900,
    )
    assert done.returncode == -signal.SIGKILL
    assert not output.exists()
    (left,) = tmp_path.glob(".out.*/out")
    assert (left / "stages/weights.safetensors").is_file()
    with pytest.raises(BundleError, match="finished export"):
        Runtime.load(left)


@pytest.mark.parametrize("hidden", [MANIFEST, "stages/weights.safetensors", "."])
def test_a_bundle_of_another_user_is_named(torch_bundle: Path, tmp_path: Path, hidden: str) -> None:
    """Root reads everything, so it becomes nobody for the moment."""
    bundle = Path(shutil.copytree(torch_bundle, tmp_path / "bundle"))
    (bundle / hidden).chmod(0)
    user, nobody = os.geteuid(), 65534
    for folder in (tmp_path, *tmp_path.parents)[:-2]:
        if user == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    try:
        if user == 0:
            os.seteuid(nobody)
        with pytest.raises(BundleError, match=r"this user may not read it|cannot be opened \(Permission denied\)"):
            load_manifest(bundle)
    finally:
        os.seteuid(user)
        (bundle / hidden).chmod(0o700)
