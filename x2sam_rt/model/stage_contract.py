"""What crosses a stage's border: names, shapes and types, declared once and read by exporter, engines and buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from x2sam_rt.errors import EngineError

_CPU = torch.device("cpu")
Dim = int | str
Sizes = Mapping[str, int]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a stage. shape: numbers, names where the size may vary, "4*name" for a multiple of what
    varies. dtype: PyTorch's name for it, as "float32"."""

    name: str
    shape: tuple[Dim, ...]
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def sized(self, sizes: Sizes) -> tuple[int, ...]:
        """The shape in numbers. sizes: of what varies."""
        return tuple(dim if isinstance(dim, int) else _size(dim, sizes) for dim in self.shape)

    def zeros(self, device: torch.device = _CPU, **sizes: int) -> Tensor:
        """A tensor that fits. sizes: of what varies."""
        return torch.zeros(self.sized(sizes), dtype=self.torch_dtype, device=device)

    def widened(self) -> TensorSpec:
        return replace(self, dtype="float32") if self.torch_dtype.is_floating_point else self


@dataclass(frozen=True)
class StageContract:
    """The tensors that a stage takes and gives, in the order of its module's arguments and results."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def varying(self) -> frozenset[str]:
        """Names of the sizes that vary."""
        dims = {dim for tensor in self.inputs + self.outputs for dim in tensor.shape}
        return frozenset(multiple(dim)[1] for dim in dims if isinstance(dim, str))

    def input(self, name: str) -> TensorSpec:
        return next(tensor for tensor in self.inputs if tensor.name == name)

    def output(self, name: str) -> TensorSpec:
        return next(tensor for tensor in self.outputs if tensor.name == name)

    def widened(self) -> StageContract:
        """The same stage when it computes in fp32."""
        inputs, outputs = (tuple(tensor.widened() for tensor in side) for side in (self.inputs, self.outputs))
        return StageContract(self.name, inputs, outputs)

    def check(self, inputs: Tensors, outputs: Tensors) -> None:
        """Checks names, dtypes, shapes and layout of all tensors of a call together.

        Raises EngineError naming the stage, the tensor, what was found and what was wanted.
        """
        sizes: dict[str, int] = {}
        self._check(self.inputs, inputs, sizes)
        self._check(self.outputs, outputs, sizes)

    def outputs_for(self, inputs: Tensors) -> dict[str, Tensor]:
        """Buffers for the results, where these inputs are, filled with NaN: an unwritten value is no result.

        Raises EngineError as `check` does.
        """
        sizes: dict[str, int] = {}
        self._check(self.inputs, inputs, sizes)
        device = next(iter(inputs.values())).device
        return {
            spec.name: torch.full(spec.sized(sizes), float("nan"), dtype=spec.torch_dtype, device=device)
            for spec in self.outputs
        }

    def _check(self, wanted: tuple[TensorSpec, ...], found: Tensors, sizes: dict[str, int]) -> None:
        names = [tensor.name for tensor in wanted]
        if sorted(found) != sorted(names):
            raise EngineError(f"Stage {self.name}: found tensors {sorted(found)}, wanted {sorted(names)}.")
        for tensor in wanted:
            _check_tensor(self.name, tensor, found[tensor.name], sizes)


def require_finite(who: str, tensor: Tensor) -> None:
    """Raises EngineError naming who computed NaN or infinity. On a GPU the host waits."""
    if not bool(tensor.isfinite().all()):
        raise not_finite(who)


def not_finite(who: str) -> EngineError:
    return EngineError(
        f"Results of {who} hold NaN or infinity, which would pass for empty masks or answers. Check the engines with "
        "`x2sam-rt verify`, and the weights they were exported from."
    )


def multiple(dim: str) -> tuple[int, str]:
    """ "4*merged" as (4, "merged"), "slots" as (1, "slots")."""
    factor, _, name = dim.rpartition("*")
    return int(factor or 1), name


def _size(dim: str, sizes: Sizes) -> int:
    factor, name = multiple(dim)
    return factor * sizes[name]


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
    """The first tensor that has a varying size says what the others must have."""
    if isinstance(dim, int):
        return size == dim
    factor, name = multiple(dim)
    return size == factor * sizes.setdefault(name, size // factor)
