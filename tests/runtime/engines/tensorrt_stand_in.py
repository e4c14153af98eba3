"""TensorRT's runtime as far as an engine uses it, run by PyTorch on a CPU. It has no name the real bindings lack."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar

import tensorrt_rtx
import torch
from torch import Tensor

from x2sam_rt.model.stage_contract import StageContract

Stage = Callable[..., tuple[Tensor, ...]]


class StandIn:
    """`real`: the class of the bindings whose names are the only ones to be called or set."""

    real: ClassVar[type]

    def __init_subclass__(cls) -> None:
        invented = [name for name in vars(cls) if not name.startswith("_") and name != "real"]
        assert not set(invented) - set(dir(cls.real)), f"{cls.real.__name__} has none of {invented}"

    def __setattr__(self, name: str, value: object) -> None:
        assert name.startswith("_") or name in dir(self.real), f"{self.real.__name__} has no {name}"
        object.__setattr__(self, name, value)


@dataclass
class Device:
    """A GPU and what happened on it. refuses: engines. fails: a call. memory: what a context asks for, bytes."""

    contract: StageContract
    stage: Stage
    refuses: bool = False
    fails: str = ""
    memory: int = 640
    calls: list[str] = field(default_factory=list)
    contexts: list[Context] = field(default_factory=list)

    def bindings(self) -> SimpleNamespace:
        """In place of the module: the stand-ins, and the real enumerations."""
        return SimpleNamespace(
            Runtime=lambda log: Runtime(self),
            ExecutionContextAllocationStrategy=tensorrt_rtx.ExecutionContextAllocationStrategy,
            CudaGraphStrategy=tensorrt_rtx.CudaGraphStrategy,
            LayerInformationFormat=tensorrt_rtx.LayerInformationFormat,
        )


class Runtime(StandIn):
    real = tensorrt_rtx.Runtime

    def __init__(self, device: Device) -> None:
        self._device = device

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        self._device.calls.append(f"deserialize {len(plan)}")
        return None if self._device.refuses else Engine(self._device)


class Inspector(StandIn):
    real = tensorrt_rtx.EngineInspector

    def get_engine_information(self, layer_format: tensorrt_rtx.LayerInformationFormat) -> str:
        assert layer_format == tensorrt_rtx.LayerInformationFormat.JSON
        return '{"Layers": ["one"]}'


class Config(StandIn):
    real = tensorrt_rtx.IRuntimeConfig

    def __init__(self) -> None:
        self._kernels: object = None

    def create_runtime_cache(self) -> object:
        return object()

    def set_runtime_cache(self, kernels: object) -> None:
        self._kernels = kernels

    def set_execution_context_allocation_strategy(self, strategy: object) -> None:
        self._strategy = strategy


class Engine(StandIn):
    real = tensorrt_rtx.ICudaEngine

    def __init__(self, device: Device) -> None:
        self._device = device

    def create_runtime_config(self) -> Config:
        return Config()

    def create_execution_context(self, config: Config) -> Context | None:
        assert config._strategy == tensorrt_rtx.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._device.fails == "create_execution_context":
            return None
        graphs = getattr(config, "cuda_graph_strategy", None)
        self._device.contexts.append(Context(self._device, graphs, config._kernels))
        return self._device.contexts[-1]

    def create_engine_inspector(self) -> Inspector:
        return Inspector()


class Context(StandIn):
    real = tensorrt_rtx.IExecutionContext

    def __init__(self, device: Device, graphs: object, kernels: object) -> None:
        self._device, self._graphs, self._kernels = device, graphs, kernels
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = (0, 0)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = shape
        return self._device.fails != "set_input_shape"

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return self._device.fails != "set_tensor_address"

    def update_device_memory_size_for_shapes(self) -> int:
        assert self._shapes, "asked before the shapes are known"
        return self._device.memory

    def set_device_memory(self, address: int, size: int) -> None:
        self._memory = (address, size)

    def execute_async_v3(self, stream: int) -> bool:
        """Reads and writes what lies at the addresses it was given, as a GPU would."""
        self._device.calls.append(f"execute on {stream}")
        assert self._memory[1] >= self._device.memory
        assert self._memory[0] or not self._device.memory
        if self._device.fails == "execute_async_v3":
            return False
        spec = self._device.contract
        dtypes = {tensor.name: getattr(torch, tensor.dtype) for tensor in (*spec.inputs, *spec.outputs)}
        inputs = [self._tensor(t.name, self._shapes[t.name], dtypes[t.name]) for t in spec.inputs]
        for tensor, value in zip(spec.outputs, self._device.stage(*inputs), strict=True):
            self._tensor(tensor.name, tuple(value.shape), dtypes[tensor.name]).copy_(value)
        return True

    def _tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        count = math.prod(shape) * dtype.itemsize
        memory = (ctypes.c_byte * count).from_address(self._addresses[name])
        return torch.frombuffer(memory, dtype=dtype).view(shape)
