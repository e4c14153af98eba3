"""A frame's work as graphs: the same numbers as stage by stage, one graph in the steady state, the encoder ahead on a
stream of its own, no memory taken and nothing waited for.

The graphs are those of the simulated GPU, which does again what was captured, numbers and addresses as they were then,
and refuses work that is not ordered."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from simulated_gpu import GPU, SimulatedGpu, simulated_gpu
from simulated_streams import STAND_INS
from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.export.engines import build_engines
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.runtime.bundle import BundleFiles, load_manifest
from x2sam_rt.runtime.engines import find_backend
from x2sam_rt.runtime.engines.engine import load_engines
from x2sam_rt.runtime.frame_graph import Beside, CudaBeside, CudaRecorder, FrameGraph, InTurn, Work
from x2sam_rt.runtime.needs import gpu_frame_needs
from x2sam_rt.runtime.pipeline import MaskPrediction, Pipeline
from x2sam_rt.runtime.weights import load_model

CPU = torch.device("cpu")


def prompt(dim: int, device: torch.device = CPU) -> PromptEmbeddings:
    generator = torch.Generator().manual_seed(3)
    sizes = ((1, dim), (3, dim), (7, dim))
    return PromptEmbeddings(*(torch.randn(size, generator=generator).to(device) for size in sizes))


def pictures(side: int, frames: int, device: torch.device = CPU) -> list[Tensor]:
    clip = torch.randn(frames, 1, 3, side, side, generator=torch.Generator().manual_seed(1))
    return [picture.to(device) for picture in clip]


def stream(pipeline: Pipeline, asked: PromptEmbeddings, clip: list[Tensor], ahead: bool) -> Iterator[MaskPrediction]:
    """With a frame that nobody segments, and a memory that is emptied when the next frame was encoded already."""
    slots = pipeline.bank.slots
    for number, picture in enumerate(clip):
        if number == slots + 2:
            pipeline.skip()
        if number == 2 * slots + 1:
            pipeline.forget()
        following = clip[number + 1] if ahead and number + 1 < len(clip) else None
        yield pipeline.step(picture, asked, lambda following=following: following)  # type: ignore[misc]


def copies(predictions: Iterator[MaskPrediction]) -> list[dict[str, Tensor]]:
    return [{name: tensor.cpu().clone() for name, tensor in vars(one).items()} for one in predictions]


def assert_close(ours: list[dict[str, Tensor]], wanted: list[dict[str, Tensor]], atol: float) -> None:
    for number, (one, other) in enumerate(zip(ours, wanted, strict=True)):
        for name in other:
            torch.testing.assert_close(one[name], other[name], atol=atol, rtol=0, msg=f"frame {number}, {name}")


class Recordings:
    """Stands for a recorder: keeps what is recorded, counts what is replayed."""

    def __init__(self) -> None:
        self.replays: list[int] = []

    def __call__(self, prepare: Work, finish: Work) -> Work:
        prepare()  # the warm-up
        number = len(self.replays)
        self.replays.append(0)

        def replay() -> None:
            self.replays[number] += 1
            prepare()
            finish()

        return replay


@pytest.mark.parametrize("turns", [{}, {"every": 2, "gaps": "writes"}, {"every": 2, "reads": "writes"}], ids=str)
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_gives_what_stages_give_one_by_one(
    toy: Checkpoint, tmp_path: Path, recorded: bool, ahead: bool, turns: dict[str, Any]
) -> None:
    config, made = replace(toy.model.config, memory=replace(toy.model.config.memory, **turns)), []

    def record() -> Recordings | None:
        made.append(Recordings())
        return made[-1] if recorded else None

    engines = build_engines(toy.model, "torch", tmp_path)
    asked, slots = prompt(config.dim), config.memory.slots
    clip = pictures(config.image_size, 2 * slots + 3)
    ours = copies(stream(Pipeline(engines, config, record=record), asked, clip, ahead))
    assert_close(ours, copies(stream(Pipeline(engines, config), asked, clip, ahead=False)), atol=0)
    if (
        recorded and not turns
    ):  # a graph for each fill level, of which the full one runs from then on; and the encoder's
        frames, encoder = made
        assert frames.replays == [2, 2, slots + 1][: slots + 1]
        assert encoder.replays == [len(clip) + ahead]  # once more: as a first frame, after the memory was emptied


@contextmanager
def on_gpu(bundle: Path, beside: type[Beside] | None = None) -> Iterator[tuple[SimulatedGpu, Pipeline]]:
    manifest = load_manifest(bundle)
    with simulated_gpu() as gpu:
        files = BundleFiles(bundle, manifest.files)
        engines = load_engines(find_backend("torch"), manifest.stages, files, load_model(manifest, files, GPU), GPU)
        assert engines.recordable
        if beside is None:
            yield gpu, Pipeline(engines, manifest.model)
        else:
            yield gpu, Pipeline(engines, manifest.model, record=lambda: CudaRecorder(GPU), beside=beside())


def test_the_predicted_buffers_are_those_of_a_stream(torch_bundle: Path) -> None:
    manifest = load_manifest(torch_bundle)
    with on_gpu(torch_bundle) as (_, pipeline):
        prediction = pipeline.step(
            torch.zeros(1, 3, pipeline.side, pipeline.side, device=GPU), prompt(manifest.model.dim, GPU)
        )
        first, queries = 4, len(prediction.query_states)  # bytes of one number
        buffers = pipeline.num_bytes + pipeline.bank.staged.nbytes + first
    assert gpu_frame_needs(manifest.model, manifest.precision).buffers == buffers + 4 * queries * 134


@pytest.mark.parametrize("ahead", [True, False])
def test_graphs_give_what_a_cpu_gives(torch_bundle: Path, ahead: bool) -> None:
    manifest = load_manifest(torch_bundle)
    config, files = manifest.model, BundleFiles(torch_bundle, manifest.files)
    model = load_model(manifest, files)
    count = 2 * config.memory.slots + 3
    engines = load_engines(find_backend("torch"), manifest.stages, files, model, CPU)
    clip = pictures(config.image_size, count)
    wanted = copies(stream(Pipeline(engines, config), prompt(config.dim), clip, ahead=False))
    with on_gpu(torch_bundle) as (gpu, pipeline):
        there = pictures(config.image_size, count, GPU)
        ours = copies(stream(pipeline, prompt(config.dim, GPU), there, ahead))
        assert len(gpu.device.graphs) == config.memory.slots + 2
    assert_close(ours, wanted, atol=1e-4)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_steady_step_takes_no_memory_and_waits_for_nothing(torch_bundle: Path, ahead: bool) -> None:
    with on_gpu(torch_bundle) as (gpu, pipeline):
        slots = pipeline.bank.slots
        clip, asked = pictures(pipeline.side, slots + 4, GPU), prompt(load_manifest(torch_bundle).model.dim, GPU)
        for number, picture in enumerate(clip):
            gpu.take()
            gpu.device.replayed.clear()
            following = clip[number + 1] if ahead and number + 1 < len(clip) else None
            pipeline.step(picture, asked, lambda following=following: following)  # type: ignore[misc]
            if number <= slots:
                continue
            assert gpu.made == 0
            assert not gpu.take()
            graphs, streams = zip(*gpu.device.replayed, strict=True)
            if not ahead:
                assert len(graphs) == 2  # the encoder, then all else
            elif following is not None:  # this frame's other stages, and beside them the next one's encoder
                assert len(set(graphs)) == len(set(streams)) == 2
                assert streams[0] == gpu.device.default.cuda_stream


class WithoutJoin(CudaBeside):
    """Takes features that may not be there yet."""

    def __init__(self) -> None:
        super().__init__(GPU)

    def join(self) -> None: ...


class WithoutMark(CudaBeside):
    """Overwrites features that may not have been taken yet."""

    def __init__(self) -> None:
        super().__init__(GPU)

    def mark(self) -> None: ...


@pytest.mark.parametrize("beside", [WithoutJoin, WithoutMark])
def test_work_ahead_that_is_not_ordered_is_noticed(torch_bundle: Path, beside: Callable[[], Beside]) -> None:
    with on_gpu(torch_bundle, beside) as (_, pipeline):  # type: ignore[arg-type]
        clip, asked = pictures(pipeline.side, 4, GPU), prompt(load_manifest(torch_bundle).model.dim, GPU)
        with pytest.raises(RuntimeError, match="does not wait for work on the same memory"):
            list(stream(pipeline, asked, clip, ahead=True))


def test_a_graph_holds_no_work_that_waits() -> None:
    with simulated_gpu():
        there = torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match="item: not permitted while a graph is captured"):
            FrameGraph((lambda: there.mul_(float(there.sum())),), lambda: None, CudaRecorder(GPU))()  # type: ignore[list-item]


def test_what_is_captured_happens_when_it_is_replayed() -> None:
    with simulated_gpu() as gpu:
        total, step = torch.zeros(1, device="cuda"), torch.ones(1, device="cuda")
        graph = FrameGraph((), lambda: total.add_(step * 2), CudaRecorder(GPU))  # type: ignore[arg-type, return-value]
        graph()
        step.fill_(10)
        graph()
        assert float(total) == 22
        assert [one.replays for one in gpu.device.graphs] == [2]


def test_what_overwrites_its_inputs_runs_once_per_call() -> None:
    done: list[str] = []
    graph = FrameGraph(
        [lambda: done.append("encode"), lambda: done.append("decode")], lambda: done.append("place"), Recordings()
    )
    assert done == []
    graph()
    assert done == ["encode", "decode", "encode", "decode", "place"]
    graph()
    assert done[5:] == ["encode", "decode", "place"]


def test_a_following_frame_of_another_size_is_refused(toy: Checkpoint, tmp_path: Path) -> None:
    engines, config = build_engines(toy.model, "torch", tmp_path), toy.model.config
    pipeline = Pipeline(engines, config, record=lambda: None, beside=InTurn())
    picture = pictures(config.image_size, 1)[0]
    with pytest.raises(EngineError, match="A frame of"):
        pipeline.step(picture, prompt(config.dim), lambda: picture[:, :, 1:])


@pytest.mark.parametrize("name", STAND_INS)
def test_stand_ins_take_only_what_torch_takes(name: str) -> None:
    """Names, order and defaults of what they can be called with."""
    real, stand_in = getattr(torch.cuda, name.rpartition(".")[2]), STAND_INS[name]
    if not inspect.isclass(real):
        return assert_called_alike(real, stand_in)
    assert_called_alike(real.__new__, stand_in.__init__)
    for method in (one for one in vars(stand_in) if not one.startswith("_") and callable(getattr(stand_in, one))):
        assert_called_alike(getattr(real, method), getattr(stand_in, method))
    return None


def assert_called_alike(real: Callable[..., object], stand_in: Callable[..., object]) -> None:
    wanted, found = (list(inspect.signature(one).parameters.values()) for one in (real, stand_in))
    first = int(bool(found) and found[0].name == "self")
    kept = [(one.name, one.default, one.kind) for one in wanted[first : len(found)]]
    assert [(one.name, one.default, one.kind) for one in found[first:]] == kept
