"""A GPU that is not there: tensors say they are on `cuda:0` and compute on the CPU, so that the whole runtime can run
as on a GPU and its numbers compared.

What a real one would refuse is refused: tensors of two devices in one operation, an address asked for on the host.
What costs time there is counted: reading a value on the host, and every copy between the two.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from simulated_streams import STAND_INS, Device, Stream, address, tree_map
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

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
    the last `take`. made: tensors that took memory of the GPU, outside graphs, since then. device: its streams and
    graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.made = 0
        self.device = Device.active = Device()
        self._pinned: set[int] = set()

    @contextlib.contextmanager
    def on_this_thread(self) -> Iterator[None]:
        """The same GPU for a thread that is not the one that entered `simulated_gpu`."""
        with _Placing(self), self:
            yield

    def take(self) -> Counter[str]:
        taken, self.counts, self.made = self.counts, Counter(), 0
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
        if wanted is not None:
            kwargs["device"] = _held_device(torch.device(wanted))
            there = torch.device(wanted).type == "cuda"
        pinned = kwargs.pop("pin_memory", False)
        result = self._run(func, args, kwargs, there)
        if pinned:
            self._pinned.add(result.data_ptr())
        if func._schema.is_mutable:
            return _same_objects(args, kwargs, result)
        return tree_map(_wrapped, result) if there else result

    def _run(self, func: Any, args: Any, kwargs: Any, there: bool) -> Any:
        """Computes with what is held; on the GPU in the current stream, or into the graph that is being captured."""
        held = tree_map(_held, (args, kwargs))
        given = [value.held for value in _tensors((args, kwargs)) if isinstance(value, GpuTensor)]
        written = _written(func, args, kwargs)
        capture = self.device.capture
        if capture is not None:
            capture.before(given, written)
        result = func(*held[0], **held[1])
        made = [] if not there or func._schema.is_mutable or _is_view(func) else _new(result, given)
        if capture is not None:
            capture.after(func, *held, result, made)
            return result
        self.made += len(made)
        for tensor in made:
            self.device.order.fresh(address(tensor))
        if (there or given) and not _is_view(func):
            reads, writes = ({address(tensor) for tensor in some} for some in (given, [*written, *made]))
            self.device.order.launch(self.device.current.cuda_stream, reads - writes, writes, str(func))
        return result

    def _count(self, func: Any, args: Any, kwargs: Any, there: bool) -> None:
        if there and func in _WAITS:
            self._host_waits(_WAITS[func])
            self.counts[_WAITS[func]] += 1
        if func is _ATEN._to_copy.default and kwargs.get("device") is not None:
            self._count_copy(args[0], torch.device(kwargs["device"]))
        if func is _ATEN.copy_.default:
            self._count_copy(args[1], args[0].device)

    def _count_copy(self, source: Tensor, target: torch.device) -> None:
        if {source.device.type, target.type} == {"cpu", "cuda"}:
            self._host_waits("copy")
            self.counts["up" if target.type == "cuda" else "down"] += 1
            self.counts["pinned up"] += target.type == "cuda" and source.data_ptr() in self._pinned
            self.counts = +self.counts

    def _host_waits(self, what: str) -> None:
        if self.device.capture is not None:
            raise RuntimeError(f"{what}: not permitted while a graph is captured")
        if what != "copy":
            self.device.order.host_waits(self.device.current.cuda_stream)


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """What an operation writes to, of tensors on the GPU."""
    names = func._schema.arguments
    values = [*zip(names, args, strict=False), *((name, kwargs[name.name]) for name in names if name.name in kwargs)]
    changed = [value for name, value in values if name.alias_info is not None and name.alias_info.is_write]
    return [value.held for value in _tensors(changed) if isinstance(value, GpuTensor)]


def _is_view(func: Any) -> bool:
    return any(result.alias_info is not None for result in func._schema.returns) and not func._schema.is_mutable


def _new(result: Any, given: list[Tensor]) -> list[Tensor]:
    """Tensors of a result with memory of their own."""
    old = {address(tensor) for tensor in given}
    return [value for value in _tensors(result) if isinstance(value, Tensor) and address(value) not in old]


def _tensors(values: Any) -> list[Any]:
    """Everything in nested lists, tuples and dictionaries."""
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, list | tuple):
        return [values]
    return [leaf for value in values for leaf in _tensors(value)]


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
            self._gpu._host_waits("tolist")
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


def _record_stream(tensor: GpuTensor, stream: Stream) -> None:
    Device.active.recorded.add((address(tensor.held), stream.cuda_stream))


def _enter_without_gradients(mode: Any) -> None:
    """In inference mode a view of a tensor made outside cannot be wrapped."""
    mode._inference_mode_context = torch.no_grad()
    mode._inference_mode_context.__enter__()


@contextlib.contextmanager
def simulated_gpu() -> Iterator[SimulatedGpu]:
    """Within it there is one GPU, cuda:0. Tensors made on it must not be used after."""
    stand_ins: dict[str, Callable[..., Any]] = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda._exchange_device": lambda device: 0,
        "torch.cuda._maybe_exchange_device": lambda device: 0,
        "torch.Tensor.record_stream": _record_stream,
        "torch.inference_mode.__enter__": _enter_without_gradients,
        **STAND_INS,
        "torch.cuda.empty_cache": lambda: None,
    }
    with contextlib.ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch(name, stand_in))
        # what a build without CUDA lacks
        stack.enter_context(mock.patch("torch._C._host_emptyCache", create=True))
        gpu = SimulatedGpu()
        stack.enter_context(_Placing(gpu))
        yield stack.enter_context(gpu)
