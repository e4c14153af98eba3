"""The PyTorch backend: the model itself, which every other backend is checked against."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from x2sam_rt.model.cpu.optimize import optimize_for_cpu
from x2sam_rt.model.stage_contract import StageContract, Tensors
from x2sam_rt.runtime.bundle import BundleFiles
from x2sam_rt.runtime.engines.engine import BoundStage, StageToBuild


def build(stage: StageToBuild, path: Path) -> None:
    """Writes nothing: every bundle holds the weights."""


def load(
    contract: StageContract, files: BundleFiles, name: str, module: nn.Module, device: torch.device
) -> TorchEngine:
    """What `optimize_for_cpu` makes of a module is for CPUs only; a GPU gets the module as it is."""
    return TorchEngine(contract, optimize_for_cpu(module) if device.type == "cpu" else module, device)


class TorchEngine:
    recordable = True

    def __init__(self, contract: StageContract, module: nn.Module, device: torch.device) -> None:
        self.contract, self.device = contract, device
        self._module: nn.Module | None = module

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        self.contract.check(inputs, outputs)
        arguments = [inputs[tensor.name] for tensor in self.contract.inputs]
        return partial(self._run, arguments, [outputs[tensor.name] for tensor in self.contract.outputs])

    @torch.inference_mode()
    def _run(self, arguments: list[Tensor], results: list[Tensor]) -> None:
        assert self._module is not None, "run after close"
        computed = self._module(*arguments)
        for result, value in zip(results, computed if isinstance(computed, tuple) else (computed,), strict=True):
            result.copy_(value)

    def close(self) -> None:
        self._module = None
