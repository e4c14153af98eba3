"""ONNX Runtime on a GPU, as far as that shows without one: what is asked of it, and that nothing falls back unseen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from x2sam_rt.errors import EngineError
from x2sam_rt.kernels.onnx_bodies import body
from x2sam_rt.model.stage_contract import StageContract, TensorSpec
from x2sam_rt.model.stages import STAGES, example_inputs
from x2sam_rt.runtime.bundle import load_manifest
from x2sam_rt.runtime.engines import onnxruntime_engine
from x2sam_rt.runtime.engines.onnxruntime_cuda import check_placement, named_graph
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from x2sam_rt.runtime.runtime import Runtime

CUDA = "CUDAExecutionProvider"
GPU = torch.device("cuda", 1)
SIZE_ARITHMETIC = {
    *("Shape", "Size", "Concat", "Gather", "Slice", "Squeeze", "Min", "Max", "Mod", "Sub", "Add", "Mul", "Div"),
    *("Cast", "Sqrt"),
}
CONTRACT = StageContract("stage", (TensorSpec("x", (2, 3), "float32"),), (TensorSpec("y", (2, 3), "float32"),))


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    disabled = [onnxruntime_engine._RENAMING]
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(named_graph(path), options, providers=providers, disabled_optimizers=disabled)


@pytest.fixture
def graph(onnx_bundle: Path) -> Path:
    return onnx_bundle / "stages" / "memory_attention.onnx"


def test_nodes_on_the_cpu_are_an_error(graph: Path) -> None:
    """On a real session, whose every node is on the CPU."""
    with pytest.raises(EngineError, match=r"asked for CUDA.*, and \d+ nodes run elsewhere \(.* on CPUExec"):
        check_placement("memory_attention", session(graph))


@pytest.mark.parametrize("stage", STAGES)
def test_every_node_says_whether_it_computes_with_sizes(onnx_bundle: Path, stage: str) -> None:
    """As ONNX Runtime sees it, after its own changes to the graph, and in the bodies of loops too."""
    ran = session(onnx_bundle / "stages" / f"{stage}.onnx")
    nodes = [node for part in ran.get_provider_graph_assignment_info() for node in part.get_nodes()]
    of_sizes = {node.op_type for node in nodes if node.name.startswith("sizes/")}
    assert {"Shape"} & {node.op_type for node in nodes} <= of_sizes
    assert of_sizes <= SIZE_ARITHMETIC
    others = {node.op_type for node in nodes if not node.name.startswith(("sizes/", "data/"))}
    assert others <= {"LayerNormalization", "Gelu", "Gemm", "MatMul", "Transpose", "Reshape"}, "made of nodes of data"


# What ONNX Runtime's CUDA provider has kernels for in opset 20, of what our stages compute with, by the type of the
# first input (its docs/OperatorKernels.md).
CUDA_KERNELS = {
    "FLOAT": {
        *("Add", "Cast", "Clip", "Concat", "Conv", "Cos", "Div", "Expand", "Gather", "Gelu", "Gemm", "GreaterOrEqual"),
        *("GridSample", "InstanceNormalization", "IsNaN", "LayerNormalization", "Log", "MatMul", "MaxPool"),
        *("Mul", "Neg", "Pad", "ReduceL2", "ReduceMax", "ReduceSum", "Relu", "Reshape", "Resize", "Scan", "Sigmoid"),
        *("Sin", "Slice", "Softmax", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
    },
    "BOOL": {"Cast", "Expand", "Not", "Or", "Reshape", "Transpose", "Unsqueeze", "Where"},
    "INT32": {"Cast", "ReduceMax"},
    "INT64": {"Cast"},
}


def computed(graph: onnx.GraphProto, types: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Type of the first input and operator of every node with data. types: of the tensors around the graph. Whole
    numbers made of constants are computed when a session begins."""
    values = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
    }
    types = {**types, **values, **{tensor.name: tensor.data_type for tensor in graph.initializer}}
    for node in graph.node:
        if node.name.startswith("data/") and node.input and types[node.output[0]] != onnx.TensorProto.INT64:
            yield onnx.TensorProto.DataType.Name(types[node.input[0]]), node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from computed(attribute.g, types)


@pytest.mark.parametrize("stage", STAGES)
def test_cuda_has_a_kernel_for_every_node_with_data(onnx_bundle: Path, stage: str) -> None:
    """Loops included: none of them would be refused for its place."""
    graph = onnx.load_from_string(named_graph(onnx_bundle / "stages" / f"{stage}.onnx"))
    found = set(computed(onnx.shape_inference.infer_shapes(graph).graph, {}))
    assert {(kind, name) for kind, name in found if name not in CUDA_KERNELS.get(kind, ())} == set()
    ran = session(onnx_bundle / "stages" / f"{stage}.onnx")
    nodes = [node for part in ran.get_provider_graph_assignment_info() for node in part.get_nodes()]
    left = {node.op_type for node in nodes if not node.name.startswith("sizes/")}
    assert left <= set.union(*CUDA_KERNELS.values()), "whole numbers are gone"


