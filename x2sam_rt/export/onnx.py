"""Stages as ONNX graphs, through torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from onnx_ir.external_data import unload_from_model
from torch import nn

from x2sam_rt.errors import EngineError
from x2sam_rt.kernels import onnx_ops
from x2sam_rt.model.folding import folded
from x2sam_rt.model.stage_contract import StageContract, multiple
from x2sam_rt.model.stages import example_inputs

# The newest opset without its own Attention operator: that one passes ONNX's checker with a broadcast mask and then
# fails in ONNX Runtime; attention is exported as matrix products and softmax instead, large ones piece by piece.
OPSET, _ATTENTION_OPSET = 20, 23
_ONE_FILE = 2**31 - 2**20  # bytes a protobuf can hold; beyond, the weights go beside the graph
# Bytes of weights from which on they lie beside the graph, each that is not small: ONNX Runtime maps them then.
_BESIDE_ABOVE, _SMALL = 2**28, 2**10
_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")


def export_onnx(module: nn.Module, contract: StageContract, path: Path) -> None:
    """Writes a stage, its projections folded, as `path`.

    Raises EngineError when the exporter or ONNX's checker refuses the stage.
    """
    program = _program(folded(module), contract, OPSET)
    if _weight_bytes(program.model) > _BESIDE_ABOVE:  # written from PyTorch's own memory: the graph takes no copy
        unload_from_model(program.model, path.parent, weights_name(path), size_threshold_bytes=_SMALL)
    onnx.save(onnx_ops.add_function_bodies(program.model_proto), path)
    onnx.checker.check_model(str(path))


def stage_graph(module: nn.Module, contract: StageContract, opset: int) -> onnx.ModelProto:
    """A stage's graph. Varying dimensions of the contract stay varying in it. Kernels keep a body of standard operators
    beside them, so that any ONNX runtime can run the graph.

    Raises EngineError when the exporter refuses the stage.
    """
    return onnx_ops.add_function_bodies(_program(module, contract, opset).model_proto)


def _program(module: nn.Module, contract: StageContract, opset: int) -> torch.onnx.ONNXProgram:
    inputs = example_inputs(contract)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in contract.inputs],
                output_names=[tensor.name for tensor in contract.outputs],
                dynamic_shapes=_dynamic_shapes(contract),
                custom_translation_table=_translations(opset),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise EngineError(
            f"Stage {contract.name} cannot be exported to ONNX with torch {torch.__version__}: {error}"
        ) from error
    assert program is not None
    return program


def _weight_bytes(model: onnx_ir.Model) -> int:
    weights = (value.const_value for value in model.graph.initializers.values())
    return sum(weight.nbytes for weight in weights if weight is not None)


def weights_name(path: Path) -> str:
    """Of the file beside a graph, where its weights lie if they are not in it."""
    return f"{path.name}.data"


def _translations(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """From opset 23 on attention is an operator, which those who take such graphs compute without its scores."""
    kernels = onnx_ops.translation_table()
    return kernels if opset >= _ATTENTION_OPSET else kernels | onnx_ops.attention_in_pieces()


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Writes a graph; weights that one file cannot hold go beside it."""
    onnx.save(model, path, save_as_external_data=model.ByteSize() > _ONE_FILE, location=weights_name(path))


def _dynamic_shapes(contract: StageContract) -> tuple[dict[int, Any], ...]:
    dims = {name: torch.export.Dim(name, min=1) for name in contract.varying}

    def dynamic(dim: str) -> Any:
        factor, name = multiple(dim)
        return factor * dims[name] if factor > 1 else dims[name]

    return tuple(
        {axis: dynamic(dim) for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)}
        for tensor in contract.inputs
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's progress prints and deprecation notices off the user's terminal; errors still raise."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
