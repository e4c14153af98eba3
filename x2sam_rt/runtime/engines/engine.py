"""What every backend offers: a stage by name, tensors in, tensors written into buffers the caller owns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.runtime.bundle import Dim, StageSpec, TensorSpec

Tensors = Mapping[str, Tensor]


class Engine(Protocol):
    """One stage, ready to run. Engines hold no state of a stream; several streams may share one."""

    spec: StageSpec

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        """Computes the stage. Every tensor is contiguous and fits `spec`; outputs are overwritten in place."""

    def close(self) -> None:
        """Gives back the engine's memory; `run` must not be called again."""


def check_tensors(spec: StageSpec, inputs: Tensors, outputs: Tensors) -> dict[str, int]:
    """Checks names, dtypes and shapes against the stage's contract. Returns the size of each varying dimension.

    Raises EngineError naming the stage, the tensor, what was found and what was wanted.
    """
    sizes: dict[str, int] = {}
    for wanted, given in ((spec.inputs, inputs), (spec.outputs, outputs)):
        names = [tensor.name for tensor in wanted]
        if sorted(given) != sorted(names):
            raise EngineError(f"Stage {spec.name}: found tensors {sorted(given)}, wanted {sorted(names)}.")
        for tensor in wanted:
            _check_tensor(spec.name, tensor, given[tensor.name], sizes)
    return sizes


def _check_tensor(stage: str, wanted: TensorSpec, found: Tensor, sizes: dict[str, int]) -> None:
    dtype = str(found.dtype).removeprefix("torch.")
    fits = len(found.shape) == len(wanted.shape) and all(
        _fits(dim, size, sizes) for dim, size in zip(wanted.shape, found.shape, strict=True)
    )
    if not fits or dtype != wanted.dtype or not found.is_contiguous():
        layout = "" if found.is_contiguous() else ", not contiguous"
        raise EngineError(
            f"Stage {stage}, tensor {wanted.name}: found {dtype} {tuple(found.shape)}{layout}, "
            f"wanted contiguous {wanted.dtype} {wanted.shape} with {sizes}."
        )


def _fits(dim: Dim, size: int, sizes: dict[str, int]) -> bool:
    return size == (dim if isinstance(dim, int) else sizes.setdefault(dim, size))
