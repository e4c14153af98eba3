"""The kernels in ONNX: one node each, runnable anywhere through their bodies, natively in ONNX Runtime on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checks import needs_library, random
from onnx import TensorProto, helper
from torch import Tensor

from x2sam_rt.errors import EngineError, KernelUnavailable
from x2sam_rt.kernels import availability, cpu, onnx_ops
from x2sam_rt.kernels.deformable_attention import deformable_attention
from x2sam_rt.kernels.mask_fusion import attention_mask, mask_fusion
from x2sam_rt.kernels.memory_attention import self_attention, slot_attention

LEVELS = ((2, 3), (4, 5), (8, 7))
OPERATORS = ["SelfAttention", "SlotAttention", "DeformableAttention", "MaskFusion", "AttentionMask"]
Arrays = list[np.ndarray[Any, Any]]


class AllKernels(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(32, 32)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, shift: Tensor, value: Tensor, at: Tensor, classes: Tensor, masks: Tensor
    ) -> tuple[Tensor, ...]:
        attended = self_attention(self.project(q), q, q)
        weights = at.sum(-1)
        return (
            slot_attention(attended, k, v, shift),
            deformable_attention(value, LEVELS, at, weights),
            mask_fusion(classes, masks),
            attention_mask(masks, (5, 6)),
        )


def make_inputs(queries: int, slots: int, tokens: int, conditions: int) -> tuple[Tensor, ...]:
    locations = torch.rand(2, 11, 2, 3, 4, 2, generator=torch.Generator().manual_seed(9)) * 1.4 - 0.2
    return (
        random(queries, 32, seed=1),
        random(slots, tokens, 32, seed=2),
        random(slots, tokens, 32, seed=3),
        random(slots, 32, seed=4),
        random(2, 82, 2, 8, seed=5),
        locations,
        random(7, conditions + 1, seed=6),
        random(7, 12, 9, seed=7) - 1,
    )


@pytest.fixture(scope="module")
def module() -> AllKernels:
    torch.manual_seed(0)
    return AllKernels().eval()


@pytest.fixture(scope="module")
def model(module: AllKernels) -> onnx.ModelProto:
    queries, slots, tokens, conditions = (torch.export.Dim(name) for name in ("n", "slots", "tokens", "conditions"))
    memory = {0: slots, 1: tokens}
    dynamic = ({0: queries}, memory, memory, {0: slots}, None, None, {1: conditions}, None)
    program = torch.onnx.export(
        module,
        make_inputs(10, 2, 9, 4),
        dynamo=True,
        opset_version=20,
        custom_translation_table=onnx_ops.translation_table(),
        dynamic_shapes=dynamic,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def run(model: onnx.ModelProto, inputs: tuple[Tensor, ...], *, registered: bool) -> tuple[Arrays, int]:
    """The outputs, and how many native operators ONNX Runtime ran for them."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    if registered:
        cpu.register_with_onnxruntime(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {info.name: tensor.numpy() for info, tensor in zip(session.get_inputs(), inputs, strict=True)}
    before = cpu.onnxruntime_calls() if availability.has_library("x2sam_cpu") else 0
    outputs = session.run(None, feeds)
    return outputs, (cpu.onnxruntime_calls() if availability.has_library("x2sam_cpu") else 0) - before


def assert_agrees(outputs: Arrays, module: AllKernels, inputs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        expected = module(*inputs)
    for output, tensor in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, tensor.numpy(), rtol=1e-5, atol=3e-6)


def test_every_kernel_is_one_node(model: onnx.ModelProto) -> None:
    nodes = [node.op_type for node in model.graph.node if node.domain == onnx_ops.DOMAIN]
    assert nodes == OPERATORS
    slots = model.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in slots] == ["n", 32]


SIZES = [
    pytest.param((10, 2, 9, 4), id="as-exported"),
    pytest.param((513, 5, 3, 1), id="other-slots-and-conditions"),
    pytest.param((1, 1, 1, 12), id="one-of-each"),
]


@pytest.mark.parametrize("sizes", SIZES)
def test_any_onnx_runtime_runs_the_bodies(
    model: onnx.ModelProto, module: AllKernels, sizes: tuple[int, int, int, int]
) -> None:
    complete = onnx_ops.add_function_bodies(copy_of(model))
    onnx.checker.check_model(complete)
    outputs, native_runs = run(complete, make_inputs(*sizes), registered=False)
    assert native_runs == 0
    assert_agrees(outputs, module, make_inputs(*sizes))


@needs_library
@pytest.mark.parametrize("sizes", SIZES)
def test_registered_kernels_win_over_the_bodies(
    model: onnx.ModelProto, module: AllKernels, sizes: tuple[int, int, int, int]
) -> None:
    complete = onnx_ops.add_function_bodies(copy_of(model))
    outputs, native_runs = run(complete, make_inputs(*sizes), registered=True)
    assert native_runs == len(OPERATORS)
    assert_agrees(outputs, module, make_inputs(*sizes))


def test_bodies_are_added_once_and_only_where_used(model: onnx.ModelProto) -> None:
    complete = onnx_ops.add_function_bodies(onnx_ops.add_function_bodies(copy_of(model)))
    assert sorted(function.name for function in complete.functions) == sorted(OPERATORS)
    del complete.functions[:]
    del complete.graph.node[:]
    assert not onnx_ops.add_function_bodies(complete).functions


def one_node_model(operator: str, opset: int, **attributes: list[int]) -> onnx.ModelProto:
    node = helper.make_node(operator, ["value", "locations", "weights"], ["out"], domain=onnx_ops.DOMAIN, **attributes)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in node.input]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "one", inputs, [output])
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(onnx_ops.DOMAIN, onnx_ops.VERSION)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def test_an_old_opset_is_refused() -> None:
    with pytest.raises(EngineError, match="need opset 20, the model has 17; export it anew"):
        onnx_ops.add_function_bodies(one_node_model("DeformableAttention", 17, spatial_shapes=[2, 2]))


def test_differing_levels_are_refused() -> None:
    model = one_node_model("DeformableAttention", 20, spatial_shapes=[2, 2])
    model.graph.node.add().CopyFrom(model.graph.node[0])
    model.graph.node[1].attribute[0].ints.extend([3, 3])
    with pytest.raises(EngineError, match=r"must have the same levels, got \[1, 2\]"):
        onnx_ops.add_function_bodies(model)


@needs_library
def test_wrong_shapes_are_an_error_and_not_a_crash() -> None:
    model = one_node_model("DeformableAttention", 20, spatial_shapes=[2, 2])
    inputs = (random(1, 5, 1, 8), random(1, 3, 1, 1, 2, 2), random(1, 3, 1, 1, 2))
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException, match="value must be"):
        run(model, inputs, registered=True)


def test_registering_without_the_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(availability._PATHS, "x2sam_cpu", None)
    with pytest.raises(KernelUnavailable, match="native operators were not built; reinstall"):
        cpu.register_with_onnxruntime(onnxruntime.SessionOptions())
