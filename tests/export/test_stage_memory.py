"""What a stage's graph holds at once: no attention's scores grow with the square of what is attended to."""

from __future__ import annotations

import dataclasses
from math import prod
from pathlib import Path

import onnx
import pytest
import tiny
import torch

from x2sam_rt.export.onnx import OPSET, stage_graph
from x2sam_rt.export.verify import stage_error
from x2sam_rt.kernels import onnx_ops
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.cost import stage_costs
from x2sam_rt.model.precision import Precision
from x2sam_rt.model.stages import STAGES, stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from x2sam_rt.runtime.needs import frame_bytes, gpu_frame_needs

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


# Of the published model at its own resolution: a full memory, and a photo of 16 megapixels.
FULL = {"slots": PUBLISHED.memory.slots, "conditions": 134, "tokens": 40, "pairs": 1, "merged": 2**14}


def test_pytorch_holds_no_scores_at_full_size() -> None:
    """The finest map has 65,536 tokens, the photo as many patches: their scores alone would be 17 GB a head."""
    costs = stage_costs(PUBLISHED, STAGES, torch.float32, FULL)
    assert {name for name, cost in costs.items() if 10**8 < cost.working_bytes < 5 * 10**9} == set(STAGES)
    del costs["vision_encoder"]
    # All stages together, as where each engine keeps its own.
    assert sum(cost.working_bytes for cost in costs.values()) <= frame_bytes(PUBLISHED)


@pytest.mark.parametrize(("precision", "gigabytes"), [("bf16", 2.10), ("fp32", 4.17)])
def test_frames_on_a_gpu_take_what_the_docs_say(precision: Precision, gigabytes: float) -> None:
    assert gpu_frame_needs(PUBLISHED, precision).peak / 1e9 == pytest.approx(gigabytes, abs=0.01)
