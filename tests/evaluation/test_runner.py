from __future__ import annotations

import contextlib
import json
import shutil
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_segmenters import BlindSegmenter, PerfectSegmenter
from made_samples import Made
from safetensors.torch import load_file, save_file

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example, IdMasks, Target
from x2sam_rt.data.synthetic import ClipSettings, synthetic_example
from x2sam_rt.errors import ConfigError, DataError, EngineError
from x2sam_rt.evaluation.backends import REFERENCE, load_choice
from x2sam_rt.evaluation.evaluators import Evaluator, ObjectEvaluator
from x2sam_rt.evaluation.parts import Part, open_parts
from x2sam_rt.evaluation.protocol import Presentation, Protocol
from x2sam_rt.evaluation.report import write_evaluation
from x2sam_rt.evaluation.results import PartResult
from x2sam_rt.evaluation.runner import Job, measure_part, run_variants
from x2sam_rt.evaluation.sample_log import SampleLog
from x2sam_rt.evaluation.segmenter import Prediction, Segmenter, Showing, predicted, shown_frames
from x2sam_rt.evaluation.synthetic import synthetic_parts
from x2sam_rt.evaluation.variants import plan_variants
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.bundle import MANIFEST, file_record, load_manifest
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.weights import STAGE_WEIGHTS
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt

PARTS = {part.name: part for part in synthetic_parts()}


def short(task: str = "referring", frames: int = 3) -> Example:
    settings = ClipSettings(side=48, frames=frames, desaturated=0, occluder=0)
    return synthetic_example("seen", 1, task, media="video", settings=settings)


def objects(published: bool) -> Evaluator:
    return ObjectEvaluator(over_frames=published)


def part_of(*examples: Example, forget: bool = False) -> Part:
    return Part("short", tuple(Made(example) for example in examples), objects, forget=forget)


def measured(segmenter: Segmenter, part: Part, protocol: Protocol = Protocol()) -> PartResult:  # noqa: B008
    return measure_part(segmenter, part, protocol)[0]


def every_frame(example: Example, *, forget: bool = False) -> Showing:
    return Showing(tuple(range(len(example.frames))), forget=forget)


@contextlib.contextmanager
def loaded(folder: Path, *, slots: int | None = None) -> Iterator[Segmenter]:
    manifest = load_manifest(folder)
    own = (manifest.backend, manifest.precision)
    runtime, segmenter = load_choice(folder, manifest, own, knobs=ModelKnobs(slots=slots))
    with runtime:
        yield segmenter


@pytest.mark.parametrize("name", PARTS)
def test_the_truth_scores_one_and_nothing_scores_nothing(name: str) -> None:
    protocol = Protocol(limit=2)
    perfect = measured(PerfectSegmenter(), PARTS[name], protocol)
    assert perfect.headline.value == pytest.approx(1)
    assert perfect.samples == 2
    assert (perfect.speed.frame_p50_ms, perfect.speed.instruction_p50_ms) == (None if name == "chat" else 2, 5)
    blind = measured(BlindSegmenter(), PARTS[name], protocol)
    hidden_objects = "occluded" in name  # nothing is right where nothing is to be seen
    assert blind.headline.value == pytest.approx(0, abs=0.5 if hidden_objects else 0)


def test_only_controls_forget() -> None:
    for name, part in PARTS.items():
        segmenter = PerfectSegmenter()
        measured(segmenter, part, Protocol("live", limit=1))
        assert segmenter.shown == [Showing((0,), forget="without memory" in name)]


def test_forgetting_segments_every_frame_as_a_first_one(torch_bundle: Path) -> None:
    example = short()
    with loaded(torch_bundle) as segmenter:
        with segmenter.predict(example, every_frame(example, forget=True)) as prediction:
            forgetful = list(prediction.frames)
        with segmenter.predict(example, every_frame(example)) as prediction:
            remembering = list(prediction.frames)
    firsts = []
    with Runtime.load(torch_bundle) as runtime:
        for frame in example.frames:
            with runtime.stream(example.instruction, frames=shown_frames(example, (0, 1, 2))) as session:
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
        with (
            loaded(torch_bundle, slots=slots) as segmenter,
            segmenter.predict(example, every_frame(example)) as prediction,
        ):
            scores[slots] = [result.scores for result in prediction.frames]
    assert scores[1][:2] == scores[trained][:2]
    assert scores[1][2] != scores[trained][2]
    assert scores[trained] == scores[None]


