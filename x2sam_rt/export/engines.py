"""Builds a model's engines on this machine, by backend name."""

from __future__ import annotations

from pathlib import Path

from x2sam_rt.errors import EngineError
from x2sam_rt.export.onnx import export_onnx
from x2sam_rt.export.stages import stage_specs
from x2sam_rt.model.cpu.optimize import optimize_for_cpu
from x2sam_rt.model.folding import folded
from x2sam_rt.model.precision import dtype_of
from x2sam_rt.model.stages import stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import StageSpec
from x2sam_rt.runtime.engines.engine import Engine
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from x2sam_rt.runtime.engines.torch_engine import TorchEngine
from x2sam_rt.runtime.pipeline import Engines
from x2sam_rt.runtime.weights import STAGE_WEIGHTS

_FILES = {"torch": STAGE_WEIGHTS, "onnxruntime": "stages/{stage}.onnx"}


def build_engines(model: X2SAM, backend: str, folder: Path, precision: str = "fp32") -> Engines:
    """Every stage of a model as an engine. The model's weights are in that precision. folder: where engine files go.

    Raises EngineError for a backend or precision that cannot be built here.
    """
    specs = backend_specs(model, backend, precision)
    return Engines(**{spec.name: build_engine(model, spec, backend, folder) for spec in specs})


def backend_specs(model: X2SAM, backend: str, precision: str) -> tuple[StageSpec, ...]:
    """The contract of every stage, with the engine files of a backend."""
    if backend not in _FILES:
        raise EngineError(f"Backend {backend!r} cannot be built here; wanted one of {', '.join(_FILES)}.")
    if backend == "onnxruntime" and precision != "fp32":
        raise EngineError(
            f"ONNX Runtime on a CPU computes fp32 only; found {precision!r}. Export with --engine torch for bf16."
        )
    dtype = str(dtype_of(precision)).removeprefix("torch.")
    return stage_specs(model.config, dtype, _FILES[backend])


def build_engine(model: X2SAM, spec: StageSpec, backend: str, folder: Path) -> Engine:
    module = stage_module(model, spec.name)
    if backend == "torch":
        return TorchEngine(spec, optimize_for_cpu(module))
    path = folder / spec.file
    path.parent.mkdir(parents=True, exist_ok=True)
    export_onnx(folded(module), spec, path)
    return OnnxRuntimeEngine(spec, path)
