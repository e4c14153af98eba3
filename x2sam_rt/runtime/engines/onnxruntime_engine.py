"""The ONNX Runtime backend, on the CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from x2sam_rt.errors import EngineError
from x2sam_rt.kernels import available, cpu
from x2sam_rt.model.stage_contract import StageContract, Tensors
from x2sam_rt.runtime.engines.engine import BoundStage, StageToBuild

_PROVIDER = "CPUExecutionProvider"
# ONNX Runtime's fused add-and-norm has been slower on CPUs than its parts.
_SLOW_FUSION = "SkipLayerNormFusion"
_STATE = onnxruntime.capi.onnxruntime_pybind11_state
_LOAD_ERRORS = (
    _STATE.Fail,
    _STATE.InvalidArgument,
    _STATE.InvalidGraph,
    _STATE.InvalidProtobuf,
    _STATE.NotImplemented,
    _STATE.RuntimeException,
)


def build(stage: StageToBuild, path: Path) -> None:
    stage.write_onnx(path)


def load(contract: StageContract, path: Path, module: nn.Module, device: torch.device) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(contract, path, device)


class OnnxRuntimeEngine:
    def __init__(self, contract: StageContract, path: Path, device: torch.device) -> None:
        self.contract, self.device = contract, device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Each stage has its own threads; spinning ones would starve the next stage and PyTorch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Prompts change shapes; a plan per shape would grow with every new one.
        options.enable_mem_pattern = False
        if available().cpu:  # else the graph runs its kernels' bodies of standard operators
            cpu.register_with_onnxruntime(options)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[_PROVIDER], disabled_optimizers=[_SLOW_FUSION]
            )
        except _LOAD_ERRORS as error:
            raise EngineError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load this stage ({error}). "
                "Export the checkpoint again with the installed versions."
            ) from error
        self._options = onnxruntime.RunOptions()

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        self.contract.check(inputs, outputs)
        binding = self._session.io_binding()
        # ONNX Runtime reads and writes the tensors' own memory; nothing is copied.
        for name, tensor in inputs.items():
            binding.bind_input(name, "cpu", 0, _numpy_type(tensor), tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in outputs.items():
            binding.bind_output(name, "cpu", 0, _numpy_type(tensor), tuple(tensor.shape), tensor.data_ptr())
        return partial(self._run, binding, [*inputs.values(), *outputs.values()])

    def _run(self, binding: onnxruntime.IOBinding, _alive: list[torch.Tensor]) -> None:
        """_alive: the tensors whose memory the binding points to."""
        self._session.run_with_iobinding(binding, self._options)

    def close(self) -> None:
        del self._session


def _numpy_type(tensor: torch.Tensor) -> type[np.generic]:
    return {torch.float32: np.float32, torch.int64: np.int64, torch.bool: np.bool_}[tensor.dtype]