def operators(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    inner = (attribute.g.node for node in nodes for attribute in node.attribute if attribute.HasField("g"))
    return {node.op_type for node in nodes}.union(*map(operators, inner))


def test_cuda_has_kernels_for_the_loops_of_larger_attention() -> None:
    """Which a small model's graphs leave out."""
    for name in ("Attention", "HeadAttention", "MaskedAttention", "SelfAttention", "SlotAttention"):
        found = operators(body(name, 20, 1).node) - {"Constant", "CastLike", "HeadAttention", "SelfAttention"}
        assert found <= set.union(SIZE_ARITHMETIC, *CUDA_KERNELS.values()), name


def test_names_change_no_result(onnx_bundle: Path) -> None:
    path = onnx_bundle / "stages" / "mask_decoder.onnx"
    contract = next(one for one in load_manifest(onnx_bundle).stages if one.name == "mask_decoder")
    inputs = {name: tensor.numpy() for name, tensor in example_inputs(contract).items()}
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for ours, wanted in zip(session(path).run(None, inputs), plain.run(None, inputs), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA")
def test_an_onnxruntime_without_cuda_says_so(onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_engine, "_stream", lambda device: SimpleNamespace(cuda_stream=1))
    with pytest.raises(EngineError, match=r"asked for cuda:1, which needs CUDAExecutionProvider. Install"):
        OnnxRuntimeEngine(CONTRACT, onnx_bundle / "stages" / "memory_attention.onnx", GPU)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_without_a_driver_nothing_runs_on_the_cpu_instead(onnx_bundle: Path) -> None:
    with pytest.raises(EngineError, match="Looked for the NVIDIA GPU cuda"):
        Runtime.load(onnx_bundle, device="cuda")


class Session:
    """Stands for one on a GPU. calls: what was done, in order; on_cpu: names of nodes that stayed on the CPU."""

    def __init__(self, calls: list[Any], on_cpu: tuple[str, ...] = ()) -> None:
        self.calls, self._on_cpu = calls, on_cpu

    def __call__(self, graph: bytes, options: Any, *, providers: list[Any], disabled_optimizers: list[str]) -> Session:
        self.calls.append(providers)
        return self

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="x", type="tensor(float)", shape=[2, 3])]

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="y", type="tensor(float)", shape=[2, 3])]

    def get_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        parts = [(CUDA, ("data/0/MatMul",)), ("CPUExecutionProvider", ("sizes/1/Concat", *self._on_cpu))]
        return [SimpleNamespace(ep_name=name, get_nodes=lambda ops=ops: nodes(ops)) for name, ops in parts]

    def io_binding(self) -> Any:
        def bind(*arguments: Any) -> None:
            self.calls.append(arguments)

        return SimpleNamespace(bind_input=bind, bind_output=bind)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.calls.append("run")


def nodes(names: tuple[str, ...]) -> list[Any]:
    return [SimpleNamespace(op_type=name.split("/")[-1], name=name) for name in names]


def stand_in(monkeypatch: pytest.MonkeyPatch, found: Session) -> None:
    stream = SimpleNamespace(cuda_stream=77, wait_stream=lambda other: found.calls.append("stream waits"))
    current = SimpleNamespace(wait_stream=lambda other: found.calls.append("PyTorch waits"))
    monkeypatch.setattr(onnxruntime_engine, "_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    monkeypatch.setattr(onnxruntime, "InferenceSession", found)


def test_reads_and_writes_tensors_where_they_lie_on_a_stream_in_step(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Session([])
    stand_in(monkeypatch, found)
    engine = OnnxRuntimeEngine(CONTRACT, graph, GPU)
    x, y = torch.zeros(2, 3), torch.zeros(2, 3)
    run = engine.bind({"x": x}, {"y": y})
    run()
    providers, bound_x, bound_y, *ran = found.calls
    assert providers == [(CUDA, {"device_id": "1", "user_compute_stream": "77"})]
    assert (bound_x[:3], bound_x[-1]) == (("x", "cuda", 1), x.data_ptr())
    assert (bound_y[:3], bound_y[-1]) == (("y", "cuda", 1), y.data_ptr())
    assert ran == ["stream waits", "run", "PyTorch waits"]
    assert not engine.recordable


def test_one_node_with_data_on_the_cpu_is_enough(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Session([], on_cpu=("data/7/NonZero",)))
    with pytest.raises(EngineError, match=r"1 nodes run elsewhere .NonZero 'data/7/NonZero' on CPUExecutionProvider"):
        OnnxRuntimeEngine(CONTRACT, graph, GPU)
