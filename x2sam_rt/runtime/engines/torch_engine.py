"""The PyTorch backend: the model itself, which every other backend is checked against."""

from __future__ import annotations

import torch
from torch import nn

from x2sam_rt.runtime.bundle import StageSpec
from x2sam_rt.runtime.engines.engine import Tensors, check_tensors


class TorchEngine:
    def __init__(self, spec: StageSpec, module: nn.Module) -> None:
        self.spec = spec
        self._module: nn.Module | None = module

    @torch.inference_mode()
    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        assert self._module is not None, "run after close"
        check_tensors(self.spec, inputs, outputs)
        computed = self._module(*(inputs[tensor.name] for tensor in self.spec.inputs))
        values = computed if isinstance(computed, tuple) else (computed,)
        for tensor, value in zip(self.spec.outputs, values, strict=True):
            outputs[tensor.name].copy_(value)

    def close(self) -> None:
        self._module = None
