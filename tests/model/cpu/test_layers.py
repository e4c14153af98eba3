"""Packed products and convolutions against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from x2sam_rt.model.cpu import layers
from x2sam_rt.model.cpu.layers import Activation, Convolution3x3, PackedLinear


@pytest.fixture(params=["onednn", "without onednn"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "onednn":
        monkeypatch.setattr(layers, "_has_onednn", lambda dtype: False)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shape", [(1, 1), (7, 13), (2, 5, 600, 13)], ids=["one", "rows", "maps"])
def test_packed_linear(shape: tuple[int, ...], bias: bool, activation: Activation) -> None:
    torch.manual_seed(0)
    plain, rows = nn.Linear(shape[-1], 5, bias=bias), torch.randn(shape)
    wanted = {"none": lambda x: x, "relu": F.relu, "gelu": F.gelu}[activation](plain(rows).detach())
    with torch.inference_mode():
        torch.testing.assert_close(
            PackedLinear.of(plain, torch.float32, activation)(rows), wanted, rtol=2e-6, atol=2e-6
        )
        narrow = PackedLinear.of(plain, torch.bfloat16, activation)(rows)
    assert narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (8, 3)])
def test_convolution(size: tuple[int, int], stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_CHUNK_ROWS", 5)  # several chunks, the last one shorter
    torch.manual_seed(0)
    plain, maps = nn.Conv2d(3, 4, 3, stride=stride, padding=1), torch.randn(*size, 3)
    wanted = plain(maps.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    with torch.inference_mode():
        out = Convolution3x3(plain, torch.float32)(maps)
    torch.testing.assert_close(out, wanted, rtol=2e-6, atol=2e-6)
