"""What a stage's graph holds at once: no attention's scores grow with the square of what is attended to."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from x2sam_rt.export.onnx import OPSET, stage_graph
from x2sam_rt.export.verify import stage_error
from x2sam_rt.kernels import onnx_ops
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.stages import STAGES, stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from x2sam_rt.runtime.needs import frame_bytes

SIDE = 1024
LARGEST = 2**26  # bytes that the scores of one node may take


@pytest.fixture(scope="module")
def wide() -> X2SAM:
    """The published resolution and its tokens on the fewest channels: scores depend on tokens and heads only."""
    config = tiny.untrained().model.config
    decoder = dataclasses.replace(config.mask_decoder, queries=200, heads=8)
    config = dataclasses.replace(config, image_size=SIDE, mask_decoder=decoder)
    torch.manual_seed(0)
    return X2SAM(config).eval().requires_grad_(False)


def scores_bytes(graph: onnx.ModelProto) -> list[int]:
    """Of every softmax over more than one matrix row outside the kernels' bodies, by shape inference."""
    inferred = onnx.shape_inference.infer_shapes(graph)
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.graph.value_info
    }
    return [4 * prod(shapes[node.input[0]]) for node in inferred.graph.node if node.op_type == "Softmax"]


@pytest.mark.parametrize("name", ["frame_encoder", "mask_decoder"])
def test_no_attention_holds_large_scores(wide: X2SAM, name: str) -> None:
    contract = stage_contract(name, wide.config, torch.float32)
    graph = stage_graph(stage_module(wide, name), contract, OPSET)
    found = scores_bytes(graph)
    assert found, "windowed and small attentions stay as they are"
    assert max(found) <= LARGEST
    ours = {node.op_type for node in graph.graph.node if node.domain == onnx_ops.DOMAIN}
    assert ours & {"Attention", "MaskedAttention"}, "what is larger goes piece by piece"


def test_the_visual_tower_holds_no_scores() -> None:
    model = tiny.untrained().model
    contract = stage_contract("vision_encoder", model.config, torch.float32)
    graph = stage_graph(stage_module(model, "vision_encoder"), contract, OPSET)
    assert not [node for node in graph.graph.node if node.op_type == "Softmax"]


@pytest.mark.parametrize("name", ["frame_encoder", "mask_decoder", "vision_encoder"])
def test_pieces_compute_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_ops, "SCORES_AT_ONCE", 0)
    model = tiny.untrained().model
    contract, module = stage_contract(name, model.config, torch.float32), stage_module(model, name)
    graph = stage_graph(module, contract, OPSET)
    assert {"Attention", "MaskedAttention"} & {node.op_type for node in graph.graph.node}
    onnx.save(graph, tmp_path / "stage.onnx")
    engine = OnnxRuntimeEngine(contract, tmp_path / "stage.onnx", torch.device("cpu"))
    sizes = {"conditions": 3, "tokens": 5, "pairs": 2, "merged": 270}  # 1080 patches: more than one piece
    sizes = {dim: sizes[dim] for dim in contract.varying}
    assert stage_error(engine, module, sizes) < 1e-4


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors that are alive at once, at their most, and the largest one. It counts what an operation
    gives back; what it needs within is the kernel's own affair."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held: dict[int, list[int]] = {}  # by storage: tensors that share it, bytes
        self._now = self.peak = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._hold(leaf)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        held = self._held.setdefault(storage._cdata, [0, storage.nbytes()])
        if not held[0]:
            self._now += held[1]
            self.peak, self.largest = max(self.peak, self._now), max(self.largest, held[1])
        held[0] += 1
        weakref.finalize(tensor, self._drop, storage._cdata)

    def _drop(self, key: int) -> None:
        held = self._held[key]
        held[0] -= 1
        if not held[0]:
            self._now -= held[1]
            del self._held[key]


@pytest.fixture(scope="module")
def published() -> X2SAM:
    return empty_model(PUBLISHED)


@pytest.fixture
def fake() -> Iterator[None]:
    """Shapes are computed, numbers are not, and nothing has memory."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def without_memory(module: torch.nn.Module) -> torch.nn.Module:
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            empty = torch.empty(weight.shape, dtype=torch.float32)
            setattr(part, name, torch.nn.Parameter(empty, requires_grad=False))
        for name, table in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty(table.shape, dtype=table.dtype))
    return module


def peak_of(model: X2SAM, name: str) -> LiveMemory:
    """Of the published model's stage in PyTorch, at its own resolution, a full memory, and a photo of 16 megapixels."""
    contract = stage_contract(name, PUBLISHED, torch.float32)
    module = without_memory(stage_module(model, name))
    sizes = {"slots": PUBLISHED.memory.slots, "conditions": 134, "tokens": 40, "pairs": 1, "merged": 2**14}
    inputs = [torch.zeros(spec.sized(sizes), dtype=spec.torch_dtype) for spec in contract.inputs]
    with LiveMemory() as live, torch.inference_mode():
        module(*inputs)
    return live


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.usefixtures("fake")
def test_pytorch_holds_no_scores_at_full_size(published: X2SAM, name: str) -> None:
    """The finest map has 65,536 tokens, the photo as many patches: their scores alone would be 17 GB a head."""
    live = peak_of(published, name)
    assert 10**7 < live.largest <= 2**31
    assert live.peak <= 5 * 10**9


@pytest.mark.usefixtures("fake")
def test_a_frame_takes_what_was_said(published: X2SAM) -> None:
    """All stages together, as where each engine keeps its own."""
    frame = [name for name in STAGES if name != "vision_encoder"]
    assert sum(peak_of(published, name).peak for name in frame) <= frame_bytes(PUBLISHED)
