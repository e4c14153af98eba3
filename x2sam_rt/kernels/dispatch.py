"""Choice of a kernel's implementation, by name."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Generic, ParamSpec

import torch
from torch import Tensor

from x2sam_rt.errors import KernelUnavailable

log = logging.getLogger(__name__)

P = ParamSpec("P")

_PREFERRED: ContextVar[str] = ContextVar("preferred kernel backend", default="auto")


@contextlib.contextmanager
def kernels_on(backend: str) -> Iterator[None]:
    """Within it, calls that leave the choice open run on this backend: `kernels_on("torch")` for a reference."""
    token = _PREFERRED.set(backend)
    try:
        yield
    finally:
        _PREFERRED.reset(token)


@dataclass(frozen=True)
class Backend(Generic[P]):
    """One implementation of an operation.

    obstacle: says why the given arguments cannot be served here, or None. automatic: whether "auto" may choose it.
    """

    name: str
    run: Callable[P, Tensor]
    obstacle: Callable[P, str | None]
    automatic: bool = True


@dataclass(frozen=True)
class Operation(Generic[P]):
    """An operation with its implementations; "auto" takes the first that has no obstacle."""

    name: str
    backends: tuple[Backend[P], ...]

    def __call__(self, backend: str, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        """Raises KernelUnavailable when the backend asked for by name does not exist or cannot serve."""
        name = _PREFERRED.get() if backend == "auto" else backend
        chosen = self._auto(*args, **kwargs) if name == "auto" else self._named(name, *args, **kwargs)
        return chosen.run(*args, **kwargs)

    def _auto(self, *args: P.args, **kwargs: P.kwargs) -> Backend[P]:
        reasons: list[str] = []
        for backend in filter(lambda candidate: candidate.automatic, self.backends):
            reason = backend.obstacle(*args, **kwargs)
            if reason is None:
                _log_choice(self.name, backend.name, "; ".join(reasons))
                return backend
            reasons.append(f"not {backend.name}: {reason}")
        raise KernelUnavailable(f"{self.name}: no implementation serves these tensors ({'; '.join(reasons)})")

    def _named(self, name: str, *args: P.args, **kwargs: P.kwargs) -> Backend[P]:
        for backend in self.backends:
            if backend.name == name:
                reason = backend.obstacle(*args, **kwargs)
                if reason is not None:
                    raise KernelUnavailable(f'{self.name}: backend "{name}" cannot be used: {reason}')
                return backend
        known = ", ".join(backend.name for backend in self.backends)
        raise KernelUnavailable(f'{self.name}: no backend "{name}"; there are auto, {known}')


@cache
def _log_choice(operation: str, backend: str, reasons: str) -> None:
    log.info("%s runs on backend %s%s", operation, backend, f" ({reasons})" if reasons else "")


def needs_grad(*tensors: Tensor) -> bool:
    """Whether autograd must see this call. Never while exporting: an exported graph has no backward pass."""
    if torch.compiler.is_exporting() or not torch.is_grad_enabled():
        return False
    return any(tensor.requires_grad for tensor in tensors)


def require_torch(operation: str, backend: str) -> None:
    """Raises KernelUnavailable when a backend without gradients was asked for where gradients are needed."""
    if backend not in ("auto", "torch"):
        raise KernelUnavailable(
            f'{operation}: backend "{backend}" has no gradient; call it under torch.no_grad(), or use backend="torch"'
        )


def no_obstacle(*_: object) -> str | None:
    return None
