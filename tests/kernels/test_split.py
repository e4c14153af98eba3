"""How attention is split and merged, on plain torch."""

from __future__ import annotations

import pytest
import torch

from x2sam_rt.errors import KernelUnavailable
from x2sam_rt.kernels import reference, sdpa
from x2sam_rt.kernels.split import MAX_PARTS, merge_parts, split_count


@pytest.mark.parametrize(
    ("tiles", "segments", "parts"),
    [
        pytest.param(1, 1, 1, id="nothing-to-split"),
        pytest.param(32, 8, 4, id="4096-queries-eight-slots"),
        pytest.param(32, 5, 3, id="4096-queries-five-slots"),
        pytest.param(128, 8, 1, id="16384-queries-fill-the-chip"),
        pytest.param(512, 820, 1, id="65536-queries-fill-the-chip"),
        pytest.param(1, 820, MAX_PARTS, id="one-tile-many-blocks"),
    ],
)
def test_split_count_on_132_processors(tiles: int, segments: int, parts: int) -> None:
    assert split_count(tiles, segments, processors=132) == parts


@pytest.mark.parametrize("segments", range(1, 40))
def test_no_part_is_empty(segments: int) -> None:
    for tiles in (1, 7, 32, 200):
        parts = split_count(tiles, segments, processors=132)
        assert (parts - 1) * -(-segments // parts) < segments


def test_merged_slots_equal_one_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value, shift = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((11, 32), (3, 7, 32), (3, 7, 32), (3, 32))
    )
    scores = torch.einsum("td,skd->stk", query, key) / 32**0.5
    bias = (query @ shift.T).T / 32**0.5
    merged = merge_parts(scores.softmax(-1) @ value, scores.logsumexp(-1) + bias)
    torch.testing.assert_close(merged, reference.slot_attention(query, key, value, shift))


def test_cudnn_is_never_replaced_in_silence() -> None:
    tensor = torch.zeros(4, 64)
    with pytest.raises(KernelUnavailable, match="needs CUDA tensors, got cpu"):
        sdpa.self_attention(tensor, tensor, tensor)
