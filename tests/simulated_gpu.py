"""A GPU that is not there: tensors say they are on `cuda:0` and compute on the CPU, so that the whole runtime can run
as on a GPU and its numbers compared.

What a real one would refuse is refused: tensors of two devices in one operation, an address asked for on the host.
What costs time there is counted: reading a value on the host, and every copy between the two. Streams exist by name:
what was started on each is told, nothing more.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

GPU, HOST = torch.device("cuda:0"), torch.device("cpu")
_ATEN = torch.ops.aten
# Operations that PyTorch lets read or write across devices.
_ACROSS = {_ATEN.copy_.default, _ATEN._to_copy.default, _ATEN._copy_from.default}
# Index tensors may lie on the host.
_INDEXED = {
    _ATEN.index.Tensor,
    _ATEN.index_put.default,
    _ATEN.index_put_.default,
    _ATEN._index_put_impl_.default,
    _ATEN._unsafe_index.Tensor,
}
# The host waits for the value or for the shape of the result.
_WAITS = {
    _ATEN._local_scalar_dense.default: "item",
    _ATEN.nonzero.default: "nonzero",
    _ATEN.masked_select.default: "masked_select",
    _ATEN.equal.default: "equal",
    _ATEN.bincount.default: "bincount",
    _ATEN.repeat_interleave.Tensor: "repeat_interleave",
    _ATEN._unique2.default: "unique",
}


class GpuTensor(Tensor):
    """A tensor on the simulated GPU. held: the same on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> GpuTensor:
        wrapper: GpuTensor = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device="meta",  # what PyTorch's C++ is told: it has no guard for CUDA where it was built without
            requires_grad=held.requires_grad,
        )
        wrapper.held = held
        return wrapper

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"GpuTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside the simulated GPU")


class SimulatedGpu(TorchDispatchMode):
    """counts: what the host waited for ("item", "nonzero", …) and copies ("up", of them "pinned up", and "down"), since
    the last `take`. order: names of streams that something was started on, and how they waited, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.order: list[str] = []
        self.stream = SimulatedStream(self, "default")
        self._pinned: set[int] = set()

    def take(self) -> Counter[str]:
        taken, self.counts = self.counts, Counter()
        return taken

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is _ATEN._fused_sdp_choice.default:
            return 0  # the plain one: what CUDA would choose cannot run here
        given = [value for value in _tensors((args, kwargs)) if isinstance(value, Tensor)]
        wanted = kwargs.get("device")
        if wanted is not None and wanted.type == "meta" and (func is not _ATEN._to_copy.default):
            wanted = GPU  # PyTorch's own code makes a tensor beside one that it takes for such
        there = any(isinstance(value, GpuTensor) for value in given)
        _check_devices(func, args, given)
        self._count(func, args, kwargs, there)
        if there:
            self.note(self.stream.name)
        if wanted is not None:
            kwargs["device"] = _held_device(torch.device(wanted))
            there = torch.device(wanted).type == "cuda"
        pinned = kwargs.pop("pin_memory", False)
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if pinned:
            self._pinned.add(result.data_ptr())
        if func._schema.is_mutable:
            return _same_objects(args, kwargs, result)
        return tree_map(_wrapped, result) if there else result

    def note(self, what: str) -> None:
        if self.order[-1:] != [what]:
            self.order.append(what)

    @contextlib.contextmanager
    def on(self, stream: SimulatedStream) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    def _count(self, func: Any, args: Any, kwargs: Any, there: bool) -> None:
        if there and func in _WAITS:
            self.counts[_WAITS[func]] += 1
        if func is _ATEN._to_copy.default and kwargs.get("device") is not None:
            self._count_copy(args[0], torch.device(kwargs["device"]))
        if func is _ATEN.copy_.default:
            self._count_copy(args[1], args[0].device)

    def _count_copy(self, source: Tensor, target: torch.device) -> None:
        if {source.device.type, target.type} == {"cpu", "cuda"}:
            self.counts["up" if target.type == "cuda" else "down"] += 1
            self.counts["pinned up"] += target.type == "cuda" and source.data_ptr() in self._pinned
            self.counts = +self.counts


def _tensors(values: Any) -> list[Any]:
    found: list[Any] = []
    tree_map(found.append, values)
    return found


def _held(value: Any) -> Any:
    return value.held if isinstance(value, GpuTensor) else value


def _wrapped(value: Any) -> Any:
    return GpuTensor(value) if isinstance(value, Tensor) and not isinstance(value, GpuTensor) else value


def _held_device(device: torch.device) -> torch.device:
    return HOST if device.type == "cuda" else device


def _same_objects(args: Any, kwargs: Any, result: Any) -> Any:
    """What an operation in place returns is what it was given."""
    by_held = {id(value.held): value for value in _tensors((args, kwargs)) if isinstance(value, GpuTensor)}
    return tree_map(lambda value: by_held.get(id(value), value), result)


def _check_devices(func: Any, args: Any, given: list[Tensor]) -> None:
    if func in _ACROSS:
        return
    checked = [value for value in _tensors(args[:1]) if isinstance(value, Tensor)] if func in _INDEXED else given
    if func in (_ATEN.index_put.default, _ATEN.index_put_.default, _ATEN._index_put_impl_.default):
        checked += [args[2]]
    kinds = {value.device.type for value in checked if value.dim() or isinstance(value, GpuTensor)}
    if len(kinds) > 1:
        shapes = [(str(value.device), tuple(value.shape)) for value in checked]
        raise RuntimeError(f"{func}: tensors on two devices, {shapes}")
    if func in _INDEXED and kinds == {"cpu"} and any(isinstance(value, GpuTensor) for value in given):
        raise RuntimeError(f"{func}: an index on the GPU for a tensor on the host")


class _Placing(TorchFunctionMode):
    """What PyTorch's C++ would not let through: `Tensor.to` as the operation it becomes, `tolist` as a copy."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.to:
            return self._place(args, kwargs)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = _indexed(torch.device(kwargs.pop("device")))
            return self._place((func(*args, **kwargs), device), {})
        if func is Tensor.tolist and isinstance(args[0], GpuTensor):
            self._gpu.counts["down"] += 1
            return args[0].held.tolist()
        if func in (Tensor.numpy, Tensor.data_ptr) and isinstance(args[0], GpuTensor):
            raise TypeError(f"{func.__name__} of a tensor on {GPU}")
        return func(*args, **kwargs)

    @staticmethod
    def _place(args: Any, kwargs: Any) -> Tensor:
        tensor, other = args[0], args[1] if len(args) > 1 else kwargs.get("other")
        if isinstance(other, Tensor):
            device, dtype = other.device, other.dtype
        else:
            device, dtype, *_ = torch._C._nn._parse_to(*args[1:], **{k: v for k, v in kwargs.items() if k != "copy"})
        device = _indexed(device or tensor.device)
        if device == tensor.device and dtype in (None, tensor.dtype) and not kwargs.get("copy"):
            return tensor
        return _ATEN._to_copy.default(tensor, dtype=dtype, device=device)