def test_the_language_model_is_shown_sixteen_frames_or_one() -> None:
    example = short(frames=40)
    numbered = np.zeros_like(example.frames)
    numbered[:] = np.arange(40, dtype=np.uint8)[:, None, None, None]
    example = replace(example, frames=numbered, instruction=Instruction("object", regions=(Prompt.point(3, 3, 7),)))
    whole, live = Presentation("mine", None, Protocol(), "whole"), Presentation("mine", None, Protocol("live"))
    seen = [int(frame[0, 0, 0]) for frame in shown_frames(example, whole.showing(example).language_frames).frames]
    assert len(seen) == 16
    assert (seen[0], seen[-1]) == (0, 39)
    assert max(np.diff(seen)) - min(np.diff(seen)) <= 1
    shown = shown_frames(example, live.showing(example).language_frames)
    assert [int(frame[0, 0, 0]) for frame in shown.frames] == [0]
    assert {index: int(frame[0, 0, 0]) for index, frame in shown.by_index.items()} == {7: 7}
    assert whole.showing(replace(example, seen=2)).language_frames == (0, 1)


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
            measured(segmenter, part_of(beyond), Protocol("live"))
        with pytest.raises(DataError, match="Example set/8"):
            measured(segmenter, Part("broken", (Broken(),), objects))
        part = Part("broken", (Broken(), Made(example)), objects)
        result = measured(segmenter, part, Protocol(skip_bad=True))
        assert (result.samples, result.skipped) == (1, {"set/8": "Example set/8: its file is gone."})


def test_numbers_that_are_none_stop_the_run(torch_bundle: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(torch_bundle, tmp_path / "bundle"))
    path = bundle / STAGE_WEIGHTS
    weights = load_file(path)
    weights["segmentor.decoder.queries_features.weight"][0, 0] = torch.nan
    save_file(weights, path)
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"][STAGE_WEIGHTS] = asdict(file_record(path))
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    with (
        loaded(bundle) as segmenter,
        pytest.raises(EngineError, match="Example world/seen/1/referring#0: Results of stage mask_dec"),
    ):
        measured(segmenter, part_of(short()))


def test_an_answer_without_masks_is_no_masks(torch_bundle: Path) -> None:
    """Random weights write no <SEG>."""
    example = short("gcg")
    example = replace(example, instruction=replace(example.instruction, max_new_tokens=3))
    with loaded(torch_bundle) as segmenter, predicted(segmenter, example, every_frame(example)) as prediction:
        assert not prediction.has_seg
        results = list(prediction.frames)
    assert [result.index for result in results] == [0, 1, 2]
    assert all(result.segments == () and result.segmentation.map.shape == (48, 48) for result in results)


