"""Builds a model's engines on this machine, by backend name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from x2sam_rt.errors import EngineError
from x2sam_rt.export.onnx import export_onnx
from x2sam_rt.export.stages import stage_specs
from x2sam_rt.model.stages import stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import StageSpec
from x2sam_rt.runtime.engines.engine import Engine
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from x2sam_rt.runtime.engines.torch_engine import TorchEngine
from x2sam_rt.runtime.pipeline import Engines
from x2sam_rt.runtime.weights import STAGE_WEIGHTS

OnStage = Callable[[str], None]


def build_engines(model: X2SAM, backend: str, folder: Path, on_stage: OnStage = lambda name: None) -> Engines:
    """Every stage of a model as an engine. folder: where engine files go. on_stage: told each stage before it is built.

    Raises EngineError for a backend this machine cannot build.
    """
    engines = {}
    for spec in backend_specs(model, backend):
        on_stage(spec.name)
        engines[spec.name] = build_engine(model, spec, backend, folder)
    return Engines(**engines)


def backend_specs(model: X2SAM, backend: str) -> tuple[StageSpec, ...]:
    """The contract of every stage, with the engine files of a backend."""
    files = {"torch": STAGE_WEIGHTS, "onnxruntime": "stages/{stage}.onnx"}
    if backend not in files:
        raise EngineError(f"Backend {backend!r} cannot be built here; wanted one of {sorted(files)}.")
    return stage_specs(model.config, "float32", files[backend])


def build_engine(model: X2SAM, spec: StageSpec, backend: str, folder: Path) -> Engine:
    module = stage_module(model, spec.name)
    if backend == "torch":
        return TorchEngine(spec, module)
    path = folder / spec.file
    path.parent.mkdir(parents=True, exist_ok=True)
    export_onnx(module, spec, path)
    return OnnxRuntimeEngine(spec, path)
