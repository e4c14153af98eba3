"""Stages as ONNX graphs, through torch's dynamo exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.export import Dim

from x2sam_rt.errors import EngineError
from x2sam_rt.export.stages import EXAMPLE_SIZES, example_tensors
from x2sam_rt.kernels import onnx_ops
from x2sam_rt.runtime.bundle import StageSpec, TensorSpec

# The newest opset without its own Attention operator: that one passes ONNX's checker with a broadcast mask and then
# fails in ONNX Runtime; attention is exported as matrix products and softmax instead.
OPSET = 20
_ONE_FILE = 2**31 - 2**20  # bytes a protobuf can hold; beyond, the weights go beside the graph
_TALKATIVE = ("torch.onnx", "onnxscript", "onnx_ir")


def export_onnx(module: nn.Module, spec: StageSpec, path: Path) -> None:
    """Writes a stage as `path`.

    Raises EngineError when the exporter or ONNX's checker refuses the stage.
    """
    save_graph(stage_graph(module, spec), path)
    onnx.checker.check_model(str(path))


def stage_graph(module: nn.Module, spec: StageSpec, opset: int = OPSET) -> onnx.ModelProto:
    """A stage's graph. Varying dimensions of the contract stay varying in it. Kernels keep a body of standard operators
    beside them, so that any ONNX runtime can run the graph.

    Raises EngineError when the exporter refuses the stage.
    """
    inputs = example_tensors(spec.inputs, EXAMPLE_SIZES, spec.name)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=_dynamic_shapes(spec.inputs),
                custom_translation_table=onnx_ops.translation_table(),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise EngineError(
            f"Stage {spec.name} cannot be exported to ONNX with torch {torch.__version__}: {error}"
        ) from error
    assert program is not None
    return onnx_ops.add_function_bodies(program.model_proto)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Writes a graph; weights that one file cannot hold go beside it."""
    onnx.save(model, path, save_as_external_data=model.ByteSize() > _ONE_FILE, location=f"{path.name}.data")


def _dynamic_shapes(tensors: tuple[TensorSpec, ...]) -> tuple[dict[int, Any], ...]:
    names = {dim for tensor in tensors for dim in tensor.shape if isinstance(dim, str)}
    dims: dict[str, Any] = {name: Dim(name, min=1) for name in names - {"patches"}}
    if "patches" in names:  # the merger takes blocks of four
        dims["patches"] = 4 * Dim("merged", min=1)
    return tuple(
        {axis: dims[dim] for axis, dim in enumerate(tensor.shape) if isinstance(dim, str)} for tensor in tensors
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
