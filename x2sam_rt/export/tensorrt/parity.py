"""The changed graph against the original, both in fp32 on ONNX Runtime's CPU: what can be checked without a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
import onnx.numpy_helper
from torch import Tensor, nn

from x2sam_rt.errors import EngineError
from x2sam_rt.export.onnx import save_graph
from x2sam_rt.export.verify import BOUNDS, ReferenceEngine, relative_error
from x2sam_rt.kernels.onnx_ops import nodes_of
from x2sam_rt.model.stage_contract import StageContract, Tensors
from x2sam_rt.model.stages import example_inputs
from x2sam_rt.runtime.device import CPU
from x2sam_rt.runtime.engines.engine import run_once
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


def run_on_cpu(model: onnx.ModelProto, contract: StageContract, path: Path) -> dict[str, Tensor]:
    """A graph's outputs in fp32 by ONNX Runtime, on the stage's example inputs. path: where its file goes."""
    save_graph(widened_graph(model), path)
    engine = OnnxRuntimeEngine(contract.widened(), path, CPU)
    outputs = run_once(engine, example_inputs(engine.contract))
    engine.close()
    return outputs


def run_pytorch(module: nn.Module, contract: StageContract) -> dict[str, Tensor]:
    """The same by PyTorch. module: the stage in fp32."""
    engine = ReferenceEngine(contract, module)
    return run_once(engine, example_inputs(engine.contract))


def largest_error(found: Tensors, wanted: Tensors) -> float:
    """Of any output, relative to max(1, largest wanted value)."""
    return max(relative_error(found[name], tensor) for name, tensor in wanted.items())


def check_parity(stage: str, changed: Tensors, original: Tensors) -> float:
    """Returns the largest error of a changed graph's outputs. Raises EngineError when that is more than rounding."""
    error, bound = largest_error(changed, original), BOUNDS["fp32"].error
    if not error <= bound:
        raise EngineError(
            f"Stage {stage}: the graph changed for TensorRT computes something else: an error of {error:.1e}, wanted "
            f"at most {bound:g}. No engine was built; report this with the versions of onnx and torch."
        )
    return error
