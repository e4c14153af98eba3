"""The TensorRT backend: engines built by the export, run on PyTorch's CUDA stream and in PyTorch's memory."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import torch
from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.runtime.bundle import StageSpec
from x2sam_rt.runtime.engines.engine import Tensors, check_tensors
from x2sam_rt.runtime.engines.tensorrt_build import TensorRTBuild, check_sizes
from x2sam_rt.runtime.engines.tensorrt_library import IS_RTX, LIBRARY, MESSAGES, VERSION, trt


class TensorRTEngine:
    """One stage. Tensors on the GPU are read and written where they lie; those on the CPU go through buffers of the
    engine's, which costs a copy each way.

    Every CUDA stream that runs the engine gets an execution context of its own: sessions on streams of their own do
    not meet, and those on one stream take turns there. After one run with the same shapes a run allocates nothing, so
    that a caller may capture it into a CUDA graph; TensorRT for RTX captures its own, except on the default stream,
    which CUDA does not let capture.
    """

    def __init__(self, spec: StageSpec, path: Path, build: TensorRTBuild) -> None:
        """Raises EngineError when the engine was built with another library or for other GPUs, or cannot be loaded."""
        self.spec = spec
        check_machine(build)
        self._sizes = build.sizes
        self._engine: trt.ICudaEngine | None = deserialize(path, build)
        self._contexts: dict[int, _Context] = {}
        self._lock = Lock()

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        """Raises EngineError when a tensor does not fit the contract or the sizes the engine was built for."""
        sizes = check_tensors(self.spec, inputs, outputs)
        check_sizes(self.spec.name, sizes, self._sizes)
        with self._lock:
            self._context(_current_stream()).run(inputs, outputs)

    def close(self) -> None:
        """Closing twice is allowed."""
        self._contexts.clear()
        self._engine = None
        torch.cuda.empty_cache()  # what contexts held goes back to the driver, not only to PyTorch

    def layers(self) -> str:
        """What the library tells of the engine's layers and their precisions, as JSON."""
        assert self._engine is not None, "layers after close"
        return str(self._engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))

    def _context(self, stream: int) -> _Context:
        assert self._engine is not None, "run after close"
        if stream not in self._contexts:
            self._contexts[stream] = _Context(self._engine, self.spec, stream)
        return self._contexts[stream]


class _Context:
    """An execution context with its memory, for the work of one CUDA stream. Its memory is PyTorch's: it is counted
    there, and given back with the object."""

    def __init__(self, engine: trt.ICudaEngine, spec: StageSpec, stream: int) -> None:
        self._spec, self._stream = spec, stream
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if IS_RTX and stream != _DEFAULT_STREAM:
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        context = engine.create_execution_context(config)
        if context is None:
            raise EngineError(f"Stage {spec.name}: {LIBRARY} gives no execution context: {MESSAGES.errors}.")
        self._context: trt.IExecutionContext = context
        self._memory = _bytes(0)
        self._staged: dict[str, Tensor] = {}

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        placed_inputs = {name: self._placed(name, tensor, filled=True) for name, tensor in inputs.items()}
        placed_outputs = {name: self._placed(name, tensor, filled=False) for name, tensor in outputs.items()}
        for name, tensor in placed_inputs.items():
            self._require(self._context.set_input_shape(name, tuple(tensor.shape)), f"takes no shape for {name}")
        self._take_memory()
        for name, tensor in (placed_inputs | placed_outputs).items():
            self._require(self._context.set_tensor_address(name, tensor.data_ptr()), f"takes no address for {name}")
        self._require(self._context.execute_async_v3(self._stream), "cannot run")
        for name, tensor in outputs.items():
            if placed_outputs[name] is not tensor:
                tensor.copy_(placed_outputs[name])

    def _placed(self, name: str, tensor: Tensor, *, filled: bool) -> Tensor:
        """The tensor itself when it is on the GPU, else a buffer there of its shape. filled: with its values."""
        if _on_gpu(tensor):
            return tensor
        buffer = self._staged.get(name)
        if buffer is None or buffer.shape != tensor.shape:
            buffer = self._staged[name] = torch.empty_like(tensor, device=_DEVICE)
        return buffer.copy_(tensor) if filled else buffer

    def _take_memory(self) -> None:
        """Memory for the present shapes; less than for the largest, and kept for smaller ones."""
        wanted = self._context.update_device_memory_size_for_shapes()
        if wanted > len(self._memory):
            self._memory = _bytes(wanted)
        self._context.set_device_memory(self._memory.data_ptr(), len(self._memory))

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise EngineError(f"Stage {self._spec.name}: {LIBRARY} {VERSION} {what}: {MESSAGES.errors}.")


_DEVICE = torch.device("cuda")
_DEFAULT_STREAM = 0


def _current_stream() -> int:
    return int(torch.cuda.current_stream().cuda_stream)


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _bytes(count: int) -> Tensor:
    return torch.empty(count, dtype=torch.uint8, device=_DEVICE)


def check_machine(build: TensorRTBuild) -> None:
    """Raises EngineError, with the command that rebuilds, when engines were built for another library or GPU."""
    rebuild = "Export the checkpoint again with `x2sam-rt export CHECKPOINT --engine tensorrt --targets {}`"
    if (build.library, build.version) != (LIBRARY, VERSION):
        raise EngineError(
            f"The engines were built with {build.library} {build.version}, and load in no other; found {LIBRARY} "
            f"{VERSION}. Install that version, or: {rebuild.format(','.join(build.targets))}."
        )
    if not torch.cuda.is_available():
        raise EngineError(
            f"The engines were built for {', '.join(build.targets)}; found no NVIDIA GPU and driver here. Run the "
            "bundle on such a GPU, or export with --engine onnxruntime for this machine."
        )
    found = "sm{}{}".format(*torch.cuda.get_device_capability())
    if found not in build.targets:
        raise EngineError(
            f"The engines were built for {', '.join(build.targets)}; found {torch.cuda.get_device_name()} ({found}). "
            f"{rebuild.format(found)}."
        )


def deserialize(path: Path, build: TensorRTBuild) -> trt.ICudaEngine:
    """Raises EngineError that says what was found and what the engine was built for; the library returns None."""
    MESSAGES.clear()
    engine = trt.Runtime(MESSAGES).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise EngineError(
            f"{path}: {LIBRARY} {VERSION} cannot load this engine ({MESSAGES.errors}). It was built for "
            f"{', '.join(build.targets)}; found {_machine()}. Update the driver, or export again for this GPU with "
            "`x2sam-rt export CHECKPOINT --engine tensorrt --targets this-gpu`."
        )
    return engine


def _machine() -> str:
    if not torch.cuda.is_available():
        return "no NVIDIA GPU and driver"
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    return f"{name}, sm{capability[0]}{capability[1]}, CUDA {torch.version.cuda}"
