"""What can run here: the compiled libraries, Triton, and the GPU that a tensor is on."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

import x2sam_rt

_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


def _search(name: str) -> str | None:
    """In an editable install the libraries do not lie beside the source, so along the package's path."""
    candidates = (Path(folder) / f"lib{name}{_SUFFIX}" for folder in x2sam_rt.__path__)
    return next((str(path) for path in candidates if path.is_file()), None)


# Looked up once, as plain strings, so that torch.compile can trace the question.
_PATHS = {name: _search(name) for name in ("x2sam_cpu", "x2sam_cuda")}


def library(name: str) -> Path | None:
    """The file of the library lib`name`, or None when the package was installed without it."""
    path = _PATHS[name]
    return None if path is None else Path(path)


def has_library(name: str) -> bool:
    """Whether the library lib`name` is there."""
    return _PATHS[name] is not None


@cache
def has_triton() -> bool:
    """Whether Triton can be imported."""
    return find_spec("triton") is not None


@dataclass(frozen=True)
class Availability:
    """What was built and found.

    cpu, cuda: the library of that processor's kernels, or None. triton: Triton can be imported. The CPU library
    is also the one ONNX Runtime registers.
    """

    cpu: Path | None
    cuda: Path | None
    triton: bool


def available() -> Availability:
    """Looks the libraries up without loading them."""
    return Availability(cpu=library("x2sam_cpu"), cuda=library("x2sam_cuda"), triton=has_triton())


@dataclass(frozen=True)
class Gpu:
    """capability: (major, minor). processors: its streaming multiprocessors."""

    name: str
    capability: tuple[int, int]
    processors: int

    def __str__(self) -> str:
        return f"{self.name} (capability {self.capability[0]}.{self.capability[1]})"


@cache
def gpu(device: torch.device) -> Gpu:
    """The GPU behind a CUDA device; asked for once, since the kernels' callers ask at every call."""
    properties = torch.cuda.get_device_properties(device)
    return Gpu(properties.name, (properties.major, properties.minor), properties.multi_processor_count)
