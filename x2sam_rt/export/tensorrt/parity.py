"""The changed graph against the original, both in fp32 on ONNX Runtime's CPU: what can be checked without a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx.numpy_helper

from x2sam_rt.errors import EngineError
from x2sam_rt.evaluation.backends import fp32_spec
from x2sam_rt.export.onnx import save_graph
from x2sam_rt.export.stages import EXAMPLE_SIZES, empty_tensors, example_tensors
from x2sam_rt.export.verify import BOUNDS, relative_error
from x2sam_rt.kernels.onnx_ops import nodes_of
from x2sam_rt.runtime.bundle import StageSpec
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine

_BF16, _FP32 = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


def widened_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in fp32 what the model computes in bf16, with the same weights: every bf16 becomes fp32 and
    nothing else changes. ONNX Runtime's CPU has no bf16."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for node in nodes_of(wide):
        _widen_attributes(node)
    for graph in _graphs(wide):
        _widen_types((*graph.input, *graph.output, *graph.value_info))
        for tensor in graph.initializer:
            _widen_tensor(tensor)
    for function in wide.functions:
        _widen_types(function.value_info)
    return wide


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield model.graph
    for node in nodes_of(model):
        yield from (attribute.g for attribute in node.attribute if attribute.HasField("g"))


def _widen_types(values: Iterable[onnx.ValueInfoProto]) -> None:
    for value in values:
        if value.type.tensor_type.elem_type == _BF16:
            value.type.tensor_type.elem_type = _FP32


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == _BF16:
        values = onnx.numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


def _widen_attributes(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            _widen_tensor(attribute.t)
        if attribute.name == "to" and attribute.i == _BF16:
            attribute.i = _FP32


def runnable_engine(model: onnx.ModelProto, spec: StageSpec, path: Path) -> OnnxRuntimeEngine:
    """A graph as an engine in fp32 on this machine's CPU. path: where its file goes."""
    save_graph(widened_graph(model), path)
    return OnnxRuntimeEngine(fp32_spec(spec), path)


def check_parity(original: OnnxRuntimeEngine, changed: OnnxRuntimeEngine) -> float:
    """Runs both graphs of a stage on the same random inputs. Returns the largest error of any output, relative to
    max(1, largest value). Raises EngineError when the pass changed what is computed."""
    errors = dict(_output_errors(original, changed))
    bound = BOUNDS["fp32"].error
    wrong = [f"{name} by {error:.1e}" for name, error in errors.items() if not error <= bound]
    if wrong:
        raise EngineError(
            f"Stage {original.spec.name}: the graph changed for TensorRT computes something else ({', '.join(wrong)}; "
            f"at most {bound:g} is rounding). No engine was built; report this with the versions of onnx and torch."
        )
    return max(errors.values())


def _output_errors(original: OnnxRuntimeEngine, changed: OnnxRuntimeEngine) -> Iterator[tuple[str, float]]:
    spec = original.spec
    inputs = example_tensors(spec.inputs, EXAMPLE_SIZES, spec.name)
    one, other = (empty_tensors(spec.outputs, EXAMPLE_SIZES) for _ in range(2))
    original.run(inputs, one)
    changed.run(inputs, other)
    for name, tensor in one.items():
        yield name, relative_error(other[name], tensor)