def test_bundles_backends_and_knobs_side_by_side(onnx_bundle: Path, torch_bundle: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, bundle in zip(folders, (onnx_bundle, torch_bundle), strict=True):
        folder.symlink_to(bundle)
    variants = plan_variants(folders, backends=["onnxruntime", "torch"], knobs=["memory=on,off"])
    parts = (part_of(short()), replace(part_of(short(), forget=True), name="control"))
    told: list[tuple[str, str]] = []
    job = Job("made", None, parts, Protocol(limit=9), tmp_path / "results")
    found = run_variants(job, variants, lambda *labels: told.append(labels))
    labels = [variant.label for variant in found.variants]
    assert labels == [
        f"{bundle}{memory}"
        for bundle in ("one onnxruntime fp32", "one torch fp32", "other torch fp32")
        for memory in ("", " memory=off")
    ]
    parts_run = [[part.name for part in variant.parts] for variant in found.variants]
    assert parts_run == [["short", "control"], ["short"]] * 3
    assert len(told) == job.work(variants) == 9
    # The control is what a run without memory finds, and PyTorch is PyTorch, whatever it was exported for.
    for on, off in zip(found.variants[::2], found.variants[1::2], strict=True):
        assert on.parts[1].scores == off.parts[0].scores
    assert found.variants[2].parts[0].scores == found.variants[4].parts[0].scores
    write_evaluation(found, tmp_path / "results")
    written = json.loads((tmp_path / "results/results.json").read_text())
    assert written["machine"]["threads"] == torch.get_num_threads()
    assert written["versions"]["torch"] == torch.__version__
    assert [variant["memory"] for variant in written["variants"]] == [True, False] * 3
    assert written["variants"][0]["speed"]["frames"] == 2
    assert written["variants"][0]["parts"][0]["scores"][0]["name"] == "J&F"


def test_any_bundle_runs_on_torch_in_fp32(onnx_bundle: Path) -> None:
    runtime, segmenter = load_choice(onnx_bundle, load_manifest(onnx_bundle), REFERENCE)
    with runtime:
        reference = measured(segmenter, part_of(short()))
    with loaded(onnx_bundle) as own:
        assert measured(own, part_of(short())).headline.value == pytest.approx(reference.headline.value, abs=0.01)


class KilledSegmenter(PerfectSegmenter):
    """Is killed at a sample, as by the system."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self._at = at

    def predict(self, example: Example, showing: Showing) -> contextlib.AbstractContextManager[Prediction]:
        if example.name.startswith(self._at):
            raise KeyboardInterrupt
        return super().predict(example, showing)


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    examples = [replace(short(), name=f"made/{number}") for number in range(4)]
    part, path = part_of(*examples), tmp_path / "samples.jsonl"
    with pytest.raises(KeyboardInterrupt):
        measure_part(KilledSegmenter("made/2"), part, Protocol(), log=SampleLog(path, {"run": 1}))
    with path.open("a") as file:
        file.write('{"sample": "made/2", "pieces": 1, "sta')  # the kill came while a line was written
    again = PerfectSegmenter()
    result, meter = measure_part(again, part, Protocol(), log=SampleLog(path, {"run": 1}))
    assert len(again.shown) == 2
    whole, whole_meter = measure_part(PerfectSegmenter(), part, Protocol())
    assert result == whole
    assert meter.state() == whole_meter.state()
    with pytest.raises(ConfigError, match=r"another run \(run 1 instead of 2"):
        SampleLog(path, {"run": 2})


def test_skipped_samples_are_tried_again(tmp_path: Path) -> None:
    path, fixed = tmp_path / "samples.jsonl", short()
    broken = replace(fixed, labelled=np.zeros(len(fixed.frames), dtype=np.bool_))
    protocol = Protocol(skip_bad=True)
    result, _ = measure_part(PerfectSegmenter(), part_of(broken), protocol, log=SampleLog(path, {}))
    assert (result.samples, result.scores) == (0, ())
    assert "no frame is labelled" in result.skipped[fixed.name]
    result, _ = measure_part(PerfectSegmenter(), part_of(fixed), protocol, log=SampleLog(path, {}))
    assert (result.samples, result.skipped) == (1, {})


def test_memory_does_not_grow_with_segments() -> None:
    """24 frames with 58 segments, as VIPSeg has them: as bool arrays the masks alone take 58 bytes per pixel."""
    ids = np.random.default_rng(0).integers(1, 59, (24, 9, 16)).repeat(20, axis=1).repeat(20, axis=2).astype(np.int32)
    names = tuple(f"category {number}" for number in range(58))
    targets = tuple(Target(number - 1, IdMasks(ids, number), number) for number in range(1, 59))
    pixels, asked = (
        np.zeros((*ids.shape, 3), dtype=np.uint8),
        Instruction("panoptic", things=names[:40], stuff=names[40:]),
    )
    example = Example("vipseg/1", "video", pixels, asked, 58, targets)
    part = Part.of(Dataset("vipseg", "panoptic_video", (Made(example),), names[:40], names[40:]), "val")
    tracemalloc.start()
    result = measured(PerfectSegmenter(), part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.headline.value > 0.5
    assert peak / ids.size < 15


def test_a_stream_is_asked_again(torch_bundle: Path) -> None:
    """The frames before the second question are those of a stream asked once."""
    example = short(frames=5)
    results = {}
    for again in (ONCE, ReAsk("every", frames=2)):
        with loaded(torch_bundle) as segmenter, segmenter.predict(example, Showing((0,), again=again)) as prediction:
            results[again.policy] = [result.scores for result in prediction.frames]
    assert results["once"][:2] == results["every"][:2]
    assert results["once"][2:] != results["every"][2:]


def test_limits_and_names() -> None:
    with pytest.raises(ConfigError, match="limit of 0"):
        Protocol(limit=0)
    assert {part.name for part in open_parts("synthetic", None, "unseen")} == {"referring, unseen pairs"}
    for arguments, message in (
        (("synthetik", None, None), "Did you mean 'synthetic'?"),
        (("nonsense", None, None), "no data set 'nonsense'. There are synthetic, synthetic-long, synthetic-streams, "),
        (("synthetic", Path(), None), "leave out"),
        (("synthetic", None, "val"), "no split 'val'; there are seen and unseen"),
        (("vipseg", None, "val"), "--root DIR --split NAME"),
        (("vipseg", Path("/nowhere"), "val"), "no such folder"),
    ):
        with pytest.raises(DataError, match=message):
            open_parts(*arguments)
