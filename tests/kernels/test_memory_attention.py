"""Memory attention: C++ against its twin, contract, dispatch, torch.compile and torch.export."""

from __future__ import annotations

import logging
import resource

import pytest
import torch
from checks import assert_as_exact_as, needs_library, random
from torch import Tensor

from x2sam_rt.errors import EngineError, KernelUnavailable
from x2sam_rt.kernels import available, cpu, dispatch, reference
from x2sam_rt.kernels.memory_attention import self_attention, slot_attention

SELF_SHAPES = [
    pytest.param(1, 1, 32, id="one-of-each"),
    pytest.param(1, 300, 256, id="one-query"),
    pytest.param(70, 1, 64, id="one-key"),
    pytest.param(799, 129, 128, id="no-multiple-of-a-tile"),
    pytest.param(257, 1023, 256, id="just-beside-the-tiles"),
    pytest.param(97, 97, 48, id="dim-48"),
    pytest.param(5, 65536, 32, id="the-longest"),
]
SLOT_SHAPES = [
    pytest.param(300, 1, 5, 32, id="one-slot"),
    pytest.param(33, 8, 1, 64, id="one-token-slots"),
    pytest.param(1, 3, 129, 256, id="one-query"),
    pytest.param(130, 5, 131, 128, id="odd-slots"),
    pytest.param(9, 8, 4096, 64, id="a-full-bank"),
]
needs_bfloat16 = pytest.mark.skipif(
    available().cpu is None or not cpu.multiplies_bfloat16(), reason="no bfloat16 instructions"
)
DTYPES = [
    pytest.param(torch.float32, id="fp32", marks=needs_library),
    pytest.param(torch.bfloat16, id="bf16", marks=needs_bfloat16),
]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


@each_dtype
@pytest.mark.parametrize(("queries", "tokens", "dim"), SELF_SHAPES)
def test_self_attention_is_as_exact_as_torch(queries: int, tokens: int, dim: int, dtype: torch.dtype) -> None:
    q = random(queries, dim, seed=1, scale=2).to(dtype)
    k, v = random(tokens, dim, seed=2).to(dtype), random(tokens, dim, seed=3).to(dtype)
    exact = reference.self_attention(q.double(), k.double(), v.double())
    assert_as_exact_as(self_attention(q, k, v, backend="cpu"), reference.self_attention(q, k, v), exact)


def slot_inputs(
    queries: int, slots: int, tokens: int, dim: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = random(queries, dim, seed=1), random(slots, tokens, dim, seed=2), random(slots, tokens, dim, seed=3)
    return q.to(dtype), k.to(dtype), v.to(dtype), random(slots, dim, seed=4).to(dtype)


def exact_slot_attention(*inputs: Tensor) -> Tensor:
    q, k, v, shift = (tensor.double() for tensor in inputs)
    return reference.slot_attention(q, k, v, shift)


@each_dtype
@pytest.mark.parametrize(("queries", "slots", "tokens", "dim"), SLOT_SHAPES)
def test_slot_attention_is_as_exact_as_torch(
    queries: int, slots: int, tokens: int, dim: int, dtype: torch.dtype
) -> None:
    inputs = slot_inputs(queries, slots, tokens, dim, dtype)
    own = slot_attention(*inputs, backend="cpu")
    assert_as_exact_as(own, reference.slot_attention(*inputs), exact_slot_attention(*inputs))


@each_dtype
def test_a_partly_filled_ring_is_read_in_place(dtype: torch.dtype) -> None:
    """The live slots are a prefix; what lies behind them must not be looked at."""
    q, ring_k, ring_v, shift = slot_inputs(40, 5, 19, 64, dtype)
    ring_k[3:], ring_v[3:] = float("nan"), float("nan")
    inputs = (q, ring_k[:3], ring_v[:3], shift[:3])
    own = slot_attention(*inputs, backend="cpu")
    assert_as_exact_as(own, reference.slot_attention(*inputs), exact_slot_attention(*inputs))


@each_dtype
def test_a_wrapped_ring_gives_the_same_as_slots_in_order(dtype: torch.dtype) -> None:
    q, k, v, shift = slot_inputs(40, 5, 19, 64, dtype)
    wrapped = [2, 3, 4, 0, 1]
    turned = slot_attention(q, k[wrapped], v[wrapped], shift[wrapped], backend="cpu")
    in_order = slot_attention(q, k, v, shift, backend="cpu")
    assert_as_exact_as(turned, in_order, exact_slot_attention(q, k, v, shift))


@each_dtype
@pytest.mark.parametrize("channels", [slice(0, 128, 2), slice(64, 128), slice(33, 97)], ids=["strided", "half", "odd"])
def test_strided_views(channels: slice, dtype: torch.dtype) -> None:
    q, k, v, shift = slot_inputs(21, 2, 17, 64, dtype)
    wide = [torch.full((*tensor.shape[:-1], 129), torch.nan, dtype=dtype) for tensor in (q, k, v, shift)]
    views = [tensor[..., channels] for tensor in wide]
    for view, tensor in zip(views, (q, k, v, shift), strict=True):
        view.copy_(tensor)
    assert torch.equal(slot_attention(*views, backend="cpu"), slot_attention(q, k, v, shift, backend="cpu"))


@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=needs_library)])
@pytest.mark.parametrize("grad", [False, True])
def test_no_query_gives_an_empty_result(backend: str, grad: bool) -> None:
    q, k, v, shift = slot_inputs(0, 2, 5, 32)
    if grad:
        assert slot_attention(q.requires_grad_(), k, v, shift).shape == (0, 32)
        return
    assert slot_attention(q, k, v, shift, backend=backend).shape == (0, 32)
    assert self_attention(q, k[0], v[0], backend=backend).shape == (0, 32)


