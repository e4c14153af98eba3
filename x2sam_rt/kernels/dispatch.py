"""Choice of a kernel's implementation, by name, and how torch sees the operations."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, ParamSpec

import torch
from torch import Tensor

from x2sam_rt.errors import KernelUnavailable

log = logging.getLogger(__name__)

P = ParamSpec("P")

NAMESPACE = "x2sam_rt"
BACKENDS = ("cpu", "cuda", "triton", "cudnn", "torch")

_PREFERRED: ContextVar[str] = ContextVar("preferred kernel backend", default="auto")


@contextlib.contextmanager
def kernels_on(backend: str) -> Iterator[None]:
    """Within it, calls that leave the choice open run on this backend: `kernels_on("torch")` for a reference.

    An operation that this backend does not have runs on the one "auto" finds, which is logged. Raises
    KernelUnavailable for a name that no operation knows.
    """
    if backend not in ("auto", *BACKENDS):
        raise KernelUnavailable(f'no kernel backend "{backend}"; there are auto, {", ".join(BACKENDS)}')
    token = _PREFERRED.set(backend)
    try:
        yield
    finally:
        _PREFERRED.reset(token)


def no_reason(*_: object) -> str | None:
    return None


@dataclass(frozen=True)
class Backend(Generic[P]):
    """One implementation of an operation.

    unsupported_reason: says why the given arguments cannot be served here, or None. passed_over_reason: why "auto"
    leaves them to a later backend although this one could serve them, or None.
    """

    name: str
    run: Callable[P, Tensor]
    unsupported_reason: Callable[P, str | None]
    passed_over_reason: Callable[P, str | None] | None = None


@dataclass(frozen=True)
class Operation(Generic[P]):
    """An operation with its implementations; "auto" takes the first that has no reason against it."""

    name: str
    backends: tuple[Backend[P], ...]

    def __call__(self, backend: str, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        """Raises KernelUnavailable when the backend asked for by name does not exist or cannot serve."""
        return self.choose(backend, *args, **kwargs).run(*args, **kwargs)

    def choose(self, backend: str, *args: P.args, **kwargs: P.kwargs) -> Backend[P]:
        """The implementation that would run. Raises as a call does."""
        if backend != "auto":
            return self._named(backend, *args, **kwargs)
        preferred = _PREFERRED.get()
        if any(candidate.name == preferred for candidate in self.backends):
            return self._named(preferred, *args, **kwargs)
        reasons = () if preferred == "auto" else (f"not {preferred}: it has no such kernel",)
        return self._auto(reasons, *args, **kwargs)

    def _auto(self, known: tuple[str, ...], *args: P.args, **kwargs: P.kwargs) -> Backend[P]:
        reasons = list(known)
        for backend in self.backends:
            reason = backend.unsupported_reason(*args, **kwargs)
            if reason is None and backend.passed_over_reason is not None:
                reason = backend.passed_over_reason(*args, **kwargs)
            if reason is None:
                _log_choice(self.name, backend.name, "; ".join(reasons))
                return backend
            reasons.append(f"not {backend.name}: {reason}")
        raise KernelUnavailable(f"{self.name}: no implementation serves these tensors ({'; '.join(reasons)})")

    def _named(self, name: str, *args: P.args, **kwargs: P.kwargs) -> Backend[P]:
        for backend in self.backends:
            if backend.name == name:
                reason = backend.unsupported_reason(*args, **kwargs)
                if reason is not None:
                    raise KernelUnavailable(f'{self.name}: backend "{name}" cannot be used: {reason}')
                return backend
        known = ", ".join(backend.name for backend in self.backends)
        raise KernelUnavailable(f'{self.name}: no backend "{name}"; there are auto, {known}')


@cache
def _log_choice(operation: str, backend: str, reasons: str) -> None:
    log.info("%s runs on backend %s%s", operation, backend, f" ({reasons})" if reasons else "")


def register(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Registers x2sam_rt::`name`, so that torch.compile and torch.export see it as one call; returns the operation.

    The schema is that of `function`'s annotations, for all devices. fake: gives an output of the right shape and
    dtype without computing.
    """
    qualified = f"{NAMESPACE}::{name}"
    # Not torch.library.custom_op: its Python layers cost as much as a small kernel.
    torch.library.define(qualified, torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(qualified, "default", function)
    torch.library.register_fake(qualified, fake)
    operation: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default
    return operation


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
