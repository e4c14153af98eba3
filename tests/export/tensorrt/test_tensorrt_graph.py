"""The graph pass: what TensorRT gets computes what the kernels compute, in standard operators only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.export.onnx import stage_graph
from x2sam_rt.export.tensorrt.bodies import OPSET, PIECE, tensorrt_body
from x2sam_rt.export.tensorrt.graph import attend_online, refuse_unparsable, tensorrt_graph
from x2sam_rt.export.tensorrt.parity import check_parity, run_on_cpu, widened_graph
from x2sam_rt.kernels import onnx_ops, reference
from x2sam_rt.kernels.onnx_ops import nodes_of
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.stages import stage_contract, stage_module

LEVELS = ((2, 3), (4, 5), (8, 7))


def one_node(operator: str, tensors: dict[str, Tensor], **attributes: list[int]) -> onnx.ModelProto:
    """A model of one of our operations, with its bodies, every size of its inputs open."""
    node = helper.make_node(operator, list(tensors), ["out"], domain=onnx_ops.DOMAIN, **attributes)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}_{axis}" for axis in range(tensor.dim())])
        for name, tensor in tensors.items()
    ]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", inputs, [output])
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(onnx_ops.DOMAIN, onnx_ops.VERSION)]
    return onnx_ops.add_function_bodies(helper.make_model(graph, opset_imports=imports, ir_version=10))


def computed(model: onnx.ModelProto, tensors: dict[str, Tensor]) -> Tensor:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: tensor.numpy() for name, tensor in tensors.items()})[0])


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention_inputs(queries: int, keys: int, dim: int) -> dict[str, Tensor]:
    return {
        "query": tokens(queries, dim, seed=1),
        "key": tokens(keys, dim, seed=2),
        "value": tokens(keys, dim, seed=3),
    }


@pytest.mark.parametrize(
    ("queries", "keys"), [(2, 1), (64, 64), (70, 513), (16, 2048)], ids=["one-key", "even", "odd-keys", "many-keys"]
)
def test_attention_is_one_node_of_two_heads(queries: int, keys: int) -> None:
    tensors = attention_inputs(queries, keys, 32)
    changed = tensorrt_graph(one_node("SelfAttention", tensors))
    assert [node.op_type for node in nodes_of(changed)].count("Attention") == 1
    expected = reference.self_attention(*tensors.values())
    torch.testing.assert_close(computed(changed, tensors), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "keys",
    [1, PIECE - 1, PIECE, 3 * PIECE + 7],
    ids=["one-key", "less-than-a-piece", "a-piece", "last-piece-filled-up"],
)
def test_attention_piece_by_piece_is_the_same(keys: int) -> None:
    tensors = attention_inputs(70, keys, 32)
    # Scores far from zero: a running softmax that forgot to follow the largest would overflow or vanish.
    tensors["query"] *= 40
    changed = attend_online(tensorrt_graph(one_node("SelfAttention", tensors)), [0])
    operators = [node.op_type for node in nodes_of(changed)]
    assert "Attention" not in operators
    assert "Scan" in operators
    refuse_unparsable(changed)
    truth = reference.self_attention(*(tensor.double() for tensor in tensors.values()))
    plain = (reference.self_attention(*tensors.values()) - truth).abs().max()
    assert (computed(changed, tensors) - truth).abs().max() <= 2 * plain + 1e-6


def test_an_attention_with_a_mask_cannot_go_piece_by_piece() -> None:
    node = helper.make_node("Attention", ["q", "k", "v", "mask"], ["out"], name="masked")
    model = helper.make_model(helper.make_graph([node], "g", [], []), opset_imports=[helper.make_opsetid("", OPSET)])
    with pytest.raises(EngineError, match="Node masked: an attention with a mask"):
        attend_online(model, [0])


@pytest.mark.parametrize("batch", [1, 2])
def test_deformable_attention_gathers_rows(batch: int) -> None:
    # Places beyond every border, and exactly on cells and corners.
    places = torch.rand(batch, 11, 2, 3, 4, 2, generator=torch.Generator().manual_seed(9)) * 1.6 - 0.3
    places[:, 0], places[:, 1], places[:, 2] = 0.0, 1.0, 0.5
    tensors = {
        "value": tokens(batch, 82, 2, 8, seed=5),
        "locations": places,
        "weights": tokens(batch, 11, 2, 3, 4, seed=6),
    }
    flat = [side for level in LEVELS for side in level]
    changed = tensorrt_graph(one_node("DeformableAttention", tensors, spatial_shapes=flat))
    assert "GridSample" not in {node.op_type for node in nodes_of(changed)}
    expected = reference.deformable_attention(tensors["value"], LEVELS, places, tensors["weights"])
    torch.testing.assert_close(computed(changed, tensors), expected, rtol=1e-5, atol=5e-6)


def test_kernels_without_a_body_of_their_own_keep_theirs() -> None:
    assert tensorrt_body("MaskFusion", 0) is None


def model_with(node: onnx.NodeProto) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph([node], "g", [], []))


def scan(states: int) -> onnx.NodeProto:
    names = [f"s{index}" for index in range(states)]
    body = helper.make_graph([], "body", [], [])
    return helper.make_node("Scan", [*names, "x"], [*names, "y"], name="loop", num_scan_inputs=1, body=body)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (scan(0), r"loop \(Scan\): a Scan without a state"),
        (helper.make_node("NonZero", ["x"], ["y"], name="where"), r"where \(NonZero\): its output's size"),
        (helper.make_node("Other", ["x"], ["y"], domain="elsewhere"), r"\(unnamed\) \(Other\): .* 'elsewhere'"),
    ],
    ids=["stateless-scan", "nonzero", "foreign-operator"],
)
def test_what_the_parser_refuses_is_named_before(node: onnx.NodeProto, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        refuse_unparsable(model_with(node))


def test_a_scan_with_a_state_is_let_through() -> None:
    refuse_unparsable(model_with(scan(1)))


def bf16_graph() -> onnx.ModelProto:
    """Adds bf16 constants of every kind: an initialiser, a node's tensor, and a cast within a branch."""
    weight = onnx.numpy_helper.from_array(np.array([1.5], dtype=np.float32))
    half = onnx.TensorProto(data_type=TensorProto.BFLOAT16, dims=[1], raw_data=b"\xc0\x3f", name="half")
    branch = helper.make_graph(
        [helper.make_node("Cast", ["x"], ["inner"], to=TensorProto.BFLOAT16)],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.BFLOAT16, [1])],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=half),
        helper.make_node("Constant", [], ["kept"], value=weight),
        helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, [1])], [], initializer=[half]
    )
    return helper.make_model(graph)


