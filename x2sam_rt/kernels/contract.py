"""What a kernel's tensors must look like, said once at its boundary."""

from __future__ import annotations

from torch import Tensor

from x2sam_rt.errors import EngineError


class Contract:
    """Matches tensors against named axes; a name met twice must have the same size.

    All tensors of one contract share the first one's dtype and device.
    """

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self._sizes: dict[str, int] = {}
        self._first: Tensor | None = None

    def match(self, name: str, tensor: Tensor, axes: str) -> None:
        """axes: the wanted axes in order, by name or by size, e.g. "queries heads 2".

        Raises EngineError when rank, sizes, dtype or device do not fit.
        """
        wanted = [self._sizes.get(axis, int(axis) if axis.isdigit() else axis) for axis in axes.split()]
        fits = len(wanted) == tensor.dim() and all(
            isinstance(want, str) or want == size for want, size in zip(wanted, tensor.shape, strict=True)
        )
        first = self._first if self._first is not None else tensor
        alike = tensor.is_floating_point() and tensor.dtype == first.dtype and tensor.device == first.device
        if not fits or not alike:
            raise EngineError(
                f"{self._operation}: {name} must be ({', '.join(map(str, wanted))}) {_kind(first)}, "
                f"got {tuple(tensor.shape)} {_kind(tensor)}"
            )
        self._first = first
        self._sizes.update(zip(axes.split(), tensor.shape, strict=True))

    def at_least(self, axis: str, minimum: int, advice: str) -> None:
        """Raises EngineError, ending in `advice`, when a matched axis is shorter than `minimum`."""
        if self._sizes[axis] < minimum:
            raise EngineError(
                f"{self._operation}: {axis} must be at least {minimum}, got {self._sizes[axis]}; {advice}"
            )

    def size(self, axis: str) -> int:
        return self._sizes[axis]


def _kind(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype if tensor.is_floating_point() else dtype + ' (a float type is wanted)'} on {tensor.device}"


def dense_rows(tensor: Tensor) -> Tensor:
    """The tensor itself unless its last axis is spread out in memory."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def dense_maps(tensor: Tensor) -> Tensor:
    """The tensor itself unless one of its leading entries is spread out in memory."""
    return tensor if tensor.shape[0] and tensor[0].is_contiguous() else tensor.contiguous()
