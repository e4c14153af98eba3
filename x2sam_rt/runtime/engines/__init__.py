"""Engines by backend name. Nothing falls back: a bundle runs on the backend it was exported for, or not at all."""

from __future__ import annotations

from pathlib import Path

from x2sam_rt.errors import EngineError
from x2sam_rt.model.cpu.optimize import optimize_for_cpu
from x2sam_rt.model.stages import stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import Manifest, StageSpec
from x2sam_rt.runtime.engines.engine import Engine
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine
from x2sam_rt.runtime.engines.torch_engine import TorchEngine

__all__ = ["Engine", "load_engine"]


def load_engine(spec: StageSpec, manifest: Manifest, folder: Path, model: X2SAM) -> Engine:
    """One stage of a bundle. model: holds the stages' weights when the backend is torch.

    Raises EngineError for a backend this installation cannot run.
    """
    if manifest.backend == "torch":
        return TorchEngine(spec, optimize_for_cpu(stage_module(model, spec.name)))
    if manifest.backend == "onnxruntime":
        return OnnxRuntimeEngine(spec, folder / spec.file)
    raise EngineError(
        f"{folder}: exported for {manifest.backend!r}, which this version cannot run. "
        "Export the checkpoint with --engine onnxruntime or torch."
    )