@each_dtype
def test_a_slot_that_is_switched_off_weighs_nothing(dtype: torch.dtype) -> None:
    q, k, v, shift = slot_inputs(9, 2, 70, 32, dtype)
    q, shift[0] = q.abs(), -torch.inf
    alone = (q, k[1:], v[1:], shift[1:])
    out = slot_attention(q, k, v, shift, backend="cpu")
    assert_as_exact_as(out, reference.slot_attention(*alone), exact_slot_attention(*alone))


@each_dtype
@pytest.mark.parametrize("scale", [30.0, 1e4, 1e12], ids=["peaked", "far-beyond-exp", "beyond-its-exponent"])
def test_large_scores_neither_overflow_nor_vanish(scale: float, dtype: torch.dtype) -> None:
    q = random(50, 32, seed=1, scale=scale).to(dtype)
    k, v = random(60, 32, seed=2).to(dtype), random(60, 32, seed=3).to(dtype)
    exact = reference.self_attention(q.double(), k.double(), v.double())
    assert_as_exact_as(self_attention(q, k, v, backend="cpu"), reference.self_attention(q, k, v), exact)


@each_dtype
def test_one_key_that_outweighs_a_thousand_small_ones(dtype: torch.dtype) -> None:
    q = random(1000, 256).to(dtype)
    exact = reference.self_attention(q.double(), q.double(), q.double())
    assert_as_exact_as(self_attention(q, q, q, backend="cpu"), reference.self_attention(q, q, q), exact)


@each_dtype
def test_unusable_keys_are_not_hidden(dtype: torch.dtype) -> None:
    q, k, v = random(20, 32).to(dtype), random(40, 32).to(dtype), random(40, 32).to(dtype)
    k[17, 3] = float("nan")
    assert self_attention(q, k, v, backend="cpu").isnan().all()


