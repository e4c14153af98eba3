"""Panoptic segmentation: every pixel goes to one query, and segments that lose too much of themselves are dropped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from x2sam_rt.runtime.postprocess.instance_tracker import InstanceTracker, Overlaps
from x2sam_rt.runtime.postprocess.masks import resize_nearest
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor
from x2sam_rt.runtime.postprocess.state import RuleState
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import Segment, Segmentation
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import Conditions

EMPTY = 0
IndexMap = npt.NDArray[np.int32]


class PanopticPostProcessor(PostProcessor):
    """X2SAM's panoptic rule. Segments come in the order of their queries; score = class probability.

    Stuff segments of one category share an id; things keep the id of the segment they overlapped in the last frame.
    """

    def __init__(self, conditions: Conditions, options: PostProcessOptions) -> None:
        self._conditions = conditions
        self._options = options
        self._ids = InstanceTracker(first=1, restart=options.restart_ids)
        self._history = _MapHistory()

    def __call__(self, frame: FrameLogits) -> Segmentation:
        scores, labels = frame.probabilities(len(self._conditions)).max(-1)
        kept = (scores > self._options.least_score).nonzero().flatten()
        grid = TileGrid.of(frame)
        arena = _Arena(grid, frame.mask_logits[kept], scores[kept], self._options.mask_threshold)
        owner, own_areas = arena.settle()
        areas = torch.bincount(owner.flatten(), minlength=len(kept))[: len(kept)]
        survives = (areas > 0) & (own_areas > 0) & (areas > self._options.overlap * own_areas)
        survivors = survives.nonzero().flatten()
        return self._collect(_renumbered(owner, survivors), labels[kept][survivors], scores[kept][survivors])

    def state(self) -> RuleState:
        return RuleState(self._ids.state(), self._history.state())

    def restore(self, state: RuleState, logits: torch.Size) -> None:
        numbering = state.numbering()
        self._ids.restore(numbering)
        self._history.restore(state.segment_map(), len(numbering.ids))

    def _collect(self, segment_map: IndexMap, labels: Tensor, scores: Tensor) -> Segmentation:
        """segment_map: (H, W), the number of the segment in `labels` and `scores`, −1 where there is none."""
        label_ids = labels.tolist()
        is_thing = [self._conditions.is_thing[label] for label in label_ids]
        ids = self._ids.assign(label_ids, is_thing, self._history.overlaps(segment_map, len(label_ids)))
        # One large array: small ones are given back to the system and taken anew, page by page, in every frame.
        masks = np.equal(segment_map, np.arange(len(ids), dtype=np.int32)[:, None, None])
        segments = tuple(
            Segment(masks[k], self._conditions.labels[label], label, score, ids[k], is_thing[k])
            for k, (label, score) in enumerate(zip(label_ids, scores.tolist(), strict=True))
        )
        id_of = np.array([*ids, EMPTY], dtype=np.int32)  # index −1 is the last
        return Segmentation(segments, id_of[segment_map], EMPTY)


class _Arena:
    """The competition of n queries for every pixel, by probability · sigmoid(mask).

    A tile where one query's least value beats every other's greatest is won without being computed.
    """

    def __init__(self, grid: TileGrid, logits: Tensor, scores: Tensor, threshold: float) -> None:
        self._grid, self._logits, self._scores, self._threshold = grid, logits, scores, threshold

    def settle(self) -> tuple[Tensor, Tensor]:
        """The winner of each pixel, (H, W) int32, and each query's own area, (n,): its pixels of at least the
        threshold, whoever wins them."""
        if not len(self._logits):
            return self._unowned(), torch.zeros(0, dtype=torch.int64, device=self._logits.device)
        low, high = (bound.sigmoid() * self._scores[:, None] for bound in self._grid.bounds(self._logits))
        rivals = high >= low.amax(0)
        partial = (low < self._threshold) & (high >= self._threshold)
        areas = self._whole_tiles(low >= self._threshold)
        canvas = self._grid.canvas(rivals.int().argmax(0)[None].int())
        work = (rivals.sum(0) > 1) | partial.any(0)
        for tiles, members in _by_count((rivals | partial) & work):
            for part in self._grid.chunks(len(tiles), members.shape[1]):
                tile, member = tiles[part], members[part]
                values = self._values(tile, member)
                first = values.max(1).indices  # several times faster than argmax on a CPU
                winner = member.gather(1, first.flatten(1)).view(first.shape)
                self._grid.paint(canvas, torch.zeros_like(tile), tile, winner.int())
                counts = self._count(values, tile) * partial[member, tile[:, None]]
                areas.index_add_(0, member.flatten(), counts.flatten())
        return self._grid.frame(canvas)[0], areas

    def _unowned(self) -> Tensor:
        size = (self._grid.rows.size, self._grid.columns.size)
        return torch.zeros(size, dtype=torch.int32, device=self._logits.device)

    def _whole_tiles(self, whole: Tensor) -> Tensor:
        pixels = self._grid.rows.inside.sum(1)[:, None] * self._grid.columns.inside.sum(1)[None]
        return (whole * pixels.flatten()).sum(1)

    def _values(self, tile: Tensor, member: Tensor) -> Tensor:
        """tile: (t,); member: (t, k), the queries wanted in each. Returns (t, k, tile rows, tile columns)."""
        count = member.shape[1]
        values = self._grid.values(self._logits, member.flatten(), tile.repeat_interleave(count))
        values.sigmoid_().mul_(self._scores[member.flatten()][:, None, None])
        return values.view(len(tile), count, *values.shape[1:])

    def _count(self, values: Tensor, tile: Tensor) -> Tensor:
        inside = (values >= self._threshold) & self._grid.inside(tile)[:, None]
        return inside.flatten(2).count_nonzero(2)


def _by_count(wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Tiles with equally many queries, together. wanted: (n, tiles) bool. Yields tile numbers (t,) and the queries
    wanted in each (t, k), ascending."""
    counts = wanted.sum(0)
    for count in sorted(set(counts.tolist())):
        if count:
            tiles = (counts == count).nonzero().flatten()
            yield tiles, wanted[:, tiles].T.nonzero()[:, 1].view(len(tiles), count)


