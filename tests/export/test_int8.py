"""Frame stages in int8, calibrated on a clip."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.errors import EngineError, VideoError
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.export.int8 import QUANTIZED_STAGES, Calibration
from x2sam_rt.export.verify import BOUNDS, bundled_stages
from x2sam_rt.media.video import VideoWriter
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.runtime.bundle import BundleFiles, load_manifest
from x2sam_rt.runtime.device import CPU
from x2sam_rt.runtime.runtime import Runtime


def write_clip(path: Path, frames: int) -> Path:
    with VideoWriter(path, 64, 64, 12) as video:
        for frame in make_clip(0, ClipSettings(side=64, frames=frames)).frames:
            video.write(np.ascontiguousarray(frame))
    return path


@pytest.fixture(scope="module")
def quantized(toy: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    clip = write_clip(folder / "clip.mp4", 3)
    plan = ExportPlan(toy, "onnxruntime", "int8", verify=False, calibration=Calibration(clip))
    export_bundle(plan, folder / "bundle")
    return folder / "bundle"


def weights_by_type(path: Path) -> Counter[int]:
    graph = onnx.load(path).graph
    return Counter({kind: sum(w.data_type == kind for w in graph.initializer) for kind in (1, 3)})


def test_matrix_weights_are_int8(quantized: Path, onnx_bundle: Path) -> None:
    manifest = load_manifest(quantized, check_hashes=True)
    assert (manifest.precision, manifest.language_precision) == ("int8", "fp32")
    for stage in QUANTIZED_STAGES:
        file = f"stages/{stage}.onnx"
        nodes = Counter(node.op_type for node in onnx.load(quantized / file).graph.node)
        assert nodes["DequantizeLinear"] > nodes["QuantizeLinear"] > 0, "weights are stored quantized"
        assert weights_by_type(quantized / file)[onnx.TensorProto.INT8] > 0
    for stage in ("mask_decoder", "vision_encoder"):
        file = f"stages/{stage}.onnx"
        assert (quantized / file).read_bytes() == (onnx_bundle / file).read_bytes(), "left alone"
    assert not list(quantized.parent.glob("bundle/**/*.npz"))


def test_stages_compute_nearly_the_same(quantized: Path) -> None:
    """Rounding to 8 bits shows, and wrecks nothing."""
    manifest = load_manifest(quantized)
    errors = {
        check.stage: check.error for check in bundled_stages(manifest, BundleFiles(quantized, manifest.files), CPU)
    }
    assert all(1e-4 < errors[stage] < 0.5 for stage in QUANTIZED_STAGES)
    assert max(errors["mask_decoder"], errors["vision_encoder"]) < 1e-4


def test_a_stream_runs_on_it(quantized: Path) -> None:
    frames = make_clip(1, ClipSettings(side=64, frames=3)).frames
    with Runtime.load(quantized) as runtime, runtime.stream("the circle") as session:
        assert [session.step(frame).index for frame in frames] == [0, 1, 2]


def test_a_calibration_is_asked_for_and_never_taken_silently(toy: Checkpoint, tmp_path: Path) -> None:
    plan = ExportPlan(toy, "onnxruntime", "int8")
    with pytest.raises(EngineError, match="--calibrate VIDEO"):
        export_bundle(plan, tmp_path / "bundle")
    with pytest.raises(VideoError, match="no such file"):
        export_bundle(replace(plan, calibration=Calibration(tmp_path / "none.mp4")), tmp_path / "bundle")
    with pytest.raises(EngineError, match="needs no calibration"):
        export_bundle(replace(plan, precision="fp32", calibration=Calibration(tmp_path)), tmp_path / "bundle")
    with pytest.raises(EngineError, match="Export with --engine onnxruntime for int8"):
        export_bundle(replace(plan, backend="torch"), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_one_frame_is_too_few(toy: Checkpoint, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 1)
    plan = ExportPlan(toy, "onnxruntime", "int8", verify=False, calibration=Calibration(clip))
    with pytest.raises(VideoError, match="at least 2"):
        export_bundle(plan, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_bounds_are_of_masks_and_accuracy_only() -> None:
    bounds = BOUNDS["int8"]
    assert bounds.clip_error is None
    assert bounds.iou >= 0.9
    assert bounds.j_and_f <= 0.01
