"""The ONNX Runtime backend, on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from x2sam_rt.errors import EngineError
from x2sam_rt.kernels import available, cpu
from x2sam_rt.runtime.bundle import StageSpec
from x2sam_rt.runtime.engines.engine import Tensors, check_tensors

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


class OnnxRuntimeEngine:
    def __init__(self, spec: StageSpec, path: Path) -> None:
        self.spec = spec
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

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        check_tensors(self.spec, inputs, outputs)
        binding = self._session.io_binding()
        # ONNX Runtime reads and writes the tensors' own memory; nothing is copied.
        for name, tensor in inputs.items():
            binding.bind_input(name, "cpu", 0, _numpy_type(tensor), tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in outputs.items():
            binding.bind_output(name, "cpu", 0, _numpy_type(tensor), tuple(tensor.shape), tensor.data_ptr())
        self._session.run_with_iobinding(binding, self._options)

    def close(self) -> None:
        del self._session


def _numpy_type(tensor: torch.Tensor) -> type[np.generic]:
    return {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64, torch.bool: np.bool_}[
        tensor.dtype
    ]
