"""What every backend offers: stages whose tensors are bound once and which then run without a question."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import EngineError
from x2sam_rt.model.precision import Precision
from x2sam_rt.model.stage_contract import StageContract, Tensors
from x2sam_rt.model.stages import stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import BundleFiles
from x2sam_rt.runtime.device import wait_for
from x2sam_rt.runtime.engines import Backend

BoundStage = Callable[[], None]
OnProgress = Callable[[str, float], None]


class Engine(Protocol):
    """One stage, ready to run. Engines hold no state of a stream; several streams may share one."""

    contract: StageContract
    device: torch.device  # where the tensors it is bound to lie best
    recordable: bool  # whether what is bound may become part of a CUDA graph

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        """A call without arguments that computes the stage from and into the memory of these tensors, as often as
        wanted; it keeps them alive. Raises EngineError when they do not fit the contract (`StageContract.check`)."""

    def close(self) -> None:
        """Gives back the engine's memory; nothing bound to it may be called again."""


@dataclass(frozen=True, eq=False)
class Engines:
    """The engines of a model, shared by all its streams."""

    frame_encoder: Engine
    memory_attention: Engine
    mask_decoder: Engine
    memory_encoder: Engine
    vision_encoder: Engine

    @property
    def device(self) -> torch.device:
        """Where a stream's buffers belong."""
        return self.frame_encoder.device

    @property
    def recordable(self) -> bool:
        """Whether a frame's work may become a CUDA graph."""
        frame = (self.frame_encoder, self.memory_attention, self.mask_decoder, self.memory_encoder)
        return self.device.type == "cuda" and all(engine.recordable for engine in frame)

    @classmethod
    def of(cls, engines: Iterable[Engine]) -> Engines:
        """One engine for every stage, in any order."""
        return cls(**{engine.contract.name: engine for engine in engines})

    def waited_for(self) -> Engines:
        """The same engines, for measuring: the host waits for each."""
        return Engines(**{name: WaitedFor(engine) for name, engine in vars(self).items()})

    def close(self) -> None:
        for engine in vars(self).values():
            engine.close()


class WaitedFor:
    """An engine that the host waits for, so that its clock tells how long a stage took on a GPU."""

    recordable = False

    def __init__(self, engine: Engine) -> None:
        self.contract, self.device = engine.contract, engine.device
        self._engine = engine

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        run = self._engine.bind(inputs, outputs)

        def run_and_wait() -> None:
            run()
            wait_for(self.device)

        return run_and_wait

    def close(self) -> None:
        self._engine.close()


def run_once(engine: Engine, inputs: Tensors) -> dict[str, Tensor]:
    """Outputs of a stage, in buffers of their own: for what does not run per frame. Raises EngineError as `bind`."""
    outputs = engine.contract.outputs_for(inputs)
    engine.bind(inputs, outputs)()
    return outputs


@dataclass(frozen=True, eq=False)
class StageToBuild:
    """What a backend makes an engine from, at export. module: the stage in PyTorch, its weights in `precision`.
    config: of the model it belongs to. write_onnx: writes it to a path as an ONNX graph, with varying sizes left open.
    targets: GPUs to build for, as "sm86"; empty = the backend's choice. on_progress: told what is done, and how much
    of it, 0…1."""

    contract: StageContract
    module: nn.Module
    precision: Precision
    config: ModelConfig
    write_onnx: Callable[[Path], None]
    targets: tuple[str, ...] = ()
    on_progress: OnProgress = lambda what, done: None


class BackendModule(Protocol):
    """What a backend's file holds. Raise EngineError when the stage cannot be built or loaded here."""

    def build(self, stage: StageToBuild, path: Path) -> float | None:
        """Writes the stage's engine to `path`; other files of its own lie beside it and begin with its name.

        Returns its error against PyTorch (`export.verify.stage_error`) if what is built need not run here, else None:
        then the export loads and measures it.
        """

    def load(
        self, contract: StageContract, files: BundleFiles, name: str, module: nn.Module, device: torch.device
    ) -> Engine:
        """The engine in the file `name`, to run on `device`. module: the stage in PyTorch; it has weights, there, if
        the backend `runs_weights`."""


def backend_module(backend: Backend, name: str | None = None) -> BackendModule:
    """The backend's file. name: of another of its modules. Raises EngineError when its libraries are not installed."""
    try:
        return cast(BackendModule, import_module(name or backend.module))
    except ImportError as error:
        raise EngineError(
            f"Backend {backend.name} cannot run here: {error}. Install {' and '.join(backend.packages)}, or export the "
            "checkpoint with another --engine."
        ) from error


def load_engine(
    backend: Backend, contract: StageContract, files: BundleFiles, module: nn.Module, device: torch.device
) -> Engine:
    """One stage of a bundle. Raises EngineError, and BundleError for files that are not what they should be."""
    return backend_module(backend).load(contract, files, backend.file.format(stage=contract.name), module, device)


def load_engines(
    backend: Backend, contracts: Iterable[StageContract], files: BundleFiles, model: X2SAM, device: torch.device
) -> Engines:
    """All stages of a bundle. model: with the stages' weights, on `device`, if the backend
    `runs_weights`.

    Raises EngineError when the backend or its files cannot be used here, BundleError as `BundleFiles`.
    """
    return Engines.of(load_engine(backend, c, files, stage_module(model, c.name), device) for c in contracts)