@each_dtype
def test_memory_does_not_grow_with_queries_times_keys(dtype: torch.dtype) -> None:
    """16,384² scores would take 1 GiB; the kernel's own space stays under 64 MiB. One channel step keeps it quick."""
    q = random(16384, 16).to(dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    self_attention(q, q, q, backend="cpu")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("backend", ["auto", "torch", pytest.param("cpu", marks=needs_library)])
def test_an_empty_bank_is_refused(backend: str) -> None:
    q, k, v, shift = slot_inputs(4, 0, 9, 32)
    with pytest.raises(EngineError, match="slots must be at least 1, got 0; the first frame"):
        slot_attention(q, k, v, shift, backend=backend)


def test_wrong_tensors_are_named() -> None:
    q, k, v, shift = slot_inputs(4, 2, 9, 32)
    with pytest.raises(EngineError, match=r"value must be \(2, 9, 32\) float32 on cpu, got \(2, 8, 32\) float32"):
        slot_attention(q, k, v[:, :8], shift)
    with pytest.raises(EngineError, match=r"key_shift must be .* float32 on cpu, got \(2, 32\) float64"):
        slot_attention(q, k, v, shift.double())
    with pytest.raises(EngineError, match=r"key must be \(tokens, 32\)"):
        self_attention(q, k, v)
    with pytest.raises(EngineError, match="a float type is wanted"):
        self_attention(q.int(), q.int(), q.int())


def test_unknown_backend_lists_the_known() -> None:
    q = random(2, 32)
    with pytest.raises(KernelUnavailable, match='no backend "fast"; there are auto, cpu, cuda, triton, cudnn, torch'):
        self_attention(q, q, q, backend="fast")


def test_cpu_says_why_it_cannot_serve() -> None:
    q = random(2, 24)
    with pytest.raises(KernelUnavailable, match="dim must be a multiple of 16, got 24"):
        self_attention(q, q, q, backend="cpu")
    q = random(2, 32).half()
    with pytest.raises(KernelUnavailable, match=r"takes float32 or bfloat16 on the CPU, got torch\.float16 on cpu"):
        self_attention(q, q, q, backend="cpu")
    q = random(2, 32).requires_grad_()
    with pytest.raises(KernelUnavailable, match="no gradient"):
        self_attention(q, q, q, backend="cpu")


def test_auto_logs_its_choice_once(caplog: pytest.LogCaptureFixture) -> None:
    dispatch._log_choice.cache_clear()
    q = random(3, 24).bfloat16()
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        self_attention(q, q, q)
        self_attention(q, q, q)
    assert [record.message.split(" (")[0] for record in caplog.records] == ["self_attention runs on backend torch"]


def test_gradients_flow_in_auto() -> None:
    inputs = [tensor.requires_grad_() for tensor in slot_inputs(6, 2, 5, 32)]
    own = torch.autograd.grad(slot_attention(*inputs).square().sum(), inputs)
    plain = torch.autograd.grad(reference.slot_attention(*inputs).square().sum(), inputs)
    for gradient, expected in zip(own, plain, strict=True):
        assert torch.equal(gradient, expected)


class Attend(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(32, 32)  # its weights require gradients, as in a real model

    def forward(self, q: Tensor, k: Tensor, v: Tensor, shift: Tensor) -> Tensor:
        return slot_attention(self.project(q), k, v, shift)


def test_compiles_without_graph_breaks() -> None:
    module, inputs = Attend(), slot_inputs(6, 2, 5, 32)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(*inputs), module(*inputs))
    compiled(*inputs).sum().backward()
    assert module.project.weight.grad is not None


def test_exports_as_one_operation_for_any_number_of_slots() -> None:
    slots, tokens = torch.export.Dim("slots"), torch.export.Dim("tokens")
    memory = {0: slots, 1: tokens}
    dynamic = ({0: torch.export.Dim("queries")}, memory, memory, {0: slots})
    module = Attend()
    program = torch.export.export(module, slot_inputs(6, 2, 5, 32), dynamic_shapes=dynamic)
    called = [str(node.target) for node in program.graph.nodes if "x2sam_rt" in str(node.target)]
    assert called == ["x2sam_rt.slot_attention.default"]
    inputs = slot_inputs(9, 4, 3, 32)
    with torch.no_grad():
        assert torch.equal(program.module()(*inputs), module(*inputs))


def test_operations_are_registered_soundly() -> None:
    q, k, v, shift = slot_inputs(6, 2, 5, 32)
    torch.library.opcheck(torch.ops.x2sam_rt.self_attention.default, (q, k[0], v[0], "auto"))
    torch.library.opcheck(torch.ops.x2sam_rt.slot_attention.default, (q, k, v, shift, "auto"))
