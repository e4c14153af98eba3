"""Builds a model's engines on this machine, by backend name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from x2sam_rt.export.onnx import export_onnx
from x2sam_rt.export.verify import reference_module, stage_error
from x2sam_rt.model.precision import Precision, dtype_of
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.model.stages import stage_contracts, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import BundleFiles, file_record
from x2sam_rt.runtime.engines import Backend, check_precision, find_backend
from x2sam_rt.runtime.engines.engine import (
    Engine,
    Engines,
    OnProgress,
    StageToBuild,
    backend_module,
    load_engine,
)


@dataclass(frozen=True)
class BuildChoice:
    """backend: a name in `runtime.engines.BACKENDS`. targets: GPUs to build for; empty = the backend's choice."""

    backend: str
    precision: Precision = "fp32"
    targets: tuple[str, ...] = ()


def build_engines(model: X2SAM, backend: str, folder: Path, precision: Precision = "fp32") -> Engines:
    """Every stage of a model as an engine. The model's weights are in that precision. folder: where engine files go.

    Raises EngineError for a backend or precision that cannot be built or run here.
    """
    check_precision(backend, precision)
    contracts = stage_contracts(model.config, dtype_of(precision))
    choice = BuildChoice(backend, precision)
    for contract in contracts:
        write_engine(model, contract, choice, folder)
    return Engines.of(_loaded(model, contract, choice, folder) for contract in contracts)


def build_and_measure(
    model: X2SAM,
    contract: StageContract,
    choice: BuildChoice,
    folder: Path,
    on_progress: OnProgress = lambda what, done: None,
) -> float:
    """Writes one stage's engine. Returns its error against PyTorch in fp32. Raises EngineError."""
    error = write_engine(model, contract, choice, folder, on_progress)
    if error is not None:
        return error
    engine = _loaded(model, contract, choice, folder)
    error = stage_error(engine, reference_module(model, contract.name))
    engine.close()
    return error


def write_engine(
    model: X2SAM,
    contract: StageContract,
    choice: BuildChoice,
    folder: Path,
    on_progress: OnProgress = lambda what, done: None,
) -> float | None:
    """Writes one stage's engine. Returns its error where that was measured without running it. Raises EngineError."""
    row, module = find_backend(choice.backend), stage_module(model, contract.name)
    path = folder / row.file.format(stage=contract.name)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write_onnx(graph: Path) -> None:
        export_onnx(module, contract, graph)

    stage = StageToBuild(contract, module, choice.precision, model.config, write_onnx, choice.targets, on_progress)
    return backend_module(row, row.builder).build(stage, path)


def _loaded(model: X2SAM, contract: StageContract, choice: BuildChoice, folder: Path) -> Engine:
    row = find_backend(choice.backend)
    return load_engine(
        row, contract, _own_files(row, contract, folder), stage_module(model, contract.name), torch.device(row.home)
    )


def _own_files(row: Backend, contract: StageContract, folder: Path) -> BundleFiles:
    """What was just written of a stage."""
    engine = folder / row.file.format(stage=contract.name)
    written = [path for path in engine.parent.glob(f"{engine.name}*") if path.is_file()]
    return BundleFiles(folder, {path.relative_to(folder).as_posix(): file_record(path) for path in written})
