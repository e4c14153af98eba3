"""What benchmarks/gpu_attention.py measures: shapes, contenders and how each one's result is judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

CHECKED_ROWS = 256
MATH_LIMIT = 2**28  # scores that the math backend may materialise
FP8_BOUND = 0.1  # relative error that only a broken fp8 kernel passes

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Shape:
    """Queries against `slots` × `slot_tokens` keys; kind "self" or "cross"."""

    kind: str
    queries: int
    slots: int
    slot_tokens: int
    dim: int

    @property
    def keys(self) -> int:
        return self.slots * self.slot_tokens

    @property
    def flops(self) -> int:
        return 4 * self.queries * self.keys * self.dim

    @property
    def name(self) -> str:
        return f"{self.kind} {self.queries}" + (f" x {self.slots}x{self.slot_tokens}" if self.kind == "cross" else "")


@dataclass(frozen=True, eq=False)
class Problem:
    """Random tensors of a shape. query: (queries, dim); key, value: (slots, slot_tokens, dim) views of a ring."""

    shape: Shape
    query: Tensor
    key: Tensor
    value: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Contender:
    """One implementation on one problem. exact: judged as bfloat16; otherwise as fp8."""

    name: str
    call: Call
    exact: bool = True


def shapes(tiny: bool) -> list[Shape]:
    sides = (5, 7, 10) if tiny else (64, 128, 256)
    slots, slot_tokens, dim = (3, 25, 64) if tiny else (8, 4096, 256)
    own = [Shape("self", side * side, 1, side * side, dim) for side in sides]
    return own + [Shape("cross", side * side, slots, slot_tokens, dim) for side in sides]


def awkward_shapes(tiny: bool) -> list[Shape]:
    """Checked, not timed: beside every tile, one of each, slots shorter than a key block."""
    dims = (64,) if tiny else (64, 128, 256)
    cases = [(1, 1, 1), (1, 2, 81), (129, 3, 79), (257, 5, 131), (799, 1, 1023)]
    cases = cases[:3] if tiny else cases
    kinds = [("self" if slots == 1 else "cross", queries, slots, tokens) for queries, slots, tokens in cases]
    return [Shape(*case, dim) for case in kinds for dim in dims]


def problem(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Problem:
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device).to(dtype)

    ring = [draw(shape.slots + 1, shape.slot_tokens, shape.dim)[: shape.slots] for _ in range(2)]
    shift = draw(shape.slots, shape.dim) if shape.kind == "cross" else torch.zeros(1, shape.dim, device=device)
    return Problem(shape, draw(shape.queries, shape.dim), ring[0], ring[1], shift.to(dtype))


def sdpa_contenders(case: Problem) -> Iterator[Contender]:
    """torch's backends, each by name, over all keys at once; for cross-attention, adding the shift is in the time."""
    for backend in (None, *SDPBackend.__members__.values()):
        if backend in (SDPBackend.ERROR, SDPBackend.OVERRIDEABLE):
            continue
        if backend == SDPBackend.MATH and case.shape.queries * case.shape.keys > MATH_LIMIT:
            continue
        yield Contender(f"sdpa {'default' if backend is None else backend.name.lower()}", _sdpa(case, backend))


def _sdpa(case: Problem, backend: SDPBackend | None) -> Call:
    def attend() -> Tensor:
        key = case.key if case.shape.kind == "self" else case.key + case.shift[:, None]
        tensors = [part.reshape(1, 1, -1, case.shape.dim) for part in (case.query, key, case.value)]
        return F.scaled_dot_product_attention(*tensors)[0, 0]

    def named() -> Tensor:
        assert backend is not None
        with sdpa_kernel([backend]):
            return attend()

    return attend if backend is None else named


def cudnn_slot_contenders(case: Problem) -> Iterator[Contender]:
    from x2sam_rt.kernels import sdpa

    if case.shape.kind == "cross":
        yield Contender("cudnn slots + merge", lambda: sdpa.slot_attention(*_slot_arguments(case)))


def cuda_contenders(case: Problem) -> Iterator[Contender]:
    from x2sam_rt.kernels import cuda

    if case.shape.kind == "self":
        yield Contender("cuda bf16", lambda: cuda.self_attention(case.query, case.key[0], case.value[0]))
        return
    arguments = _slot_arguments(case)
    yield Contender("cuda bf16", lambda: cuda.slot_attention(*arguments))
    yield Contender("cuda bf16 one part", lambda: cuda.slot_attention(*arguments, parts=1))
    yield Contender("cuda bf16 skipping", lambda: cuda.slot_attention_skipping(*arguments)[0])


def fp8_contenders(case: Problem) -> Iterator[Contender]:
    """Self-attention quantises within the time; a slot was quantised when it was stored."""
    from x2sam_rt.kernels import cuda, fp8

    if case.shape.dim < 128:
        return
    if case.shape.kind == "self":
        yield Contender(
            "cuda fp8", lambda: cuda.self_attention_fp8(case.query, case.key[0], case.value[0]), exact=False
        )
        return
    stored = fp8.quantise_slots(case.key, case.value)
    yield Contender("cuda fp8", lambda: cuda.slot_attention_fp8(case.query, stored, case.shift), exact=False)


def triton_contenders(case: Problem) -> Iterator[Contender]:
    from x2sam_rt.kernels.triton import attention

    small = attention.Tiles(16, 16, 4, 1) if case.query.device.type == "cpu" else None
    if case.shape.kind == "self":
        yield Contender("triton", lambda: attention.self_attention(case.query, case.key[0], case.value[0], tiles=small))
        return
    yield Contender("triton", lambda: attention.slot_attention(*_slot_arguments(case), tiles=small))


def _slot_arguments(case: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return case.query, case.key, case.value, case.shift


@dataclass(frozen=True)
class Verdict:
    """error, plain_error: of the contender and of torch's math at the same precision, largest over the rows checked."""

    ok: bool
    error: float
    plain_error: float


def judge(case: Problem, out: Tensor, exact: bool) -> Verdict:
    """Rows spread over the queries against float64; bfloat16 passes at twice plain torch's error, and rounding."""
    count = min(CHECKED_ROWS, case.shape.queries)
    rows = torch.linspace(0, case.shape.queries - 1, count, device=out.device).long()
    query, keys = case.query[rows], (case.key.double() + case.shift.double()[:, None]).flatten(0, 1)
    scores = query.double() @ keys.T / math.sqrt(case.shape.dim)
    truth = scores.softmax(-1) @ case.value.double().flatten(0, 1)
    with sdpa_kernel([SDPBackend.MATH]):
        parts = (query, (case.key + case.shift[:, None]).flatten(0, 1), case.value.flatten(0, 1))
        plain = F.scaled_dot_product_attention(*(part[None, None] for part in parts))[0, 0]
    error, plain_error = ((result.double() - truth).abs().max().item() for result in (out[rows], plain))
    if not exact:
        relative = ((out[rows].double() - truth).norm() / truth.norm()).item()
        return Verdict(bool(out.isfinite().all()) and relative <= FP8_BOUND, error, plain_error)
    rounding = torch.finfo(out.dtype).eps * truth.abs().max().item()
    return Verdict(bool(out.isfinite().all()) and error <= 2 * plain_error + rounding, error, plain_error)
