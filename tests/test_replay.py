"""The whole model against recordings of the published one, on every backend, stage by stage and as a stream."""

from __future__ import annotations

from pathlib import Path

import pytest
from recordings import FIXTURES, RANDOM_TOY, Backend, read_cases
from replay import Replay

from x2sam_rt.export.engines import build_engines
from x2sam_rt.model.checkpoint.loading import Checkpoint, load_checkpoint
from x2sam_rt.runtime.runtime import Runtime

STREAMING = pytest.mark.parametrize("streaming", [False, True], ids=["stages", "stream"])


@pytest.mark.parametrize("case", ["video_phrases", "video_regions", "image_phrases", "image_regions", "video_gcg"])
@STREAMING
def test_toy_on_torch(toy: Checkpoint, tmp_path: Path, case: str, streaming: bool) -> None:
    replay = Replay(toy, build_engines(toy.model, "torch", tmp_path), "torch")
    _check(replay, FIXTURES / "toy", case, streaming, "torch")


@pytest.mark.parametrize("case", ["video_phrases", "video_regions", "image_regions", "video_gcg"])
@STREAMING
def test_toy_on_onnxruntime(toy: Checkpoint, onnx_bundle: Path, case: str, streaming: bool) -> None:
    with Runtime.load(onnx_bundle) as runtime:
        _check(Replay(toy, runtime.engines, "onnxruntime"), FIXTURES / "toy", case, streaming, "onnxruntime")


def test_generation_is_greedy_and_exact(toy: Checkpoint, tmp_path: Path) -> None:
    replay = Replay(toy, build_engines(toy.model, "torch", tmp_path), "torch")
    _check(replay, FIXTURES / "toy", "video_generate", False, "torch")


@pytest.mark.parametrize("weights", ["toy_lora", "toy_lora_historic"])
@pytest.mark.parametrize("case", ["video_generate", "video_gcg"])
def test_adapters_are_merged(tmp_path: Path, case: str, weights: str) -> None:
    """Checkpoints from before 2026-06-30 hold tensors besides, which change nothing."""
    folder = FIXTURES / "toy_lora"
    checkpoint = load_checkpoint(
        FIXTURES / weights / "pytorch_model.bin",
        vlm=str(folder / "vlm"),
        config=folder / "config.json",
        tokenizer=RANDOM_TOY / "tokenizer",
    )
    replay = Replay(checkpoint, build_engines(checkpoint.model, "torch", tmp_path), "torch")
    _check(replay, folder, case, False, "torch")


@pytest.mark.parametrize("case", ["video_phrases", "image_regions"])
@STREAMING
def test_edges(tmp_path: Path, case: str, streaming: bool) -> None:
    """Queries with nothing left to attend to, clamped class logits, a background that always wins."""
    folder = FIXTURES / "toy_edge"
    checkpoint = load_checkpoint(folder, tokenizer=RANDOM_TOY / "tokenizer")
    replay = Replay(checkpoint, build_engines(checkpoint.model, "torch", tmp_path), "torch")
    _check(replay, folder, case, streaming, "torch")


def _check(replay: Replay, folder: Path, name: str, streaming: bool, backend: Backend) -> None:
    case = next(case for case in read_cases(folder) if case.name == name)
    comparison = replay.run(case, streaming=streaming)
    assert comparison.failures(backend) == []
    assert comparison.errors, "something must have been compared"
    if backend == "torch":
        assert comparison.untouched() == []
