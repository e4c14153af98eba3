"""The TensorRT backend: engines built by the export, run on PyTorch's CUDA stream and in PyTorch's memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from weakref import WeakSet

import torch
from torch import Tensor, nn

from x2sam_rt.errors import EngineError
from x2sam_rt.model.stage_contract import StageContract, Tensors, multiple
from x2sam_rt.runtime.bundle import BundleFiles
from x2sam_rt.runtime.device import current_device
from x2sam_rt.runtime.engines.engine import BoundStage
from x2sam_rt.runtime.engines.tensorrt_build import EngineRecord, check_sizes
from x2sam_rt.runtime.engines.tensorrt_library import IS_RTX, LIBRARY, MESSAGES, VERSION, trt

_DEFAULT_STREAM = 0


def load(
    contract: StageContract, files: BundleFiles, name: str, module: nn.Module, device: torch.device
) -> TensorRTEngine:
    return TensorRTEngine(contract, files, name, device)


class TensorRTEngine:
    """One stage. What is bound has an execution context of its own, whose shapes and addresses are set once, so that
    sessions do not meet in one. Tensors on the GPU are read and written where they lie; those on the CPU go through
    buffers there, which costs a copy each way."""

    recordable = True

    def __init__(self, contract: StageContract, files: BundleFiles, name: str, device: torch.device) -> None:
        """Raises EngineError when the engine was built with another library or for other GPUs, or cannot be loaded."""
        self.contract, self.device = contract, device
        record = EngineRecord.of(files, name)
        check_machine(record, device)
        self._sizes = record.sizes
        with current_device(device):
            plan = deserialize(files.read(name), record, files.folder / name, device)
        self._engine: trt.ICudaEngine | None = plan
        # TensorRT for RTX compiles kernels on the GPU at their first use: once for all contexts.
        self._kernels = self._engine.create_runtime_config().create_runtime_cache() if IS_RTX else None
        self._scratch = _Scratch(device)
        self._bound: WeakSet[_BoundContext] = WeakSet()

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        """Raises EngineError also for sizes that the engine was not built for."""
        assert self._engine is not None, "bind after close"
        self.contract.check(inputs, outputs)
        check_sizes(self.contract.name, _varying_sizes(self.contract, inputs), self._sizes)
        with current_device(self.device):
            config = _runtime_config(self._engine, self._kernels, self.device)
            context = self._engine.create_execution_context(config)
        if context is None:
            raise EngineError(f"Stage {self.contract.name}: {LIBRARY} gives no execution context: {MESSAGES.errors}.")
        bound = _BoundContext(self.contract.name, context, self._scratch, inputs, outputs, self.device)
        self._bound.add(bound)
        return bound

    def close(self) -> None:
        """Closing twice is allowed."""
        for bound in self._bound:
            bound.release()
        self._scratch.release()
        self._engine = None
        torch.cuda.empty_cache()  # what was taken goes back to the driver, not only to PyTorch

    def layers(self) -> str:
        """What the library tells of the engine's layers and their precisions, as JSON."""
        assert self._engine is not None, "layers after close"
        return str(self._engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


class _Scratch:
    """Memory for intermediate tensors, one piece per CUDA stream: what runs there takes turns. It is PyTorch's, so that
    it is counted there, and grows to what the largest bound stage needs."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: dict[int, Tensor] = {}

    def take(self, stream: int, size: int) -> Tensor:
        memory = self._memory.get(stream)
        if memory is None or len(memory) < size:
            memory = self._memory[stream] = torch.empty(size, dtype=torch.uint8, device=self._device)
        return memory

    def release(self) -> None:
        self._memory.clear()


class _BoundContext:
    """An execution context and the tensors it reads and writes. After its first run on a stream it allocates nothing,
    so that a caller may capture a call into a CUDA graph; TensorRT for RTX captures its own, when what runs on a stream
    other than the default one was bound there."""

    def __init__(
        self,
        stage: str,
        context: trt.IExecutionContext,
        scratch: _Scratch,
        inputs: Tensors,
        outputs: Tensors,
        device: torch.device,
    ) -> None:
        self._stage, self._scratch, self._device = stage, scratch, device
        self._context: trt.IExecutionContext | None = context
        self._inputs = [(tensor, _placed(tensor, device)) for tensor in inputs.values()]
        self._outputs = [(tensor, _placed(tensor, device)) for tensor in outputs.values()]
        placed = dict(zip([*inputs, *outputs], [there for _, there in self._inputs + self._outputs], strict=True))
        for name in inputs:
            self._require(context.set_input_shape(name, tuple(placed[name].shape)), f"takes no shape for {name}")
        for name, tensor in placed.items():
            self._require(context.set_tensor_address(name, tensor.data_ptr()), f"takes no address for {name}")
        self._size = context.update_device_memory_size_for_shapes()

    def __call__(self) -> None:
        assert self._context is not None, "run after close"
        _copy((given, there) for given, there in self._inputs)
        stream = _current_stream(self._device)
        memory = self._scratch.take(stream, self._size)
        self._context.set_device_memory(memory.data_ptr(), len(memory))
        with current_device(self._device):
            self._require(self._context.execute_async_v3(stream), "cannot run")
        _copy((there, given) for given, there in self._outputs)

    def release(self) -> None:
        """Gives the context's memory back; it must not be called again."""
        self._context = None
        self._inputs, self._outputs = [], []

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise EngineError(f"Stage {self._stage}: {LIBRARY} {VERSION} {what}: {MESSAGES.errors}.")


def _runtime_config(
    engine: trt.ICudaEngine, kernels: trt.IRuntimeCache | None, device: torch.device
) -> trt.IRuntimeConfig:
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if kernels is not None:
        config.set_runtime_cache(kernels)
        if _current_stream(device) != _DEFAULT_STREAM:  # which CUDA lets nobody capture
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return config


def _varying_sizes(contract: StageContract, inputs: Tensors) -> dict[str, int]:
    """inputs: checked. Sizes of what varies, by name."""
    sizes = {}
    for spec in contract.inputs:
        for dim, size in zip(spec.shape, inputs[spec.name].shape, strict=True):
            if isinstance(dim, str):
                factor, name = multiple(dim)
                sizes[name] = size // factor
    return sizes


def _placed(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor itself when it is on the GPU, else a buffer there of its shape."""
    return tensor if _on_gpu(tensor) else torch.empty_like(tensor, device=device)


def _copy(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """From the first of each pair to the second, unless they are one."""
    for source, target in pairs:
        if source is not target:
            target.copy_(source)


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _current_stream(device: torch.device) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


def check_machine(record: EngineRecord, device: torch.device) -> None:
    """Raises EngineError, with the command that rebuilds, when an engine was built for another library, or for other
    GPUs than this device."""
    targets = ", ".join(record.targets)
    rebuild = "Export the checkpoint again with `x2sam-rt export CHECKPOINT --engine tensorrt --targets {}`"
    if (record.library, record.version) != (LIBRARY, VERSION):
        raise EngineError(
            f"The engines were built with {record.library} {record.version}, and load in no other; found {LIBRARY} "
            f"{VERSION}. Install that version, or: {rebuild.format(','.join(record.targets))}."
        )
    if not torch.cuda.is_available():
        raise EngineError(
            f"The engines were built for {targets}; found no NVIDIA GPU and driver here. Run the bundle on such a GPU, "
            "or export with --engine onnxruntime for this machine."
        )
    found = "sm{}{}".format(*torch.cuda.get_device_capability(device))
    if found not in record.targets:
        raise EngineError(
            f"The engines were built for {targets}; {device} is {torch.cuda.get_device_name(device)} ({found}). "
            f"{rebuild.format(found)}."
        )


def deserialize(plan: bytes, record: EngineRecord, path: Path, device: torch.device) -> trt.ICudaEngine:
    """Raises EngineError that says what was found and what the engine was built for; the library returns None."""
    MESSAGES.clear()
    engine = trt.Runtime(MESSAGES).deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(
            f"{path}: {LIBRARY} {VERSION} cannot load this engine ({MESSAGES.errors}). It was built for "
            f"{', '.join(record.targets)}; found {_machine(device)}. Update the driver, or export again for this GPU "
            "with `x2sam-rt export CHECKPOINT --engine tensorrt --targets this-gpu`."
        )
    return engine


def _machine(device: torch.device) -> str:
    if not torch.cuda.is_available():
        return "no NVIDIA GPU and driver"
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    return f"{name}, sm{capability[0]}{capability[1]}, CUDA {torch.version.cuda}"
