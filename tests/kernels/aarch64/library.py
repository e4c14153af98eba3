"""The CPU kernels built for 64-bit Arm, and called in QEMU as `x2sam_rt.kernels.cpu` calls them here."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
COMPILER, SYSTEM = "aarch64-linux-gnu-g++", "/usr/aarch64-linux-gnu"  # where Debian's cross compiler has its libraries
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")


def missing() -> str | None:
    """Why nothing can be built or run for Arm here, or None."""
    emulator = next((name for name in EMULATORS if shutil.which(name)), None)
    lacking = [name for name in ("cmake", COMPILER) if shutil.which(name) is None]
    lacking += [] if emulator else [EMULATORS[0]]
    if lacking:
        return f"{', '.join(lacking)} not found: apt-get install cmake g++-aarch64-linux-gnu qemu-user-static"
    return None


def build(folder: Path) -> Path:
    """The library by the project's own CMake files, and the driver on it. Returns the driver."""
    cross = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={COMPILER}")
    options = (*cross, "-DCMAKE_BUILD_TYPE=Release", "-DX2SAM_REQUIRE_CPU=ON", "-DCMAKE_CUDA_COMPILER=NOTFOUND")
    _run("cmake", "-S", ROOT, "-B", folder, *options)
    _run("cmake", "--build", folder, "--target", "x2sam_cpu", "--parallel", "2")
    (library,) = folder.rglob("libx2sam_cpu.so")
    driver = folder / "driver"
    flags = ("-std=c++17", "-O1", "-Wall", "-Wextra", f"-Wl,-rpath,{library.parent}")
    _run(COMPILER, *flags, "-o", driver, HERE / "driver.cpp", library)
    return driver


def _run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


class ArmLibrary:
    """A driver in QEMU. Takes the place of `cpu._call`: the tensors go there and come back.

    The struct says where tensors lie, not how far they go: every tensor whose address is asked for while it is filled
    is remembered with its whole storage.
    """

    def __init__(self, driver: Path) -> None:
        emulator = next(name for name in EMULATORS if shutil.which(name))
        self._process = subprocess.Popen(
            [emulator, "-L", SYSTEM, str(driver)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in: IO[bytes] = self._process.stdin
        self._out: IO[bytes] = self._process.stdout
        self.isa = self._out.readline().decode().strip()
        self.calls = 0
        self._memory: dict[int, int] = {}  # start: bytes
        self._address_of = Tensor.data_ptr

    def close(self) -> None:
        self._in.close()
        assert self._process.wait(timeout=10) == 0

    def data_ptr(self, tensor: Tensor) -> int:
        """Takes the place of `Tensor.data_ptr`."""
        storage = tensor.untyped_storage()
        self._memory[storage.data_ptr()] = storage.nbytes()
        return self._address_of(tensor)

    def shape_table(self, shapes: object) -> object:
        """Takes the place of `cpu._shape_table`, whose array is no tensor."""
        table = (ctypes.c_int64 * (2 * len(shapes)))(*(size for shape in shapes for size in shape))  # type: ignore[arg-type, attr-defined]
        self._memory[ctypes.addressof(table)] = ctypes.sizeof(table)
        return table

    def call(self, function: str, arguments: ctypes.Structure) -> None:
        """Takes the place of `cpu._call`."""
        memory = sorted(self._memory.items())
        words = [self._word(kind, value, memory) for kind, value in _words(arguments)]
        sizes = [str(size) for _, size in memory]
        head = [function, str(torch.get_num_threads()), str(len(memory)), str(len(words)), *sizes, *words]
        self._in.write((" ".join(head) + "\n").encode())
        for start, size in memory:
            self._in.write(ctypes.string_at(start, size))
        self._in.flush()
        assert self._out.readline() == b"0\n", f"{function} failed"
        for start, size in memory:
            ctypes.memmove(start, self._out.read(size), size)
        self._memory.clear()
        self.calls += 1

    @staticmethod
    def _word(kind: type, value: int | None, memory: list[tuple[int, int]]) -> str:
        if kind is ctypes.c_int64:
            return f"i {value}"
        if value is None:
            return "n"
        (found,) = ((n, value - start) for n, (start, size) in enumerate(memory) if start <= value <= start + size)
        return f"p {found[0]} {found[1]}"


def _words(arguments: ctypes.Structure) -> Iterator[tuple[type, int | None]]:
    for name, kind in arguments._fields_:  # type: ignore[misc]
        value = getattr(arguments, name)
        if issubclass(kind, ctypes.Structure):
            yield from _words(value)
        else:
            yield kind, value
