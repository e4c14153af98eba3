"""The way from the decoder's grid to the frame, against PyTorch's own resizing."""

import pytest
import torch
import torch.nn.functional as F

from x2sam_rt.runtime.postprocess.masks import binary_masks, confident_masks
from x2sam_rt.runtime.postprocess.rule import FrameLogits, Size
from x2sam_rt.runtime.postprocess.tiles import TileGrid

SIZES = pytest.mark.parametrize(
    ("grid", "side", "scaled", "original"),
    [
        ((16, 16), 64, (64, 64), (97, 131)),
        ((64, 64), 64, (48, 64), (90, 120)),
        ((16, 16), 64, (36, 64), (239, 401)),
        ((16, 16), 64, (64, 10), (7, 3)),
        ((32, 32), 128, (128, 128), (33, 300)),
        ((1, 1), 4, (4, 4), (5, 6)),
    ],
    ids=["stretched", "already full, padded", "prime sides", "smaller than the grid", "very wide", "one cell"],
)


def frame_of(grid: Size, side: int, scaled: Size, original: Size) -> FrameLogits:
    generator = torch.Generator().manual_seed(3)
    return FrameLogits(4 * torch.randn(3, *grid, generator=generator), torch.zeros(3, 2), side, scaled, original)


def resized(frame: FrameLogits) -> torch.Tensor:
    square = F.interpolate(frame.mask_logits[None], size=(frame.side, frame.side), mode="bilinear")
    cropped = square[:, :, : frame.scaled_size[0], : frame.scaled_size[1]]
    return F.interpolate(cropped, size=frame.original_size, mode="bilinear")[0]


@SIZES
def test_tiles_are_the_resized_masks(grid: Size, side: int, scaled: Size, original: Size) -> None:
    frame = frame_of(grid, side, scaled, original)
    tiles = TileGrid.of(frame)
    mask = torch.arange(3).repeat_interleave(len(tiles))
    tile = torch.arange(len(tiles)).repeat(3)
    canvas = tiles.canvas(torch.zeros(3, len(tiles)))
    values = tiles.values(frame.mask_logits, mask, tile)
    tiles.paint(canvas, mask, tile, values)
    torch.testing.assert_close(tiles.frame(canvas), resized(frame), rtol=0, atol=2e-4)
    low, high = tiles.bounds(frame.mask_logits)
    assert (values.flatten(1).amin(1) >= low[mask, tile] - 1e-5).all()
    assert (values.flatten(1).amax(1) <= high[mask, tile] + 1e-5).all()
    assert tiles.inside(torch.arange(len(tiles))).sum() == original[0] * original[1]


@SIZES
@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_binary_masks(grid: Size, side: int, scaled: Size, original: Size, threshold: float) -> None:
    frame = frame_of(grid, side, scaled, original)
    found = binary_masks(TileGrid.of(frame), frame.mask_logits, threshold)
    wanted = resized(frame).sigmoid() - threshold
    clear = (wanted.abs() > 1e-4).numpy()
    assert (found == (wanted > 0).numpy())[clear].all()


@SIZES
def test_confidence_is_the_mean_inside(grid: Size, side: int, scaled: Size, original: Size) -> None:
    frame = frame_of(grid, side, scaled, original)
    frame.mask_logits[1] = -3
    masks, confidence = confident_masks(TileGrid.of(frame), frame.mask_logits)
    logits = resized(frame)
    wanted = [float(m.sigmoid()[m > 0].mean()) if (m > 0).any() else 0.0 for m in logits]
    assert confidence.tolist() == pytest.approx(wanted, abs=1e-4)
    clear = (logits.abs() > 1e-3).numpy()
    assert (masks == (logits > 0).numpy())[clear].all()
    assert not masks[1].any()


def test_chunks_cover_everything_once() -> None:
    tiles = TileGrid.of(frame_of((16, 16), 64, (64, 64), (97, 131)))
    parts = list(tiles.chunks(1201, masks_each=7))
    assert len(parts) > 1
    assert [i for part in parts for i in range(1201)[part]] == list(range(1201))
