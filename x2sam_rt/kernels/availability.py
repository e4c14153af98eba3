"""Which native kernels this installation has."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from x2sam_rt.kernels import libraries


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
    return Availability(
        cpu=libraries.find("x2sam_cpu"),
        cuda=libraries.find("x2sam_cuda"),
        triton=find_spec("triton") is not None,
    )
