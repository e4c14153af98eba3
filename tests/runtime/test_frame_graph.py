"""Whole frames as one piece of work: the same numbers as stage by stage, one graph in the steady state, and nothing in
it that a CUDA graph could not hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from simulated_gpu import GPU, simulated_gpu
from torch import Tensor

from x2sam_rt.export.engines import build_engines
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.runtime.bundle import BundleFiles, load_manifest
from x2sam_rt.runtime.engines import find_backend
from x2sam_rt.runtime.engines.engine import load_engines
from x2sam_rt.runtime.frame_graph import FrameGraph, Work
from x2sam_rt.runtime.pipeline import Pipeline
from x2sam_rt.runtime.weights import load_model


def prompt(dim: int, device: torch.device) -> PromptEmbeddings:
    generator = torch.Generator().manual_seed(3)
    sizes = ((1, dim), (3, dim), (7, dim))
    return PromptEmbeddings(*(torch.randn(size, generator=generator).to(device) for size in sizes))


def pictures(side: int, frames: int) -> Tensor:
    return torch.randn(frames, 1, 3, side, side, generator=torch.Generator().manual_seed(1))


class Recordings:
    """Stands for CUDA graphs: keeps what is recorded, counts what is replayed."""

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


@pytest.mark.parametrize("recordings", [Recordings(), None], ids=["recorded", "called"])
def test_gives_what_stages_give_one_by_one(
    toy: Checkpoint, tmp_path: Path, recordings: Callable[[Work, Work], Work] | None
) -> None:
    config = toy.model.config
    engines = build_engines(toy.model, "torch", tmp_path)
    ours, reference = Pipeline(engines, config, record=lambda: recordings), Pipeline(engines, config)
    asked, slots = prompt(config.dim, torch.device("cpu")), config.memory.slots
    for number, picture in enumerate(pictures(config.image_size, 2 * slots + 3)):
        if number == slots + 2:  # a frame nobody segments makes the memory older
            ours.skip()
            reference.skip()
        if number == 2 * slots + 1:
            ours.forget()
            reference.forget()
        one, other = ours.step(picture, asked), reference.step(picture, asked)
        for name in vars(other):
            assert torch.equal(getattr(one, name), getattr(other, name)), (number, name)
    if isinstance(recordings, Recordings):  # one for each fill level; the full one runs from then on
        assert len(recordings.replays) == slots + 1
        assert recordings.replays[slots] == slots + 1


def test_a_recorded_frame_neither_waits_nor_copies(torch_bundle: Path) -> None:
    manifest = load_manifest(torch_bundle)
    config = manifest.model
    with simulated_gpu() as gpu:
        backend = find_backend("torch")
        files = BundleFiles(torch_bundle, manifest.files)
        engines = load_engines(backend, manifest.stages, files, load_model(manifest, files, GPU), GPU)
        assert engines.recordable
        pipeline, asked = Pipeline(engines, config), prompt(config.dim, GPU)
        frames = [picture.to(GPU) for picture in pictures(config.image_size, config.memory.slots + 3)]
        for frame in frames:
            gpu.take()
            pipeline.step(frame, asked)
            assert not gpu.take()


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