def test_widening_leaves_no_bf16_and_no_value_changed() -> None:
    model = bf16_graph()
    assert onnx.printer.to_text(model).count("bfloat16") == 5
    wide = widened_graph(model)
    assert "bfloat16" not in onnx.printer.to_text(wide)
    assert onnx.numpy_helper.to_array(wide.graph.initializer[0]).tolist() == [1.5]
    casts = [node for node in nodes_of(wide) if node.op_type == "Cast"]
    assert [attribute.i for node in casts for attribute in node.attribute] == [TensorProto.FLOAT] * 2


def test_a_pass_that_changed_the_numbers_is_found(toy: Checkpoint, tmp_path: Path) -> None:
    spec = stage_contract("memory_encoder", toy.model.config, torch.float32)
    original = stage_graph(stage_module(toy.model, spec.name), spec, OPSET)
    changed = tensorrt_graph(original)
    expected = run_on_cpu(original, spec, tmp_path / "original.onnx")
    computed = run_on_cpu(changed, spec, tmp_path / "changed.onnx")
    assert 0 < check_parity(spec.name, computed, expected) < 1e-5
    for node in changed.graph.node:
        if node.op_type == "Gelu":
            node.op_type = "Relu"
            del node.attribute[:]
    computed = run_on_cpu(changed, spec, tmp_path / "wrong.onnx")
    with pytest.raises(EngineError, match=r"Stage memory_encoder: .* computes something else: an error of"):
        check_parity(spec.name, computed, expected)
    computed["slot"].fill_(float("nan"))
    with pytest.raises(EngineError, match="an error of inf"):
        check_parity(spec.name, computed, expected)
