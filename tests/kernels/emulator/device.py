"""A device that runs kernels a block at a time, on the host's own memory."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from itertools import product

import numpy as np

from emulator.arithmetic import Lanes
from emulator.cluster import Cluster, Launch, Triple
from emulator.ptx import Kernel
from emulator.steps import Code
from emulator.warp import Hazard

SWIZZLES = {0: 0, 1: 1, 2: 3, 3: 7}  # address bits exchanged, by CUtensorMapSwizzle


class HostMemory:
    """Global memory is the process's own. Addresses are checked against what it has mapped."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int]] = []

    def refresh(self) -> None:
        with open("/proc/self/maps") as maps:
            ranges = [line.split()[0].split("-") for line in maps if " rw" in line]
        self.spans = []
        for start, end in ((int(start, 16), int(end, 16)) for start, end in ranges):
            if self.spans and self.spans[-1][1] == start:
                start, _ = self.spans.pop()
            self.spans.append((start, end))

    def window(self, low: int, high: int) -> tuple[Lanes, int]:
        """Bytes low…high, and the address of the first."""
        if not any(start <= low and high <= end for start, end in self.spans):
            raise Hazard(f"global memory {low:#x}…{high:#x} is not there")
        return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low)), low


@dataclass(frozen=True)
class TensorMap:
    """What cuTensorMapEncodeTiled was told. Sizes and boxes in elements, innermost first; strides in bytes."""

    address: int
    element_bytes: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    boxes: tuple[int, ...]
    swizzle: int

    def box(self, place: list[int], target: int) -> Lanes:
        """The bytes that a copy of the box at `place` writes to `target`…; outside of the tensor they are zero."""
        if len(place) != len(self.sizes):
            raise Hazard(f"a copy with {len(place)} coordinates from a tensor of {len(self.sizes)} dimensions")
        out = np.zeros((*self.boxes[::-1], self.element_bytes), np.uint8)
        inside = self._inside(place)
        if inside is not None:
            out[inside] = self._memory(place, inside)
        return self._swizzled(out.reshape(-1), target)

    def write(self, place: list[int], source: int, data: Lanes) -> None:
        """The way back: what of the box at `place` lies inside the tensor is written, and nothing else."""
        inside = self._inside(place)
        if inside is not None:
            box = self._plain(data, source).reshape(*self.boxes[::-1], self.element_bytes)
            self._memory(place, inside)[...] = box[inside]

    @property
    def bytes(self) -> int:
        return int(np.prod(self.boxes)) * self.element_bytes

    def _inside(self, place: list[int]) -> tuple[slice, ...] | None:
        """The part of a box that lies inside the tensor, outermost axis first."""
        first = [max(0, -at) for at in place]
        last = [min(box, size - at) for box, size, at in zip(self.boxes, self.sizes, place, strict=True)]
        if any(begin >= end for begin, end in zip(first, last, strict=True)):
            return None
        return tuple(slice(begin, end) for begin, end in zip(first[::-1], last[::-1], strict=True))

    def _memory(self, place: list[int], inside: tuple[slice, ...]) -> Lanes:
        """Global memory under that part of the box at `place`, with the bytes of an element as last axis."""
        strides = (self.element_bytes, *self.strides)
        firsts = [at + part.start for at, part in zip(place, inside[::-1], strict=True)]
        start = self.address + sum(at * stride for at, stride in zip(firsts, strides, strict=True))
        shape = (*(part.stop - part.start for part in inside), self.element_bytes)
        extent = sum((count - 1) * stride for count, stride in zip(shape[:-1], strides[::-1], strict=True))
        flat = np.ctypeslib.as_array((ctypes.c_uint8 * (extent + self.element_bytes)).from_address(start))
        return np.lib.stride_tricks.as_strided(flat, shape, (*strides[::-1], 1))

    def _swizzled(self, data: Lanes, target: int) -> Lanes:
        out = np.empty_like(data).reshape(-1, 16)
        out[self._pieces(len(data), target)] = data.reshape(-1, 16)
        return out.reshape(-1)

    def _plain(self, data: Lanes, source: int) -> Lanes:
        return data.reshape(-1, 16)[self._pieces(len(data), source)].reshape(-1)

    def _pieces(self, size: int, start: int) -> Lanes:
        """Where in shared memory from `start` on each 16 bytes of a box lie, in 16 bytes."""
        address = start + np.arange(0, size, 16)
        return ((address ^ ((address >> 7 & SWIZZLES[self.swizzle]) << 4)) - start) // 16


class Device:
    """seed: of the order in which things happen. shared_base: where a block's shared memory begins."""

    def __init__(self, kernels: dict[str, Kernel]) -> None:
        self.kernels = kernels
        self.codes: dict[str, Code] = {}
        self.memory = HostMemory()
        self.maps: list[TensorMap] = []
        self.seed, self.shared_base = 0, 1024

    def launch(self, name: str, grid: Triple, threads: int, shared_bytes: int, arguments: list[bytes]) -> None:
        """Raises Hazard. arguments: the bytes of each."""
        code = self.codes.get(name) or self.codes.setdefault(name, Code(self.kernels[name]))
        places = list(code.kernel.parameters.values())
        buffer = np.zeros(sum(code.kernel.parameter_sizes) + 512, np.uint8)
        start = -buffer.ctypes.data % 128
        for place, argument in zip(places, arguments, strict=True):
            buffer[start + place : start + place + len(argument)] = np.frombuffer(argument, np.uint8)
        self.memory.refresh()
        with np.errstate(all="ignore"):
            launch = Launch(code, self, grid, threads, shared_bytes, buffer.ctypes.data + start)
            if grid[0] % code.kernel.cluster:
                raise Hazard(f"a grid of {grid} blocks, in clusters of {code.kernel.cluster}")
            for z, y, x in product(range(grid[2]), range(grid[1]), range(0, grid[0], code.kernel.cluster)):
                Cluster(launch, (x, y, z)).run()

    def add_map(self, tensor_map: TensorMap) -> int:
        self.maps.append(tensor_map)
        return len(self.maps) - 1

    def tensor_map(self, address: int) -> TensorMap:
        if address % 64:
            raise Hazard(f"a tensor map at {address:#x}, which is not aligned to 64 bytes")
        return self.maps[int.from_bytes(ctypes.string_at(address, 8), "little")]
