"""Builds a model's engines on this machine, by backend name."""

from __future__ import annotations

from pathlib import Path

from x2sam_rt.export.onnx import export_onnx
from x2sam_rt.model.precision import Precision, dtype_of
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.model.stages import stage_contracts, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.engines import check_precision, find_backend
from x2sam_rt.runtime.engines.engine import Engine, Engines, StageToBuild, backend_module, load_engine


def build_engines(model: X2SAM, backend: str, folder: Path, precision: Precision = "fp32") -> Engines:
    """Every stage of a model as an engine. The model's weights are in that precision. folder: where engine files go.

    Raises EngineError for a backend or precision that cannot be built here.
    """
    check_precision(backend, precision)
    contracts = stage_contracts(model.config, dtype_of(precision))
    return Engines.of(build_engine(model, contract, backend, folder, precision) for contract in contracts)


def build_engine(
    model: X2SAM, contract: StageContract, backend: str, folder: Path, precision: Precision = "fp32"
) -> Engine:
    """One stage, built and loaded. Raises EngineError."""
    row, module = find_backend(backend), stage_module(model, contract.name)
    path = folder / row.file.format(stage=contract.name)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write_onnx(graph: Path) -> None:
        export_onnx(module, contract, graph)

    backend_module(row).build(StageToBuild(contract, module, precision, write_onnx), path)
    return load_engine(row, contract, folder, module)
