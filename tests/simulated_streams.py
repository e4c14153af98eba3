"""Streams, events and graphs of the simulated GPU (`simulated_gpu.py`).

Work runs at once, in the order the host starts it. What a GPU would be free to reorder is checked instead: two pieces
of work on one memory, one of them writing, must be ordered by events. A graph keeps the operations that were captured,
with the numbers and addresses they were captured with, and does them again on the same memory; nothing happens while it
is captured, and what cannot be captured is refused.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

GPU = torch.device("cuda:0")
Seen = dict[int, int]  # the last piece of work of each stream that is known to be done


class Order:
    """Who waits for whom, as vector clocks."""

    def __init__(self) -> None:
        self._count = 0
        self._seen: dict[int, Seen] = defaultdict(dict)
        self._host: Seen = {}
        self._written: dict[int, tuple[int, int]] = {}
        self._read: dict[int, Seen] = defaultdict(dict)

    def launch(self, stream: int, reads: Iterable[int], writes: Iterable[int], what: str) -> None:
        """reads, writes: memory, by address. Raises RuntimeError for work that is not ordered after what it must
        follow."""
        self._count += 1
        seen = self._seen[stream]
        _merge(seen, self._host)
        seen[stream] = self._count
        for address in reads:
            self._require(seen, dict([self._written[address]]) if address in self._written else {}, what)
            self._read[address][stream] = self._count
        for address in writes:
            before = dict([self._written[address]]) if address in self._written else {}
            self._require(seen, {**before, **self._read[address]}, what)
            self._written[address], self._read[address] = (stream, self._count), {}

    def fresh(self, address: int) -> None:
        """What was there before is gone: PyTorch gives memory to another stream only when that is safe."""
        self._written.pop(address, None)
        self._read.pop(address, None)

    def seen_by(self, stream: int) -> Seen:
        return self._seen[stream]

    def host_waits(self, stream: int | None = None) -> None:
        """For one stream; None = for all."""
        for one in [stream] if stream is not None else list(self._seen):
            _merge(self._host, self._seen[one])

    @staticmethod
    def _require(seen: Seen, wanted: Seen, what: str) -> None:
        if any(count > seen.get(stream, 0) for stream, count in wanted.items()):
            raise RuntimeError(f"{what} does not wait for work on the same memory on another stream")


def _merge(seen: Seen, other: Seen) -> None:
    for stream, count in other.items():
        seen[stream] = max(seen.get(stream, 0), count)


@dataclass
class Capture:
    """operations: function, arguments, result. made: memory that the graph itself takes. kept: what else is written, as
    it was before. reads: what else is read."""

    operations: list[tuple[Any, Any, Any, Any]] = field(default_factory=list)
    made: set[int] = field(default_factory=set)
    kept: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    reads: set[int] = field(default_factory=set)

    def before(self, read: list[Tensor], written: list[Tensor]) -> None:
        self.reads |= {address(tensor) for tensor in read} - self.made
        for tensor in written:
            if address(tensor) not in self.made | self.kept.keys():
                storage = tensor.untyped_storage()
                self.kept[address(tensor)] = storage, storage.clone()

    def after(self, func: Any, args: Any, kwargs: Any, result: Any, made: list[Tensor]) -> None:
        self.made |= {address(tensor) for tensor in made}
        self.operations.append((func, args, kwargs, result))

    def undo(self) -> None:
        for storage, before in self.kept.values():
            storage.copy_(before)


def tree_map(function: Callable[[Any], Any], value: Any) -> Any:
    """As PyTorch's, for lists, tuples and dictionaries: a fraction of its time, which was most of the simulation's."""
    if isinstance(value, dict):
        return {key: tree_map(function, one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([tree_map(function, one) for one in value])
    return function(value)


def address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Device:
    """What the stand-ins share. active: of the simulated GPU that is in force. graphs: captured so far. replayed: the
    streams of all replays, in order. recorded: memory and the streams that it was said to be used on."""

    active: Device

    def __init__(self) -> None:
        self.order, self.capture = Order(), None
        self.default = Stream()
        self._currents = threading.local()
        self.recorded: set[tuple[int, int]] = set()
        self.graphs: list[CUDAGraph] = []
        self.replayed: list[tuple[int, int]] = []

    capture: Capture | None

    @property
    def current(self) -> Stream:
        """Of the calling thread."""
        stream: Stream = getattr(self._currents, "stream", self.default)
        return stream

    @current.setter
    def current(self, stream: Stream) -> None:
        self._currents.stream = stream


class Stream:
    device = GPU
    _number = 0

    def __init__(self, device: Any = None, priority: Any = 0) -> None:
        Stream._number += 1
        self.cuda_stream = Stream._number

    def wait_stream(self, stream: Stream) -> None:
        order = Device.active.order
        _merge(order.seen_by(self.cuda_stream), order.seen_by(stream.cuda_stream))

    def wait_event(self, event: Event) -> None:
        event.wait(self)

    def synchronize(self) -> None:
        Device.active.order.host_waits(self.cuda_stream)


class Event:
    def __init__(self, enable_timing: Any = False, blocking: Any = False) -> None:
        self._seen: Seen = {}

    def record(self, stream: Any = None) -> None:
        self._seen = dict(Device.active.order.seen_by((stream or Device.active.current).cuda_stream))

    def wait(self, stream: Any = None) -> None:
        _merge(Device.active.order.seen_by((stream or Device.active.current).cuda_stream), self._seen)

    def synchronize(self) -> None:
        """What the host does next may overwrite what was read up to here."""


class CUDAGraph:
    def __init__(self, keep_graph: bool = False) -> None:
        self._captured: Capture | None = None
        self.replays = 0
        self.number = len(Device.active.graphs)
        Device.active.graphs.append(self)

    def capture_begin(
        self, pool: Any = None, capture_error_mode: str = "global", check_input_liveness: bool = False
    ) -> None:
        device = Device.active
        if device.current is device.default:
            raise RuntimeError("CUDA graphs must be captured on a stream other than the default one")
        if device.capture is not None:
            raise RuntimeError("another capture is underway")
        self._captured = device.capture = Capture()

    def capture_end(self) -> None:
        assert self._captured is not None, "capture_begin first"
        Device.active.capture = None
        self._captured.undo()

    def replay(self) -> None:
        device, captured = Device.active, self._captured
        assert captured is not None, "capture first"
        self.replays += 1
        stream = device.current.cuda_stream
        device.replayed.append((self.number, stream))
        device.order.launch(stream, captured.reads, captured.kept, f"graph {self.number}")
        for func, args, kwargs, result in captured.operations:
            again = func(*args, **kwargs)
            if not func._schema.is_mutable:
                _copy(result, again)


def _copy(kept: Any, again: Any) -> None:
    if isinstance(kept, list | tuple):
        for one, other in zip(kept, again, strict=True):
            _copy(one, other)
    elif isinstance(kept, Tensor) and address(kept) != address(again):
        kept.copy_(again)


def current_stream(device: Any = None) -> Stream:
    return Device.active.current


def set_stream(stream: Any) -> None:
    Device.active.current = stream


def synchronize(device: Any = None) -> None:
    Device.active.order.host_waits()


def graph_pool_handle() -> tuple[int, int]:
    return 0, 1


def current_device() -> int:
    return 0


# In place of what PyTorch has under these names; a test compares their signatures.
STAND_INS: dict[str, Any] = {
    "torch.cuda.Stream": Stream,
    "torch.cuda.Event": Event,
    "torch.cuda.CUDAGraph": CUDAGraph,
    "torch.cuda.current_stream": current_stream,
    "torch.cuda.set_stream": set_stream,
    "torch.cuda.synchronize": synchronize,
    "torch.cuda.graph_pool_handle": graph_pool_handle,
    "torch.cuda.current_device": current_device,
}
