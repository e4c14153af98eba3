"""What a profile says of a run: units, shares of the machine's ceilings, likeness, marks, traces."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from x2sam_rt.errors import EngineError, VideoError
from x2sam_rt.model.cost import StageCost
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.runtime.engines.engine import WaitedFor
from x2sam_rt.runtime.profile import (
    Beside,
    Ceilings,
    FrameTrace,
    labels_iou,
    measure_ceilings,
    profile_run,
    stage_mark,
    staged,
)
from x2sam_rt.runtime.profile_report import duration, frame_rate, profile_rows, quantity, write_page
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation
from x2sam_rt.runtime.run import RunFrame
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.timing import StageTimer, stages_marked, unmarked

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.0852, "85 µs"),
        (0.9999, "1000 µs"),
        (1, "1.00 ms"),
        (12.345, "12.3 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),
        (59_994, "60.0 s"),
        (447446.41, "7 min 27 s"),
    ],
)
def test_durations(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text


def test_quantities_and_rates() -> None:
    assert quantity(27.03e12, "FLOP") == "27.0 TFLOP"
    assert quantity(999_700, "B/s") == "1.00 MB/s"
    assert quantity(0, "B") == "0.00 B"
    assert frame_rate(23.44) == "23.4 frames/s"
    assert frame_rate(1 / 512) == "8 min 32 s per frame"


def result(index: int, *labels: int, shift: int = 0) -> FrameResult:
    """A square per label, moved sideways."""
    segments = []
    for label in labels:
        mask = np.zeros((8, 20), dtype=np.bool_)
        mask[:4, 4 * label + shift : 4 * label + shift + 4] = True
        segments.append(Segment(mask, f"label {label}", label, 1.0, label))
    return FrameResult(index, Segmentation(tuple(segments), np.full((8, 20), -1, dtype=np.int32), -1), "")


def test_likeness_of_results_is_by_label() -> None:
    assert labels_iou(result(0, 1), result(0, 1)) == 1
    assert labels_iou(result(0, 1), result(0, 1, shift=2)) == pytest.approx(8 / 24)
    assert labels_iou(result(0, 1), result(0, 2)) == 0
    assert labels_iou(result(0, 1, 2), result(0, 1)) == pytest.approx(1 / 2)
    assert labels_iou(result(0), result(0)) == 1


def test_the_ceiling_that_is_met_first_counts() -> None:
    ceilings = Ceilings(flop_per_second=100e9, bytes_per_second=10e9)
    assert ceilings.least_ms(StageCost(10**9, 10**6, 0, 0)) == pytest.approx(10)
    assert ceilings.least_ms(StageCost(10**6, 10**8, 10**8, 0)) == pytest.approx(20)


def test_ceilings_of_this_machine() -> None:
    found = measure_ceilings(CPU, torch.float32)
    assert 1e8 < found.flop_per_second < 1e14
    assert 1e8 < found.bytes_per_second < 1e13


def made_run(frames: int, milliseconds: float, shift: int = 0) -> Iterator[RunFrame]:
    for index in range(frames):
        timings = {"frame_encoder": milliseconds, **({"memory_attention": 2 * milliseconds} if index else {})}
        yield RunFrame(result(index, 1, shift=shift), timings)


@pytest.fixture(scope="module")
def runtime(torch_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(torch_bundle) as loaded:
        yield loaded


def test_a_run_beside_another(runtime: Runtime, tmp_path: Path) -> None:
    ceilings = Ceilings(1e12, 1e11)
    beside = Beside("exact", made_run(6, 20.0, shift=1))
    profile = profile_run(made_run(6, 10.0), runtime, started=0.0, ceilings=ceilings, beside=beside)
    assert (profile.frames, profile.frame_numbers, profile.frame_ms) == (6, (1, 2, 3, 4, 5), (30.0,) * 5)
    assert profile.frames_per_second == pytest.approx(1000 / 30)
    assert profile.comparison is not None
    assert profile.comparison.speedup == pytest.approx(2)
    assert profile.comparison.ious == (pytest.approx(12 / 20),) * 5
    work = profile.work["frame_encoder"]
    assert work.flop_per_second == pytest.approx(work.flop / 0.010)
    assert work.share == pytest.approx(max(work.flop / 1e12, work.bytes / 1e11) / 0.010)
    header, rows = profile_rows(profile)
    assert {len(row) for row in rows} == {len(header)}
    assert [row[0] for row in rows] == ["frame_encoder", "memory_attention", "frame"]
    write_page(profile, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg ") == page.count("</svg>") == 1
    assert "memory_attention" in page
    assert all(word not in page for word in ("src=", "<link", "<script", "@import", "url(http"))
    addresses = {part.split('"')[0] for part in page.split("http")[1:]}
    assert addresses <= {"://www.w3.org/2000/svg", "://www.w3.org/1999/xlink"}, "names of formats only"


def test_traced_frames_count_nowhere(runtime: Runtime, tmp_path: Path) -> None:
    trace = FrameTrace(tmp_path / "trace.json", CPU, first=2)

    def run() -> Iterator[RunFrame]:
        timer = StageTimer()
        for frame in made_run(7, 10.0):
            with timer("frame_encoder"):
                torch.ones(8, 8) @ torch.ones(8, 8)
            yield frame

    with stages_marked(stage_mark(CPU, traced=True)):
        profile = profile_run(run(), runtime, started=0.0, trace=trace)
    assert profile.frame_numbers == (1, 5, 6)
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X"]
    assert names.count("frame_encoder") == 3
    assert names.count("aten::mm") == 3


def test_a_video_too_short_to_trace(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="ended before frame 5"):
        profile_run(made_run(3, 10.0), runtime, 0.0, trace=FrameTrace(tmp_path / "trace.json", CPU, first=5))
    assert list(tmp_path.iterdir()) == []


def test_stages_are_marked_where_they_run() -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def mark(stage: str) -> Iterator[None]:
        told.append(f"+{stage}")
        yield
        told.append(f"-{stage}")

    timer = StageTimer()
    with stages_marked(mark), timer("one"), timer("two"):
        pass
    with timer("three"):
        pass
    assert told == ["+one", "+two", "-two", "-one"]
    assert list(timer.take()) == ["two", "one", "three"]


def test_gpus_have_ranges_and_are_waited_for(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    assert stage_mark(CPU, traced=False) is unmarked
    assert stage_mark(gpu, traced=False) is torch.cuda.nvtx.range
    assert staged(runtime) is runtime
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    engine = runtime.engines.frame_encoder
    monkeypatch.setattr(engine, "device", gpu)
    waiting = staged(runtime).engines.frame_encoder
    assert isinstance(waiting, WaitedFor)
    contract = engine.contract
    run = waiting.bind(*({spec.name: spec.zeros() for spec in side} for side in (contract.inputs, contract.outputs)))
    assert waited == []
    run()
    assert waited == [gpu]


def test_engines_that_are_files_refuse_what_they_were_not_built_for(onnx_bundle: Path) -> None:
    for knobs in (ModelKnobs(image_size=96), ModelKnobs(memory_scales=("low",))):
        with pytest.raises(
            EngineError, match=f"{knobs}: the engines for frame_encoder|{knobs}: the engines for memory"
        ):
            Runtime.load(onnx_bundle, knobs=knobs)
    with Runtime.load(onnx_bundle, knobs=ModelKnobs(slots=1, memory_every=2, memory_gaps="writes")) as loaded:
        assert loaded.manifest.model.memory.approximations == {"every": "2", "gaps": "writes"}