def _indexed(device: torch.device) -> torch.device:
    return GPU if device.type == "cuda" else device


class SimulatedStream:
    """Everything on it is done at once."""

    def __init__(self, gpu: SimulatedGpu, name: str = "side") -> None:
        self.gpu, self.name = gpu, name

    def wait_stream(self, other: SimulatedStream) -> None:
        self.gpu.note(f"{self.name} after {other.name}")

    def synchronize(self) -> None:
        self.gpu.note(f"host after {self.name}")


class _Event:
    """A CUDA event whose work is always done."""

    def record(self, stream: object = None) -> None: ...

    def synchronize(self) -> None: ...

    def wait(self, stream: object = None) -> None: ...


def _call_instead(_recorder: object, prepare: Callable[[], None], finish: Callable[[], None]) -> Callable[[], None]:
    """In place of a CUDA graph: the same work in the same order, warm-up and all."""
    prepare()

    def replay() -> None:
        prepare()
        finish()

    return replay


def _enter_without_gradients(mode: Any) -> None:
    """In inference mode a view of a tensor made outside cannot be wrapped."""
    mode._inference_mode_context = torch.no_grad()
    mode._inference_mode_context.__enter__()


@contextlib.contextmanager
def simulated_gpu() -> Iterator[SimulatedGpu]:
    """Within it there is one GPU, cuda:0. Tensors made on it must not be used after."""
    gpu = SimulatedGpu()
    stand_ins: dict[str, Callable[..., Any]] = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.Event": _Event,
        "torch.cuda.current_stream": lambda device=None: gpu.stream,
        "torch.cuda.Stream": lambda device=None: SimulatedStream(gpu),
        "torch.cuda.stream": gpu.on,
        "torch.inference_mode.__enter__": _enter_without_gradients,
        "torch.cuda.graph_pool_handle": lambda: (0, 1),
        "x2sam_rt.runtime.frame_graph.CudaRecorder.__call__": _call_instead,
        "torch.cuda.empty_cache": lambda: None,
    }
    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch(name, stand_in))
        stack.enter_context(_Placing(gpu))
        yield stack.enter_context(gpu)
