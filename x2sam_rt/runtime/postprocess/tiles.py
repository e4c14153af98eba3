"""The way from the decoder's grid to the frame's pixels, cut into tiles.

X2SAM resizes every mask to S×S, crops the padding and resizes it to the frame, both bilinearly. Both steps are
linear and separable, so together they are one small matrix per tile and axis; and because every weight is positive
and they sum to one, a tile's values lie between the extremes of the few grid cells it depends on. Where these already
decide the outcome, as they do away from outlines, the tile is never computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.runtime.postprocess.rule import FrameLogits

_TILE_ROWS, _TILE_COLUMNS = 40, 80  # wished for; a frame gets the lengths nearest to them that divide it
_CHUNK = 1 << 18  # pixels computed at once: 1 MiB, which stays in the cache


@dataclass(frozen=True, eq=False)
class AxisTiles:
    """One axis: `size` output positions in tiles of `length`, the last of which may stick out.

    cells: (tiles, window) int64, the grid cells a tile depends on; weights: (tiles, length, window) fp32;
    inside: (tiles, length) bool, False beyond the frame.
    """

    size: int
    length: int
    cells: Tensor
    weights: Tensor
    inside: Tensor

    def __len__(self) -> int:
        return len(self.cells)

    def to(self, device: torch.device) -> AxisTiles:
        return AxisTiles(self.size, self.length, self.cells.to(device), self.weights.to(device), self.inside.to(device))


@dataclass(frozen=True, eq=False)
class TileGrid:
    """A frame's tiles, numbered row by row."""

    rows: AxisTiles
    columns: AxisTiles

    @classmethod
    def of(cls, frame: FrameLogits) -> TileGrid:
        return _tile_grid(
            tuple(frame.mask_logits.shape[-2:]),
            frame.side,
            frame.scaled_size,
            frame.original_size,
            frame.device,
        )

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def bounds(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(n, h, w) logits → the least and the greatest value each tile can take, both (n, tiles)."""
        low = logits[:, self.rows.cells].amin(2)[:, :, self.columns.cells].amin(3)
        high = logits[:, self.rows.cells].amax(2)[:, :, self.columns.cells].amax(3)
        return low.flatten(1), high.flatten(1)

    def values(self, logits: Tensor, mask: Tensor, tile: Tensor) -> Tensor:
        """Tile tile[i] of mask mask[i], for each i. logits: (n, h, w); mask, tile: (pairs,). Returns
        (pairs, tile rows, tile columns) logits in the frame's pixels."""
        row, column = self.split(tile)
        cells = logits[mask[:, None, None], self.rows.cells[row][:, :, None], self.columns.cells[column][:, None]]
        return self.rows.weights[row] @ cells @ self.columns.weights[column].transpose(1, 2)

    def every_value(self, logits: Tensor, tile: Tensor) -> Tensor:
        """These tiles of every mask. logits: (n, h, w); tile: (tiles,). Returns (n, tiles, tile rows, tile columns)."""
        row, column = self.split(tile)
        cells = logits[:, self.rows.cells[row][:, :, None], self.columns.cells[column][:, None]]
        return self.rows.weights[row] @ cells @ self.columns.weights[column].transpose(1, 2)

    def inside(self, tile: Tensor) -> Tensor:
        """(tiles, tile rows, tile columns) bool: which pixels of these tiles belong to the frame."""
        row, column = self.split(tile)
        return self.rows.inside[row][:, :, None] & self.columns.inside[column][:, None]

    def split(self, tile: Tensor) -> tuple[Tensor, Tensor]:
        return tile // len(self.columns), tile % len(self.columns)

    def canvas(self, fill: Tensor) -> Tensor:
        """(n, rows, tile rows, columns, tile columns), each tile filled with its value of `fill`, (n, tiles)."""
        shape = (len(self.rows), self.rows.length, len(self.columns), self.columns.length)
        canvas = fill.new_empty((len(fill), *shape))
        canvas[:] = fill.view(len(fill), len(self.rows), 1, len(self.columns), 1)
        return canvas

    def blank(self, count: int) -> Tensor:
        """A canvas of `count` empty masks."""
        shape = (count, len(self.rows), self.rows.length, len(self.columns), self.columns.length)
        if self.rows.cells.is_cuda:
            return torch.zeros(shape, dtype=torch.bool, device=self.rows.cells.device)
        # NumPy leaves the zeros to the operating system: pages no mask touches cost nothing.
        return torch.from_numpy(np.zeros(shape, dtype=np.bool_))

    def paint(self, canvas: Tensor, mask: Tensor, tile: Tensor, pixels: Tensor | bool) -> None:
        """Puts tiles, (pairs, tile rows, tile columns) or one value for all, where they belong on a canvas."""
        row, column = self.split(tile)
        canvas[mask, row, :, column] = pixels

    def frame(self, canvas: Tensor) -> Tensor:
        """(n, H, W) of a canvas."""
        flat = canvas.flatten(3, 4).flatten(1, 2)
        return flat[:, : self.rows.size, : self.columns.size].contiguous()

    def joined(self, tiles: Tensor) -> Tensor:
        """(n, all tiles, tile rows, tile columns) → (n, H, W)."""
        shape = (len(self.rows), len(self.columns), self.rows.length, self.columns.length)
        return self.frame(tiles.reshape(len(tiles), *shape).transpose(2, 3))

    def cut(self, maps: Tensor) -> Tensor:
        """(n, H, W) → (n, all tiles, tile rows, tile columns), zero beyond the frame: what `joined` puts together."""
        shape = (len(self.rows), self.rows.length, len(self.columns), self.columns.length)
        padded = F.pad(maps, (0, shape[2] * shape[3] - self.columns.size, 0, shape[0] * shape[1] - self.rows.size))
        return padded.view(len(maps), *shape).transpose(2, 3).flatten(1, 2)

    def chunks(self, count: int, masks_each: int = 1, pixels: int = _CHUNK) -> Iterator[slice]:
        """Slices of `count` tiles, each small enough to be computed at once for `masks_each` masks."""
        step = max(1, pixels // (self.rows.length * self.columns.length * masks_each))
        for start in range(0, count, step):
            yield slice(start, min(start + step, count))


@lru_cache(maxsize=8)
def _tile_grid(
    grid: tuple[int, int], side: int, scaled: tuple[int, int], original: tuple[int, int], device: torch.device
) -> TileGrid:
    with torch.device("cpu"):
        rows = _axis_tiles(grid[0], side, scaled[0], original[0], _TILE_ROWS)
        columns = _axis_tiles(grid[1], side, scaled[1], original[1], _TILE_COLUMNS)
    return TileGrid(rows.to(device), columns.to(device))


def _axis_tiles(grid: int, side: int, scaled: int, original: int, wished: int) -> AxisTiles:
    weights = _bilinear(scaled, original) @ _bilinear(grid, side)[:scaled]
    length = _tile_length(original, wished)
    tiles = -(-original // length)
    # A tile that sticks out repeats the last position, so that its bounds stay tight.
    positions = torch.arange(tiles * length).view(tiles, length)
    per_tile = weights[positions.clamp_max(original - 1)]  # (tiles, length, grid)
    used = per_tile.amax(1) > 0
    first = used.int().argmax(1)
    last = grid - 1 - used.flip(1).int().argmax(1)
    window = int((last - first).max()) + 1
    cells = first.clamp_max(grid - window)[:, None] + torch.arange(window)
    windows = per_tile.gather(2, cells[:, None].expand(-1, length, -1))
    return AxisTiles(original, length, cells, windows.float(), positions < original)


def _tile_length(size: int, wished: int) -> int:
    """A length near the wished one, if possible one that divides the axis, so that no tile sticks out."""
    near = sorted(range(wished // 2, wished * 3 // 2 + 1), key=lambda length: abs(length - wished))
    fitting = [length for length in near if size % length == 0]
    return fitting[0] if fitting else -(-size // (-(-size // wished)))


def _bilinear(size: int, target: int) -> Tensor:
    """(target, size) fp64: the matrix of `F.interpolate(mode="bilinear", align_corners=False)` on one axis."""
    # Positions in fp32, as PyTorch computes them: on long axes the rounding moves weights by more than 1e-5.
    step = torch.tensor(size / target, dtype=torch.float32)
    source = (step * (torch.arange(target, dtype=torch.float32) + 0.5) - 0.5).clamp_min(0)
    lower = source.long().clamp_max(size - 1)
    upper = (lower + 1).clamp_max(size - 1)
    share = (source - lower).clamp(0, 1).double()
    matrix = torch.zeros(target, size, dtype=torch.float64)
    matrix.scatter_add_(1, lower[:, None], (1 - share)[:, None])
    matrix.scatter_add_(1, upper[:, None], share[:, None])
    return matrix
