from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_segmenters import BlindSegmenter, PerfectSegmenter
from made_samples import Made
from safetensors.torch import load_file, save_file

from x2sam_rt.data.example import Example
from x2sam_rt.data.world import WorldSettings, world_example
from x2sam_rt.errors import ConfigError, DataError, EngineError
from x2sam_rt.evaluation.backends import REFERENCE, load_choice, with_slots
from x2sam_rt.evaluation.datasets import open_parts
from x2sam_rt.evaluation.families import ObjectFamily
from x2sam_rt.evaluation.part import Part
from x2sam_rt.evaluation.prediction import Segmenter, Showing, predicted, shown_clip
from x2sam_rt.evaluation.report import write_evaluation
from x2sam_rt.evaluation.runner import Protocol, measure_part, run_variants
from x2sam_rt.evaluation.synthetic import synthetic_parts
from x2sam_rt.evaluation.variants import plan_variants
from x2sam_rt.runtime.bundle import MANIFEST, file_sha256, load_manifest
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.weights import STAGE_WEIGHTS
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt

PARTS = {part.name: part for part in synthetic_parts()}


def short(task: str = "referring", frames: int = 3) -> Example:
    settings = WorldSettings(side=48, frames=frames, drained=0, occluder=0)
    return world_example("seen", 1, task, media="video", settings=settings)


def part_of(example: Example, *, forget: bool = False) -> Part:
    return Part("short", (Made(example),), ObjectFamily, forget)


@contextlib.contextmanager
def loaded(folder: Path, *, slots: int | None = None) -> Iterator[Segmenter]:
    manifest = load_manifest(folder)
    manifest = replace(manifest, model=with_slots(manifest.model, slots))
    runtime, segmenter = load_choice(folder, manifest, (manifest.backend, manifest.precision))
    with runtime:
        yield segmenter


@pytest.mark.parametrize("name", PARTS)
def test_the_truth_scores_one_and_nothing_scores_nothing(name: str) -> None:
    protocol = Protocol(limit=2)
    perfect = measure_part(PerfectSegmenter(), PARTS[name], protocol)
    assert perfect.headline.value == pytest.approx(1)
    assert perfect.examples == 2
    assert (perfect.speed.frame_p50_ms, perfect.speed.instruction_p50_ms) == (None if name == "chat" else 2, 5)
    blind = measure_part(BlindSegmenter(), PARTS[name], protocol)
    hidden_objects = "occluded" in name  # nothing is right where nothing is to be seen
    assert blind.headline.value == pytest.approx(0, abs=0.5 if hidden_objects else 0)


def test_only_controls_forget() -> None:
    for name, part in PARTS.items():
        segmenter = PerfectSegmenter()
        measure_part(segmenter, part, Protocol(limit=1, live=True))
        assert segmenter.shown == [Showing(live=True, forget="without memory" in name)]


def test_forgetting_segments_every_frame_as_a_first_one(torch_bundle: Path) -> None:
    example = short()
    with loaded(torch_bundle) as segmenter:
        with segmenter.predict(example, Showing(forget=True)) as prediction:
            forgetful = list(prediction.frames)
        with segmenter.predict(example, Showing()) as prediction:
            remembering = list(prediction.frames)
    firsts = []
    with Runtime.load(torch_bundle) as runtime:
        for frame in example.frames:
            with runtime.stream(example.instruction, frames=shown_clip(example, Showing())) as session:
                firsts.append(session.step(frame))
    assert all("memory_attention" not in result.timings for result in forgetful)
    assert ["memory_attention" in result.timings for result in remembering] == [False, True, True]
    for one, other in zip(forgetful, firsts, strict=True):
        assert np.array_equal(one.masks, other.masks)
        assert one.scores == other.scores


def test_fewer_slots_remember_less(torch_bundle: Path) -> None:
    trained = load_manifest(torch_bundle).model.memory.slots
    example, scores = short(frames=trained + 2), {}
    for slots in (1, trained, None):
        with loaded(torch_bundle, slots=slots) as segmenter, segmenter.predict(example, Showing()) as prediction:
            scores[slots] = [result.scores for result in prediction.frames]
    assert scores[1][:2] == scores[trained][:2]
    assert scores[1][2] != scores[trained][2]
    assert scores[trained] == scores[None]


def test_the_language_model_is_shown_sixteen_frames_or_one() -> None:
    example = short(frames=40)
    numbered = np.zeros_like(example.frames)
    numbered[:] = np.arange(40, dtype=np.uint8)[:, None, None, None]
    example = replace(example, frames=numbered, instruction=Instruction("object", regions=(Prompt.point(3, 3, 7),)))
    seen = [int(frame[0, 0, 0]) for frame in shown_clip(example, Showing()).frames]
    assert len(seen) == 16
    assert (seen[0], seen[-1]) == (0, 39)
    assert max(np.diff(seen)) - min(np.diff(seen)) <= 1
    live = shown_clip(example, Showing(live=True))
    assert [int(frame[0, 0, 0]) for frame in live.frames] == [0]
    assert {index: int(frame[0, 0, 0]) for index, frame in live.by_index.items()} == {7: 7}
    assert len(shown_clip(replace(example, seen=2), Showing()).frames) == 2


