"""libx2sam_cuda on the emulated device: the library's own host code, linked to a runtime that hands launches here."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

from emulator.device import Device, TensorMap
from emulator.ptx import parse
from emulator.warp import Hazard

ELEMENT_BYTES = (1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4)  # by CUtensorMapDataType


class _Size3(ctypes.Structure):
    _fields_ = (("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint))


_Launch = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, _Size3, _Size3, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)
)
_Map = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.c_uint32), ctypes.c_int,
)  # fmt: skip


def link(objects: list[Path], folder: Path) -> Path:
    """The library out of the objects that nvcc compiled for the host, with the emulated runtime."""
    target = folder / "libx2sam_cuda.so"
    source = Path(__file__).with_name("runtime.cpp")
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-o", target, source, *objects]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=900)
    return target


class EmulatedLibrary:
    """A linked library and its device. hazard: what stopped a launch. devices: those that kernels were launched on."""

    def __init__(self, path: Path, modules: list[str]) -> None:
        self.path = path
        self.device = Device({name: kernel for text in modules for name, kernel in parse(text).items()})
        self.hazard: BaseException | None = None
        self.devices: list[int] = []
        self.handle = ctypes.CDLL(str(path))
        self._callbacks = _Launch(self._launch), _Map(self._map)  # ctypes does not keep them alive
        self.handle.emulator_callbacks(*self._callbacks)

    def reset(self, seed: int = 0, shared_base: int = 1024) -> None:
        """For a new test. seed: of the order in which things happen. shared_base: where shared memory begins."""
        self.hazard, self.devices = None, []
        self.device.seed, self.device.shared_base = seed, shared_base
        self.device.maps.clear()

    def calls(self, function: str) -> int:
        """How often the library has called this function of the runtime."""
        return int(self.handle.emulator_calls(function.encode()))

    def raise_hazard(self) -> None:
        """Raises what stopped a launch since the last time."""
        found, self.hazard = self.hazard, None
        if found is not None:
            raise found

    def _launch(self, name: bytes, device: int, grid: Any, block: Any, shared: int, arguments: Any) -> int:
        kernel = self.device.kernels[name.decode()]
        given = [ctypes.string_at(arguments[i], size) for i, size in enumerate(kernel.parameter_sizes)]
        self.devices.append(device)
        try:
            self.device.launch(kernel.name, (grid.x, grid.y, grid.z), block.x, shared, given)
        except (Hazard, ArithmeticError, LookupError, ValueError, NotImplementedError) as found:
            self.hazard = found
        return 0

    def _map(self, kind: int, rank: int, address: int, sizes: Any, strides: Any, box: Any, swizzle: int) -> int:
        lengths, boxes = tuple(sizes[i] for i in range(rank)), tuple(box[i] for i in range(rank))
        steps = tuple(strides[i] for i in range(rank - 1))
        return self.device.add_map(TensorMap(address, ELEMENT_BYTES[kind], lengths, steps, boxes, swizzle))
