"""The ONNX Runtime backend, on the CPU or a GPU."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from x2sam_rt.documents import shown
from x2sam_rt.errors import EngineError
from x2sam_rt.kernels import available, cpu
from x2sam_rt.model.stage_contract import StageContract, Tensors
from x2sam_rt.runtime.bundle import BundleFiles
from x2sam_rt.runtime.engines.engine import BoundStage, StageToBuild

_CPU_PROVIDER, _CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
# ONNX Runtime's fused add-and-norm has been slower on CPUs than its parts.
_SLOW_FUSION = "SkipLayerNormFusion"
_ONNX_TYPES = {"float32": "float", "bfloat16": "bfloat16", "int64": "int64", "bool": "bool"}
BESIDE = ".data"  # behind a graph's name: the file of the weights that one file cannot hold
# Makes nodes of its own of those that compute with sizes, and spares hardly a transposition in these graphs.
_RENAMING = "TransposeOptimizer"
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


def load(
    contract: StageContract, files: BundleFiles, name: str, module: nn.Module, device: torch.device
) -> OnnxRuntimeEngine:
    beside = f"{name}{BESIDE}"
    with files.open(name) as path, files.open(beside) if beside in files else nullcontext() as weights:
        return OnnxRuntimeEngine(contract, path, device, weights, str(files.folder / name))


class OnnxRuntimeEngine:
    recordable = False  # its CUDA provider works on a stream of its own

    def __init__(
        self,
        contract: StageContract,
        path: Path,
        device: torch.device,
        weights: Path | None = None,
        name: str | None = None,
    ) -> None:
        """weights: the file of those that one file could not hold; None = where the graph says, beside it. name: of the
        engine, in messages; None = its path.

        Raises EngineError for a graph that cannot be run or does not take and give what the contract says.
        """
        self.contract, self.device, name = contract, device, name or str(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        # Each stage has its own threads; spinning ones would starve the next stage and PyTorch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Prompts change shapes; a plan per shape would grow with every new one.
        options.enable_mem_pattern = False
        # Asked for CUDA, ONNX Runtime uses the CPU without a word where it must; afterwards it can be asked about it.
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        self._stream = _stream(device)
        if available().cpu and device.type == "cpu":  # else the graph runs its kernels' bodies of standard operators
            cpu.register_with_onnxruntime(options)
        if weights is not None:  # given to the library, so that it opens no file by itself
            content = np.memmap(weights, np.uint8, "r")
            options.add_external_initializers_from_files_in_memory(
                [Path(name).name + BESIDE], [content], [len(content)]
            )
        provider = _provider(device, self._stream)
        disabled = [_SLOW_FUSION] if device.type == "cpu" else [_SLOW_FUSION, _RENAMING]
        try:
            self._session = onnxruntime.InferenceSession(
                _graph(path, device, options), options, providers=[provider], disabled_optimizers=disabled
            )
        except _LOAD_ERRORS as error:
            raise EngineError(
                f"{name}: ONNX Runtime {onnxruntime.__version__} cannot load this stage ({error}). "
                "Export the checkpoint again with the installed versions."
            ) from error
        check_signature(contract, self._session, name)
        if device.type == "cuda":
            _check_placement(contract.name, self._session)
        self._options = onnxruntime.RunOptions()
        # The streams wait for each other below; the host waits for neither.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        self.contract.check(inputs, outputs)
        binding = self._session.io_binding()
        # ONNX Runtime reads and writes the tensors' own memory; nothing is copied.
        where = self.device.type, self.device.index or 0
        for name, tensor in inputs.items():
            binding.bind_input(name, *where, _numpy_type(tensor), tuple(tensor.shape), tensor.data_ptr())
        for name, tensor in outputs.items():
            binding.bind_output(name, *where, _numpy_type(tensor), tuple(tensor.shape), tensor.data_ptr())
        run = self._run if self._stream is None else partial(self._run_on, self._stream)
        return partial(run, binding, [*inputs.values(), *outputs.values()])

    def _run(self, binding: onnxruntime.IOBinding, _alive: list[torch.Tensor]) -> None:
        """_alive: the tensors whose memory the binding points to."""
        self._session.run_with_iobinding(binding, self._options)

    def _run_on(self, stream: torch.cuda.Stream, binding: onnxruntime.IOBinding, alive: list[torch.Tensor]) -> None:
        current = torch.cuda.current_stream(self.device)
        stream.wait_stream(current)
        self._run(binding, alive)
        current.wait_stream(stream)

    def close(self) -> None:
        del self._session


def _graph(path: Path, device: torch.device, options: onnxruntime.SessionOptions) -> str | bytes:
    """What a session is made of."""
    if device.type == "cpu":
        return str(path)
    from x2sam_rt.runtime.engines.onnxruntime_cuda import named_graph  # takes the ONNX library, which CPUs do without

    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return named_graph(path)


def _check_placement(stage: str, session: onnxruntime.InferenceSession) -> None:
    from x2sam_rt.runtime.engines.onnxruntime_cuda import check_placement

    check_placement(stage, session)


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """Of the engine's own: ONNX Runtime takes no default stream."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]


def _provider(device: torch.device, stream: torch.cuda.Stream | None) -> str | tuple[str, dict[str, str]]:
    """Raises EngineError where the installed ONNX Runtime has none for the device."""
    if stream is None:
        return _CPU_PROVIDER
    have = onnxruntime.get_available_providers()
    if _CUDA_PROVIDER not in have:
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} here has {', '.join(have)}; asked for {device}, which needs "
            f"{_CUDA_PROVIDER}. Install it with `pip install onnxruntime-gpu` in place of onnxruntime, or run on cpu."
        )
    return _CUDA_PROVIDER, {"device_id": str(device.index or 0), "user_compute_stream": str(stream.cuda_stream)}


def check_signature(contract: StageContract, session: onnxruntime.InferenceSession, name: str) -> None:
    """Raises EngineError unless a graph takes and gives the tensors of a contract: names, types, and sizes that are
    fixed on either side."""
    for wanted, found in ((contract.inputs, session.get_inputs()), (contract.outputs, session.get_outputs())):
        tensors = {tensor.name: (tensor.type, tuple(tensor.shape)) for tensor in found}
        for spec in wanted:
            kind, shape = tensors.pop(spec.name, ("nothing", ()))
            same = len(shape) == len(spec.shape) and all(
                isinstance(ours, str) or isinstance(theirs, str | None) or ours == theirs
                for ours, theirs in zip(spec.shape, shape, strict=True)
            )
            if not same or kind != f"tensor({_ONNX_TYPES[spec.dtype]})":
                raise EngineError(
                    f"{name}: tensor {spec.name} is {kind} {shown(shape)}, wanted {spec.dtype} {spec.shape}. "
                    "Export the checkpoint again."
                )
        if tensors:
            raise EngineError(f"{name}: unknown tensors {shown(sorted(tensors))}. Export the checkpoint again.")


def _numpy_type(tensor: torch.Tensor) -> type[np.generic]:
    return {torch.float32: np.float32, torch.int64: np.int64, torch.bool: np.bool_}[tensor.dtype]