def _renumbered(owner: Tensor, survivors: Tensor) -> IndexMap:
    """The owner map with survivor number k in place of query survivors[k], −1 in place of all others."""
    size = int(owner.max()) + 1 if owner.numel() else 1
    number = np.full(max(size, int(survivors.max()) + 1 if len(survivors) else 1), -1, dtype=np.int32)
    number[survivors.cpu().numpy()] = np.arange(len(survivors), dtype=np.int32)
    renumbered: IndexMap = number[owner.cpu().numpy()]
    return renumbered


class _MapHistory:
    """The segment map of the frame before."""

    def __init__(self) -> None:
        self._map: IndexMap | None = None
        self._count = 0

    def overlaps(self, segment_map: IndexMap, count: int) -> Overlaps:
        """IoU of `count` segments with those of the call before; both maps hold −1 where there is none."""
        before, count_before = self._map, self._count
        self._map, self._count = segment_map, count
        if before is None:
            return np.zeros((count, 0))
        if before.shape != segment_map.shape:
            before = resize_nearest(torch.from_numpy(before), segment_map.shape).numpy()
        pairs = (segment_map + 1) * np.int32(count_before + 1) + (before + 1)
        table = np.bincount(pairs.ravel(), minlength=(count + 1) * (count_before + 1))
        table = table.reshape(count + 1, count_before + 1).astype(np.float64)
        union = table.sum(1, keepdims=True) + table.sum(0, keepdims=True) - table
        iou: Overlaps = table / np.maximum(union, 1)
        return iou[1:, 1:]

    def state(self) -> tuple[Tensor, ...]:
        return () if self._map is None else (torch.from_numpy(self._map),)

    def restore(self, segment_map: Tensor | None, count: int) -> None:
        self._map, self._count = None if segment_map is None else segment_map.numpy(), count