def test_what_cannot_be_asked_or_read_names_its_example(torch_bundle: Path) -> None:
    example = short("object")
    beyond = replace(example, name="set/7", instruction=replace(example.instruction, regions=(Prompt.point(3, 3, 99),)))

    @dataclass(frozen=True)
    class Broken:
        name: str = "set/8"

        def load(self) -> Example:
            raise DataError(f"Example {self.name}: its file is gone.")

    with loaded(torch_bundle) as segmenter:
        with pytest.raises(DataError, match=r"Example set/7: point prompt on frame 99"):
            measure_part(segmenter, part_of(beyond), Protocol())
        with pytest.raises(DataError, match="Example set/8"):
            measure_part(segmenter, Part("broken", (Broken(),), ObjectFamily), Protocol())


def test_numbers_that_are_none_stop_the_run(torch_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(torch_bundle, tmp_path / "bundle"))
    path = bundle / STAGE_WEIGHTS
    weights = load_file(path)
    weights["segmentor.decoder.queries_features.weight"][0, 0] = torch.nan
    save_file(weights, path)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][STAGE_WEIGHTS] = {"sha256": file_sha256(path), "size": path.stat().st_size}
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with (
        loaded(bundle) as segmenter,
        pytest.raises(EngineError, match="Example world/seen/1/referring: Stage mask_dec"),
    ):
        measure_part(segmenter, part_of(short()), Protocol())


def test_an_answer_without_masks_is_no_masks(torch_bundle: Path) -> None:
    """Random weights write no <SEG>."""
    example = short("gcg")
    example = replace(example, instruction=replace(example.instruction, max_new_tokens=3))
    with loaded(torch_bundle) as segmenter, predicted(segmenter, example, Showing()) as prediction:
        assert not prediction.drew
        results = list(prediction.frames)
    assert [result.index for result in results] == [0, 1, 2]
    assert all(result.segments == () and result.segmentation.map.shape == (48, 48) for result in results)


def test_bundles_backends_and_knobs_side_by_side(onnx_bundle: Path, torch_bundle: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, bundle in zip(folders, (onnx_bundle, torch_bundle), strict=True):
        folder.symlink_to(bundle)
    variants = plan_variants(folders, backends=["onnxruntime", "torch"], knobs=["memory=on,off"])
    parts = [part_of(short()), replace(part_of(short(), forget=True), name="control")]
    told: list[tuple[str, str]] = []
    found = run_variants("made", None, parts, variants, Protocol(limit=9), lambda *labels: told.append(labels))
    labels = [variant.label for variant in found.variants]
    assert labels == [
        f"{bundle}{memory}"
        for bundle in ("one onnxruntime fp32", "one torch fp32", "other torch fp32")
        for memory in ("", " memory=off")
    ]
    parts_run = [[part.name for part in variant.parts] for variant in found.variants]
    assert parts_run == [["short", "control"], ["short"]] * 3
    assert len(told) == 9
    # The control is what a run without memory finds, and PyTorch is PyTorch, whatever it was exported for.
    for on, off in zip(found.variants[::2], found.variants[1::2], strict=True):
        assert on.parts[1].figures == off.parts[0].figures
    assert found.variants[2].parts[0].figures == found.variants[4].parts[0].figures
    write_evaluation(found, tmp_path / "results")
    written = json.loads((tmp_path / "results/results.json").read_text())
    assert written["machine"]["threads"] == torch.get_num_threads()
    assert written["versions"]["torch"] == torch.__version__
    assert [variant["memory"] for variant in written["variants"]] == [True, False] * 3
    assert written["variants"][0]["speed"]["frames"] == 2
    assert written["variants"][0]["parts"][0]["figures"][0]["name"] == "J&F"


def test_any_bundle_runs_on_torch_in_fp32(onnx_bundle: Path) -> None:
    runtime, segmenter = load_choice(onnx_bundle, load_manifest(onnx_bundle), REFERENCE)
    with runtime:
        reference = measure_part(segmenter, part_of(short()), Protocol())
    with loaded(onnx_bundle) as own:
        assert measure_part(own, part_of(short()), Protocol()).headline.value == pytest.approx(
            reference.headline.value, abs=0.01
        )


def test_limits_and_names() -> None:
    with pytest.raises(ConfigError, match="limit of 0"):
        Protocol(limit=0)
    assert {part.name for part in open_parts("synthetic", None, "unseen")} == {"referring, unseen pairs"}
    for arguments, message in (
        (("nonsense", None, None), "no data set 'nonsense'; there are synthetic, "),
        (("synthetic", Path(), None), "leave out"),
        (("synthetic", None, "val"), "no split 'val'; there are seen and unseen"),
        (("vipseg", None, "val"), "--root DIR --split NAME"),
        (("vipseg", Path("/nowhere"), "val"), "no such folder"),
    ):
        with pytest.raises(DataError, match=message):
            open_parts(*arguments)
