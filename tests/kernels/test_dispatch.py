"""Which implementation a call gets, for tensors on GPUs that are only described: fake tensors, no device."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from x2sam_rt.errors import KernelUnavailable
from x2sam_rt.kernels import availability, cuda, dispatch, kernels_on, sdpa, triton
from x2sam_rt.kernels.availability import Gpu
from x2sam_rt.kernels.deformable_attention import DEFORMABLE_ATTENTION_DISPATCH
from x2sam_rt.kernels.mask_fusion import ATTENTION_MASK_DISPATCH, MASK_FUSION_DISPATCH
from x2sam_rt.kernels.memory_attention import SELF_ATTENTION_DISPATCH, SLOT_ATTENTION_DISPATCH

H100 = Gpu("NVIDIA H100", (9, 0), 132)
A100 = Gpu("NVIDIA A100", (8, 0), 108)
T4 = Gpu("Tesla T4", (7, 5), 40)
BLACKWELL = Gpu("NVIDIA B200", (10, 0), 148)
BF16, FP16 = torch.bfloat16, torch.float16
CUDA_13 = (13000, 13000)  # what the driver serves, and what the library was built with


@dataclass
class Machine:
    """What the tests say is there."""

    gpu: Gpu = H100
    cuda_library: bool = True
    triton: bool = True
    cudnn: bool = True
    versions: tuple[int, int] = CUDA_13


OLD_DRIVER = Machine(versions=(12080, 13000))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    described = Machine()
    monkeypatch.setattr(availability, "gpu", lambda device: described.gpu)
    monkeypatch.setattr(sdpa, "gpu", lambda device: described.gpu)
    monkeypatch.setattr(triton, "gpu", lambda device: described.gpu)
    monkeypatch.setattr(triton, "has_triton", lambda: described.triton)
    monkeypatch.setattr(availability, "has_library", lambda name: described.cuda_library)
    monkeypatch.setattr(cuda, "_cuda_versions", lambda: described.versions)
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: described.cudnn)
    cuda.device_reason.cache_clear()
    dispatch._log_choice.cache_clear()
    with FakeTensorMode():
        yield described
    cuda.device_reason.cache_clear()


def on_gpu(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="cuda:0")


def attention(dim: int = 256, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    return on_gpu(7, dim, dtype=dtype), on_gpu(9, dim, dtype=dtype), on_gpu(9, dim, dtype=dtype)


@pytest.mark.parametrize(
    ("there", "dim", "dtype", "chosen"),
    [
        pytest.param(Machine(), 256, BF16, "cuda", id="hopper"),
        pytest.param(Machine(), 256, FP16, "triton", id="hopper-fp16"),
        pytest.param(Machine(), 48, BF16, "cudnn", id="hopper-dim-48"),
        pytest.param(Machine(), 48, torch.float32, "torch", id="hopper-dim-48-fp32"),
        pytest.param(Machine(cuda_library=False), 256, BF16, "triton", id="hopper-no-library"),
        pytest.param(OLD_DRIVER, 256, BF16, "triton", id="hopper-old-driver"),
        pytest.param(Machine(cuda_library=False, triton=False), 256, BF16, "cudnn", id="hopper-torch-only"),
        pytest.param(Machine(A100), 256, BF16, "triton", id="ampere"),
        pytest.param(Machine(A100, triton=False), 128, BF16, "torch", id="ampere-torch-only"),
        pytest.param(Machine(BLACKWELL), 256, BF16, "triton", id="blackwell"),
        pytest.param(Machine(T4), 256, FP16, "torch", id="turing"),
    ],
)
def test_auto_on_a_gpu(machine: Machine, there: Machine, dim: int, dtype: torch.dtype, chosen: str) -> None:
    machine.__dict__.update(there.__dict__)
    query, key, value = attention(dim, dtype)
    assert SELF_ATTENTION_DISPATCH.choose("auto", query, key, value).name == chosen
    ring = [on_gpu(2, 9, dim, dtype=dtype) for _ in range(2)]
    assert SLOT_ATTENTION_DISPATCH.choose("auto", query, *ring, on_gpu(2, dim, dtype=dtype)).name == chosen


REFUSALS = [
    (Machine(A100), "cuda", 256, BF16, r"compiled for Hopper .* found NVIDIA A100 \(capability 8\.0\)"),
    (Machine(), "cuda", 256, FP16, r"takes bfloat16 on a CUDA device, got torch\.float16 on cuda:0"),
    (Machine(), "cuda", 48, BF16, r"dim must be one of \(64, 128, 256\), got 48"),
    (Machine(cuda_library=False), "cuda", 256, BF16, "were not built; reinstall x2sam-rt with nvcc"),
    (OLD_DRIVER, "cuda", 256, BF16, r"built with CUDA 13\.0 .*580 or newer.* serves CUDA 12\.8; update the driver"),
    (Machine(versions=(0, 13000)), "cuda", 256, BF16, "but there is none; update the driver"),
    (Machine(T4), "triton", 256, FP16, r"needs capability 8\.0 or newer, found Tesla T4 \(capability 7\.5\)"),
    (Machine(), "triton", 48, BF16, r"dim must be one of \(16, 32, 64, 128, 256\), got 48"),
    (Machine(), "triton", 256, torch.float64, r"float16 or bfloat16 on a CUDA device, got torch\.float64"),
    (Machine(triton=False), "triton", 256, BF16, r"pip install 'x2sam-rt\[gpu\]'"),
    (Machine(), "cudnn", 256, torch.float32, r"bfloat16 or float16 on a CUDA device, got torch\.float32"),
    (Machine(A100), "cudnn", 256, BF16, "dim must be a multiple of 8 up to 128 on NVIDIA A100"),
    (Machine(T4), "cudnn", 64, FP16, "its attention needs capability 8.0 or newer, found Tesla T4"),
    (Machine(cudnn=False), "cudnn", 256, BF16, "has no cuDNN; install a CUDA build"),
    (Machine(), "cpu", 256, BF16, "on the CPU, got torch.bfloat16 on cuda:0"),
]


@pytest.mark.parametrize(("there", "backend", "dim", "dtype", "reason"), REFUSALS)
def test_a_backend_asked_for_says_why_it_cannot(
    machine: Machine, there: Machine, backend: str, dim: int, dtype: torch.dtype, reason: str
) -> None:
    machine.__dict__.update(there.__dict__)
    with pytest.raises(KernelUnavailable, match=reason):
        SELF_ATTENTION_DISPATCH.choose(backend, *attention(dim, dtype))


def test_other_kernels_of_a_gpu_are_tritons(machine: Machine) -> None:
    value, locations, weights = on_gpu(1, 20, 2, 8), on_gpu(1, 5, 2, 1, 4, 2), on_gpu(1, 5, 2, 1, 4)
    masks, classes = on_gpu(5, 4, 4), on_gpu(5, 3)
    calls = (
        (DEFORMABLE_ATTENTION_DISPATCH, (value, ((4, 5),), locations, weights)),
        (MASK_FUSION_DISPATCH, (classes, masks)),
        (ATTENTION_MASK_DISPATCH, (masks, (2, 2))),
    )
    assert [operation.choose("auto", *arguments).name for operation, arguments in calls] == ["triton"] * 3
    machine.gpu = T4
    assert [operation.choose("auto", *arguments).name for operation, arguments in calls] == ["torch"] * 3


def test_cudnn_gives_no_query_an_empty_result(machine: Machine) -> None:
    """Without asking cuDNN, which would refuse."""
    query, key, value = on_gpu(0, 64), on_gpu(9, 64), on_gpu(9, 64)
    ring, shift = on_gpu(2, 9, 64), on_gpu(2, 64)
    for out in (sdpa.self_attention(query, key, value), sdpa.slot_attention(query, ring, ring, shift)):
        assert (out.shape, out.device) == ((0, 64), query.device)


def test_kernels_on_cuda_says_what_it_uses_for_the_rest(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    masks, classes = on_gpu(5, 4, 4), on_gpu(5, 3)
    with caplog.at_level(logging.INFO, logger=dispatch.__name__), kernels_on("cuda"):
        assert SELF_ATTENTION_DISPATCH.choose("auto", *attention()).name == "cuda"
        assert MASK_FUSION_DISPATCH.choose("auto", classes, masks).name == "triton"
    (said,) = (record.message for record in caplog.records)
    assert said.startswith("mask_fusion runs on backend triton (not cuda: it has no such kernel; not cpu: ")


def test_kernels_on_cuda_refuses_what_its_kernel_cannot_serve(machine: Machine) -> None:
    with kernels_on("cuda"), pytest.raises(KernelUnavailable, match='backend "cuda" cannot be used'):
        SELF_ATTENTION_DISPATCH.choose("auto", *attention(dtype=torch.float32))


def test_kernels_on_an_unknown_backend_is_refused() -> None:
    wanted = 'no kernel backend "fast"; there are auto, cpu, cuda, triton, cudnn, torch'
    with pytest.raises(KernelUnavailable, match=wanted), kernels_on("fast"):
        pass


def test_every_reason_is_in_the_log(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.gpu = A100
    machine.triton = False
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        SELF_ATTENTION_DISPATCH.choose("auto", *attention(128))
    (said,) = (record.message for record in caplog.records)
    for backend in ("cpu: it takes", "cuda: it is compiled for", "triton: Triton is not", "cudnn: on NVIDIA A100"):
        assert f"not {backend}" in said


def test_triton_launches_on_the_tensors_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton takes whatever device is current."""
    made_current = []

    class Current:
        def __init__(self, device: torch.device) -> None:
            made_current.append(device)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "device", Current)
    double = triton.on_its_device(lambda tensor: tensor.dtype)
    with FakeTensorMode():
        assert double(torch.empty(3, device="cuda:1")) == torch.float32
    assert made_current == [torch.device("cuda:1")]
    assert double(torch.empty(3)) == torch.float32
    assert len(made_current) == 1
