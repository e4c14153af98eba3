from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner, Result

from x2sam_rt.cli.app import app
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.export import verify
from x2sam_rt.media.video import VideoReader, VideoWriter
from x2sam_rt.runtime.bundle import MANIFEST, file_record
from x2sam_rt.runtime.writers import read_coco_rle

FRAMES = 7


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 162, 121, 12) as video:
        for frame in make_clip(0, ClipSettings(side=162, frames=FRAMES)).frames:
            video.write(np.ascontiguousarray(frame[:121]))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_run_writes_overlay_and_masks(onnx_bundle: Path, clip: Path, tmp_path: Path) -> None:
    video, masks = tmp_path / "masked.mp4", tmp_path / "masks.jsonl"
    result = call("run", onnx_bundle, "--video", clip, "--prompt", "the red circle", "-o", video, "-o", masks)
    assert result.exit_code == 0, result.output
    assert "the red circle" in result.stdout
    with VideoReader(video) as written:
        assert len(list(written)) == FRAMES
    records = list(read_coco_rle(masks))
    assert [record.index for record in records] == list(range(FRAMES))


def test_run_refuses_what_it_cannot_do(onnx_bundle: Path, clip: Path, tmp_path: Path) -> None:
    assert call("run", onnx_bundle, "-p", "dog").exit_code == 2
    for arguments, message in (
        (("--video", tmp_path / "none.mp4", "-p", "dog"), "no such file"),
        (("--video", clip), "phrase"),
        (("--video", clip, "-p", " "), "mpty"),
        (("--video", clip, "-t", "nonsense"), "no task"),
        (("--video", clip, "-t", "refering", "-p", "x"), "Did you mean 'referring'?"),
        (("--video", clip), "give --prompt at least one"),
        (("--video", clip, "-t", "panoptic"), "give --things, --stuff or both"),
        (("--video", clip, "-t", "object"), "as --region (vgd"),
        (
            ("--video", clip, "-t", "object", "-p", "x", "-r", "point:1,1"),
            "object takes no --prompt; it takes --region.",
        ),
        (("--video", clip, "-p", "x", "--threshold", 3), "--threshold 3.0: a number from 0 to 1"),
        (("--video", clip, "-p", "x", "--max-new-tokens", 0), "--max-new-tokens 0: a whole number"),
        (("--video", clip, "-p", "x", "--stop", ""), "--stop ('',): an empty text"),
        (("--video", clip, "-p", "x", "--explain"), "--explain is for reasoning"),
        (("--video", clip, "-t", "gcg", "--answer", "a dog"), "--answer 'a dog' has no <SEG>"),
        (("--video", clip, "-p", "x", "--stride", 0), "--stride 0,"),
        (("--video", clip, "-p", "x", "--max-frames", 0), "--max-frames 0: wanted"),
        (("--video", clip, "-p", "x", "--alpha", 3), "--alpha 3.0,"),
        (("--video", clip, "-p", "x", "--knob", "slot=2"), "Did you mean 'slots'?"),
        (("--video", clip, "-p", "dog", "-o", tmp_path / "masks.xyz"), ".xyz"),
        (("--video", clip, "-t", "object", "-r", "point:3,3@99"), "frames 0 to 6"),
    ):
        result = call("run", onnx_bundle, *arguments)
        assert result.exit_code == 1
        assert message in " ".join(result.stderr.split()), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_broken_video_leaves_no_output(onnx_bundle: Path, tmp_path: Path) -> None:
    cut, output = tmp_path / "cut.mp4", tmp_path / "masked.mp4"
    noise = np.random.default_rng(0)
    with VideoWriter(cut, 64, 48, 12) as video:  # noise, so that every frame takes its share of the file
        for _ in range(12):
            video.write(noise.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    result = call("run", onnx_bundle, "--video", cut, "-p", "dog", "-o", output)
    assert result.exit_code == 1
    assert "cut.mp4" in result.stderr
    assert not output.exists()
    result = call("run", onnx_bundle, "--video", cut, "-p", "dog", "-o", output, "--allow-truncated")
    assert result.exit_code == 0, result.stderr
    assert output.exists()


def test_profile_measures_every_stage(onnx_bundle: Path, clip: Path, tmp_path: Path) -> None:
    path, picture = tmp_path / "profile.json", tmp_path / "profile.png"
    result = call("profile", onnx_bundle, "--video", clip, "--json", path, "--picture", picture)
    assert result.exit_code == 0, result.output
    profile = json.loads(path.read_text())
    assert profile["frames"] == FRAMES
    assert list(profile["stages"]) == [
        "decode",
        "preprocess",
        "frame_encoder",
        "memory_attention",
        "mask_decoder",
        "memory_encoder",
        "postprocess",
        "write",
        "frame",
    ]
    assert all(0 <= s["p50"] <= s["p95"] <= s["p99"] for s in profile["stages"].values())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_profile_of_knobs_beside_the_exact_setting(torch_bundle: Path, clip: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / f"profile.{name}" for name in ("json", "html", "trace")}
    written = [part for name, path in files.items() for part in (f"--{name}", path)]
    knobs = ("--knob", "image_size=96", "--knob", "memory_scales=low", "--knob", "memory_every=2")
    result = call("profile", torch_bundle, "--video", clip, *knobs, "--compare", torch_bundle, *written)
    assert result.exit_code == 0, result.output
    profile = json.loads(files["json"].read_text())
    assert set(profile["work"]) == {"frame_encoder", "memory_attention", "mask_decoder", "memory_encoder"}
    assert len(profile["frame_numbers"]) == FRAMES - 4
    assert len(profile["comparison"]["ious"]) == FRAMES - 4
    assert profile["comparison"]["stages"].keys() == profile["stages"].keys()
    traced = [event["name"] for event in json.loads(files["trace"].read_text())["traceEvents"] if event["ph"] == "X"]
    assert traced.count("mask_decoder") == 3
    assert "<svg" in files["html"].read_text()
    assert "as fast as" in " ".join(result.stdout.split())


def test_inspect_shows_the_stages(onnx_bundle: Path) -> None:
    result = call("inspect", onnx_bundle)
    assert result.exit_code == 0
    assert "memory_attention" in result.stdout


def test_what_a_bundle_says_is_no_markup(torch_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(torch_bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["checkpoint"] = "[link=file:///etc/passwd]safe[/link]"
    manifest["environment"]["platform"] = "[/red]"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = call("inspect", bundle)
    assert result.exit_code == 0, result.output
    assert "[link=file:///etc/passwd]safe" in result.stdout
    assert "[/red]" in result.stdout


def test_inspect_predicts_a_gpus_memory_for_other_knobs(torch_bundle: Path) -> None:
    def peak(*options: str) -> float:
        text = " ".join(call("inspect", torch_bundle, *options).stdout.split())
        found = re.search(r"peak ([\d.,]+) MiB", text)
        assert found is not None, text
        return float(found[1].replace(",", ""))

    assert 0 < peak("--knob", "image_size=32") < peak()


def test_verify_passes_on_both_backends(onnx_bundle: Path, torch_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_CLIPS", 1)
    for bundle in (onnx_bundle, torch_bundle):
        result = call("verify", bundle)
        assert result.exit_code == 0, result.output
        assert "20 checks passed" in result.stdout


def test_bf16_streams_and_is_verified(clip: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    assert call("export", "toy", "-o", bundle, "--engine", "torch", "--precision", "bf16").exit_code == 0
    result = call("verify", bundle)
    assert result.exit_code == 0, result.output
    result = call("run", bundle, "--video", clip, "-t", "vgd", "-r", "point:40,40", "-o", tmp_path / "masks.jsonl")
    assert result.exit_code == 0, result.output
    refused = call("export", "toy", "-o", tmp_path / "other", "--precision", "bf16")
    assert refused.exit_code == 1
    assert "--engine torch" in refused.stderr


def test_verify_finds_a_wrong_engine(onnx_bundle: Path, tmp_path: Path) -> None:
    """One weight of a graph is changed and the manifest made to agree: only the numbers can tell."""
    bundle = Path(shutil.copytree(onnx_bundle, tmp_path / "bundle"))
    graph = bundle / "stages/memory_attention.onnx"
    model = onnx.load(graph)
    weight = next(w for w in model.graph.initializer if list(w.dims) == [64, 32])
    weight.CopyFrom(numpy_helper.from_array(1.05 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, graph)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"]["stages/memory_attention.onnx"] = asdict(file_record(graph))
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    result = call("verify", bundle)
    assert result.exit_code == 3
    assert "out of bounds" in result.stderr


def test_eval_measures_bundles_side_by_side(onnx_bundle: Path, tmp_path: Path) -> None:
    common = ("eval", onnx_bundle, "--split", "unseen", "--limit", 1)
    result = call(*common, "--knob", "memory=on,off", "-o", tmp_path / "results")
    assert result.exit_code == 0, result.output
    for shown in ("onnxruntime fp32", "memory=off", "J&F", "frame p50"):
        assert shown in result.stdout
    files = [path for path in (tmp_path / "results").iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".svg", ".png"}
    columns = [path.name for path in (tmp_path / "results/samples").iterdir()]
    assert sorted(columns) == ["onnxruntime_fp32", "onnxruntime_fp32_memory=off"]
    written = json.loads((tmp_path / "results/results.json").read_text())
    printed = json.loads(call(*common, "--backend", "torch", "--json").stdout)
    assert [variant["backend"] for variant in (*written["variants"], *printed["variants"])] == [
        "onnxruntime",
        "onnxruntime",
        "torch",
    ]


def test_eval_refuses_what_it_cannot_do(onnx_bundle: Path, tmp_path: Path) -> None:
    assert call("eval").exit_code == 2
    for arguments, message in (
        (("--dataset", "nonsense"), "no data set 'nonsense'"),
        (("--dataset", "vipseg", "--split", "val"), "--root DIR"),
        (("--split", "val"), "no split 'val'"),
        (("--knob", "speed=9"), "no knob 'speed'"),
        (("--precision", "bf16"), "--precision"),
        (("--limit", 0), "limit of 0"),
    ):
        result = call("eval", onnx_bundle, *arguments, "-o", tmp_path / "results")
        assert result.exit_code == 1
        assert message in " ".join(result.stderr.split()), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_export_names_what_is_missing(tmp_path: Path) -> None:
    result = call("export", tmp_path / "none.bin", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "no such file" in result.stderr
    assert call("export", "toy", "-o", tmp_path / "out", "--precision", "fp4").exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["export", "run", "verify", "inspect", "profile", "eval"])
def test_help_teaches(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Exit codes" in result.stdout
