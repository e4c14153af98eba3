"""The rules on a GPU. What is measured there has shapes that depend on no value, so that the host waits for nothing;
one transfer of small numbers then brings what it decides by. Masks and maps are drawn when somebody asks for them.

The CPU's rules leave out tiles whose outcome is known beforehand; here every tile is computed, some megapixels at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.runtime.postprocess.instance_tracker import InstanceTracker, Overlaps, mask_ious
from x2sam_rt.runtime.postprocess.masks import logit_cut, resize_nearest
from x2sam_rt.runtime.postprocess.panoptic import EMPTY as UNOWNED
from x2sam_rt.runtime.postprocess.phrases import chosen_queries, phrase_id
from x2sam_rt.runtime.postprocess.prompted import ACCEPTED, EMPTY, OBJECT, REMEMBERED, combined_score, likely
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor, Size, one_mask
from x2sam_rt.runtime.postprocess.state import RuleState, numbered
from x2sam_rt.runtime.postprocess.tiles import TileGrid
from x2sam_rt.runtime.results import OnDevice, Segment, Segmentation
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import Conditions, Rule

Numbers = npt.NDArray[np.float64]
_AT_ONCE = 1 << 24  # pixels: 64 MiB, and counts of them are exact in fp32


def on_device(
    rule: Rule, conditions: Conditions, options: PostProcessOptions, prompt_masks: Tensor | None
) -> PostProcessor:
    """As `make_postprocessor`, for frames on a GPU."""
    match rule:
        case "panoptic":
            return PanopticOnDevice(conditions, options)
        case "semantic":
            return SemanticOnDevice(conditions)
        case "instance":
            return InstanceOnDevice(conditions, options, empty=-1)
        case "grounded":
            return InstanceOnDevice(conditions, options, empty=255)
        case "phrases":
            return PhrasesOnDevice(conditions, options)
        case "interactive":
            return InteractiveOnDevice(conditions, options, one_mask(prompt_masks))
        case "object":
            return ObjectOnDevice(conditions, options, one_mask(prompt_masks))


def to_host(*tensors: Tensor) -> list[Numbers]:
    """Small tensors in one transfer, each in its shape. Whole numbers below 2^53 stay exact.

    Raises EngineError for NaN, which a frame's scores are when anything in it was."""
    packed = torch.cat([tensor.flatten().double() for tensor in tensors]).cpu().numpy()
    if np.isnan(packed).any():
        raise EngineError("A frame's results hold NaN. Check the engines with `x2sam-rt verify`.")
    ends = np.cumsum([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(np.split(packed, ends[:-1]), tensors, strict=True)]


def tiles_of(grid: TileGrid, masks: int) -> Iterator[Tensor]:
    """All tiles' numbers, as many together as can be computed at once for so many masks."""
    for part in grid.chunks(len(grid), max(1, masks), _AT_ONCE):
        yield torch.arange(part.start, part.stop, device=grid.rows.cells.device)


def draw_masks(grid: TileGrid, logits: Tensor, cut: float) -> Tensor:
    """logits: (n, h, w). Returns (n, H, W) bool, True above the cut."""
    return grid.joined(torch.cat([grid.every_value(logits, tile) > cut for tile in tiles_of(grid, len(logits))], 1))


@dataclass(frozen=True, eq=False)
class Measured:
    """Of n masks. confidence: the mean sigmoid where the logit is above 0, or 0 where it never is. inside: pixels where
    it is. area: pixels above the cut, both (n,). common: (n, references) pixels inside that a reference has too."""

    confidence: Tensor
    inside: Tensor
    area: Tensor
    common: Tensor


def measure(grid: TileGrid, logits: Tensor, cut: float = 0.0, references: Tensor | None = None) -> Measured:
    """logits: (n, h, w). references: (r, H, W) bool; None = none."""
    count, device = len(logits), logits.device
    sums, inside_area, area = (torch.zeros(count, dtype=torch.float64, device=device) for _ in range(3))
    if references is None:
        references = torch.zeros((0, grid.rows.size, grid.columns.size), dtype=torch.bool, device=device)
    tiled = grid.cut(references).float()
    common = torch.zeros((count, len(references)), dtype=torch.float64, device=device)
    for tile in tiles_of(grid, count):
        values, real = grid.every_value(logits, tile), grid.inside(tile)
        inside = (values > 0) & real
        inside_area += inside.flatten(1).count_nonzero(1)
        area += ((values > cut) & real).flatten(1).count_nonzero(1)
        common += inside.flatten(1).float() @ tiled[:, tile].flatten(1).T
        sums += (values.sigmoid_() * inside).flatten(1).sum(1, dtype=torch.float64)
    return Measured((sums / inside_area.clamp_min(1)).float(), inside_area, area, common)


def rows_of(tensor: Tensor, numbers: Sequence[int]) -> Tensor:
    """A copy of these rows. An index tensor would have to go up first."""
    return torch.stack([tensor[number] for number in numbers]) if numbers else tensor[:0]


def counted(numbers: Tensor, size: int) -> Tensor:
    """(size,) int64: how often each number occurs; unlike `bincount` nobody waits for the largest."""
    flat = numbers.flatten().long()
    return torch.zeros(size, dtype=torch.int64, device=flat.device).scatter_add_(0, flat, torch.ones_like(flat))


def painted(
    draws: Sequence[Callable[[], Tensor]], ids: Sequence[int], size: Size, empty: int, device: torch.device
) -> Tensor:
    """(H, W) int32: the ids over each other, the last on top."""
    canvas = torch.full(size, empty, dtype=torch.int32, device=device)
    for draw, one in zip(draws, ids, strict=True):
        canvas.masked_fill_(draw(), one)
    return canvas


def map_of(segments: Sequence[Segment], size: Size, empty: int, device: torch.device) -> OnDevice:
    """The segments' map, later ones over earlier ones."""
    drawn = [segment.drawn for segment in segments]
    draws = [one.draw for one in drawn if isinstance(one, OnDevice)]
    return OnDevice(partial(painted, draws, [segment.id for segment in segments], size, empty, device), size)


def mask_of(grid: TileGrid, logits: Tensor, cut: float, area: float) -> OnDevice:
    """One mask. logits: (h, w), a tensor of its own: the pipeline's is overwritten by the next frame."""
    return OnDevice(lambda: draw_masks(grid, logits[None], cut)[0], (grid.rows.size, grid.columns.size), int(area))


class InstanceOnDevice(PostProcessor):
    """As `InstancePostProcessor`."""

    def __init__(self, conditions: Conditions, options: PostProcessOptions, empty: int) -> None:
        self._conditions, self._options, self._empty = conditions, options, empty
        self._ids = InstanceTracker(first=0, reserved=empty)
        self._last: Tensor | None = None

    def __call__(self, frame: FrameLogits) -> Segmentation:
        grid, logits = TileGrid.of(frame), frame.mask_logits
        measured = measure(grid, logits)
        top, pair = frame.probabilities(len(self._conditions)).flatten().topk(len(logits), sorted=False)
        ious = mask_ious(logits > 0, logits[:0] > 0 if self._last is None else self._last)
        probability, pairs, confidence, area, overlaps = to_host(top, pair, measured.confidence, measured.area, ious)
        found = self._found(probability, pairs.astype(np.int64), confidence)
        kept = rows_of(logits, [query for query, _, _ in found])
        self._last = kept > 0
        ids = self._ids.assign(
            [label for _, label, _ in found], [True] * len(found), overlaps[[query for query, _, _ in found]]
        )
        segments = tuple(
            Segment(mask_of(grid, kept[k], 0.0, area[query]), self._conditions.labels[label], label, score, ids[k])
            for k, (query, label, score) in enumerate(found)
        )
        return Segmentation(
            segments, map_of(segments[::-1], frame.original_size, self._empty, frame.device), self._empty
        )

    def state(self) -> RuleState:
        return RuleState(self._ids.state(), () if self._last is None else (self._last,))

    def restore(self, state: RuleState, logits: torch.Size) -> None:
        self._ids.restore(state.numbering())
        self._last = state.grid_masks((logits[1], logits[2]))

    def _found(
        self, probability: Numbers, pairs: npt.NDArray[np.int64], confidence: Numbers
    ) -> list[tuple[int, int, float]]:
        """(query, label, score) by descending score."""
        found = []
        for place in np.argsort(pairs // len(self._conditions), kind="stable"):
            query, label = divmod(int(pairs[place]), len(self._conditions))
            score = float(probability[place] * confidence[query])
            if self._conditions.is_thing[label] and confidence[query] > 0 and score >= self._options.least_score:
                found.append((query, label, score))
        return sorted(found, key=lambda one: -one[2])


class PanopticOnDevice(PostProcessor):
    """As `PanopticPostProcessor`."""

    def __init__(self, conditions: Conditions, options: PostProcessOptions) -> None:
        self._conditions, self._options = conditions, options
        self._ids = InstanceTracker(first=1, restart=options.restart_ids)
        self._last: tuple[Tensor, list[int]] | None = None  # each pixel's query, and the queries of the segments

    def __call__(self, frame: FrameLogits) -> Segmentation:
        scores, labels = frame.probabilities(len(self._conditions)).max(-1)
        kept = scores > self._options.least_score
        owner, own = self._settle(TileGrid.of(frame), frame.mask_logits, scores, kept)
        areas = counted(owner, len(scores))
        survives = kept & (areas > 0) & (own > 0) & (areas > self._options.overlap * own)
        numbers = to_host(survives, areas, labels, scores, self._common(owner, len(scores)))
        return self._collect(owner, *numbers)

    def state(self) -> RuleState:
        return RuleState(self._ids.state(), () if self._last is None else (numbered(*self._last),))

    def restore(self, state: RuleState, logits: torch.Size) -> None:
        self._ids.restore(state.numbering())
        self._last = state.owners(logits[0])

    def _settle(self, grid: TileGrid, logits: Tensor, scores: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """The query that wins each pixel, (H, W) int32, and each query's own area, whoever wins it."""
        own = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
        winners = []
        for tile in tiles_of(grid, len(scores)):
            values = grid.every_value(logits, tile).sigmoid_().mul_(scores[:, None, None, None])
            enough = (values >= self._options.mask_threshold) & grid.inside(tile)
            own += enough.flatten(1).count_nonzero(1)
            winners.append(values.masked_fill_(~kept[:, None, None, None], -1).max(0).indices.int())
        return grid.joined(torch.cat(winners)[None])[0], own

    def _common(self, owner: Tensor, queries: int) -> Tensor:
        """(queries, queries before): pixels that one has now and the other had in the frame before."""
        if self._last is None:
            return owner.new_zeros((queries, 0))
        before = self._last[0]
        before = before if before.shape == owner.shape else resize_nearest(before, (owner.shape[0], owner.shape[1]))
        return counted(owner.long() * queries + before, queries * queries).view(queries, queries)

    def _collect(
        self, owner: Tensor, survives: Numbers, areas: Numbers, labels: Numbers, scores: Numbers, common: Numbers
    ) -> Segmentation:
        queries = np.flatnonzero(survives).tolist()
        label_ids = [int(labels[query]) for query in queries]
        is_thing = [self._conditions.is_thing[label] for label in label_ids]
        ids = self._ids.assign(label_ids, is_thing, self._overlaps(common, queries))
        self._last = owner, queries
        height, width = owner.shape
        segments = tuple(
            Segment(
                OnDevice(partial(torch.eq, owner, query), (height, width), int(areas[query])),
                *(self._conditions.labels[label], label, float(scores[query]), ids[k], is_thing[k]),
            )
            for k, (query, label) in enumerate(zip(queries, label_ids, strict=True))
        )
        return Segmentation(segments, map_of(segments, (height, width), UNOWNED, owner.device), UNOWNED)

    def _overlaps(self, common: Numbers, queries: list[int]) -> Overlaps:
        if self._last is None:
            return np.zeros((len(queries), 0))
        before = self._last[1]
        shared = common[np.ix_(queries, before)]
        union = common.sum(1)[queries][:, None] + common.sum(0)[before][None] - shared
        iou: Overlaps = shared / np.maximum(union, 1)
        return iou


class SemanticOnDevice(PostProcessor):
    """As `SemanticPostProcessor`."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions

    def __call__(self, frame: FrameLogits) -> Segmentation:
        probabilities, grid = frame.probabilities(len(self._conditions)), TileGrid.of(frame)
        categories = self._categories(grid, frame.mask_logits, probabilities)
        areas, scores = to_host(counted(categories, len(self._conditions)), probabilities.amax(0))
        segments = tuple(
            Segment(
                OnDevice(partial(torch.eq, categories, index), frame.original_size, int(areas[index])),
                *(self._conditions.labels[index], index, float(scores[index]), index, self._conditions.is_thing[index]),
            )
            for index in np.flatnonzero(areas).tolist()
        )
        return Segmentation(segments, OnDevice(lambda: categories, frame.original_size), empty=-1)

    def _categories(self, grid: TileGrid, logits: Tensor, probabilities: Tensor) -> Tensor:
        """(H, W) int32."""
        winners = []
        for tile in tiles_of(grid, sum(probabilities.shape)):
            inside = grid.every_value(logits, tile).sigmoid_()
            winner = (probabilities.T @ inside.flatten(1)).max(0).indices
            winners.append(winner.view(inside.shape[1:]).int())
        return grid.joined(torch.cat(winners)[None])[0]


class PhrasesOnDevice(PostProcessor):
    """As `PhrasePostProcessor`."""

    def __init__(self, conditions: Conditions, options: PostProcessOptions) -> None:
        self._conditions, self._options = conditions, options
        self._cut = logit_cut(options.mask_threshold)

    def __call__(self, frame: FrameLogits) -> Segmentation:
        probability = frame.probabilities(len(self._conditions))
        chosen = chosen_queries(probability, self._options.together)
        masks, area = self._best(frame, probability) if self._options.together is None else self._all(frame, chosen)
        scores, areas = to_host((probability * chosen).sum(0) / chosen.sum(0), area)
        segments = tuple(
            Segment(OnDevice(draw, frame.original_size, int(areas[k])), label, k, float(scores[k]), phrase_id(k))
            for k, (label, draw) in enumerate(zip(self._conditions.labels, masks, strict=True))
            if scores[k] >= self._options.least_score and areas[k]
        )
        return Segmentation(segments, map_of(segments, frame.original_size, EMPTY, frame.device), EMPTY)

    def _best(self, frame: FrameLogits, probability: Tensor) -> tuple[list[Callable[[], Tensor]], Tensor]:
        """What draws each phrase's mask, and the masks' areas."""
        grid, logits = TileGrid.of(frame), frame.mask_logits[probability.argmax(0)]
        masks = [mask_of(grid, one, self._cut, 0) for one in logits]
        return [mask.draw for mask in masks], measure(grid, logits, self._cut).area

    def _all(self, frame: FrameLogits, chosen: Tensor) -> tuple[list[Callable[[], Tensor]], Tensor]:
        """As `_best`, of all chosen queries' masks together."""
        grid, parts = TileGrid.of(frame), []
        for tile in tiles_of(grid, sum(chosen.shape)):
            inside = grid.every_value(frame.mask_logits, tile) > self._cut
            covered = chosen.T.float() @ inside.flatten(1).float() > 0
            parts.append(covered.view(len(covered), *inside.shape[1:]))
        masks = grid.joined(torch.cat(parts, 1))
        return [partial(torch.clone, mask) for mask in masks], masks.flatten(1).count_nonzero(1)


def at_frame_size(prompt: Tensor, frame: FrameLogits) -> Tensor:
    """`prompt_at_frame_size`, on the device."""
    height, width = frame.scaled_size
    return resize_nearest(prompt[:height, :width], frame.original_size)


class InteractiveOnDevice(PostProcessor):
    """As `InteractivePostProcessor`."""

    def __init__(self, conditions: Conditions, options: PostProcessOptions, prompt: Tensor) -> None:
        self._conditions, self._options, self._prompt = conditions, options, prompt

    def __call__(self, frame: FrameLogits) -> Segmentation:
        grid, logits = TileGrid.of(frame), frame.mask_logits
        prompt = at_frame_size(self._prompt, frame)
        measured = measure(grid, logits, references=prompt[None])
        probability = frame.wanted_probability(self._conditions)
        iou = measured.common[:, 0] / (measured.inside + prompt.count_nonzero() - measured.common[:, 0]).clamp_min(1)
        scores, ious, area = to_host(probability.double() * measured.confidence.double(), iou, measured.area)
        good = np.flatnonzero(scores >= self._options.least_score)
        best = int(good[ious[good].argmax()]) if good.size else int(scores.argmax())
        mask = mask_of(grid, logits[best].clone(), 0.0, area[best])
        label = self._conditions.labels[0]
        segments = (Segment(mask, label, 0, float(scores[best]), OBJECT),) if area[best] else ()
        return Segmentation(segments, map_of(segments, frame.original_size, EMPTY, frame.device), EMPTY)


class ObjectOnDevice(PostProcessor):
    """As `ObjectPostProcessor`."""

    def __init__(self, conditions: Conditions, options: PostProcessOptions, prompt: Tensor) -> None:
        self._conditions, self._options, self._prompt = conditions, options, prompt
        self._cut = logit_cut(options.mask_threshold)
        self._accepted: deque[tuple[Tensor, float]] = deque(maxlen=REMEMBERED)

    def __call__(self, frame: FrameLogits) -> Segmentation:
        grid, logits = TileGrid.of(frame), frame.mask_logits
        references = torch.stack([self._anchor(frame), *(self._fitted(mask, frame) for mask, _ in self._accepted)])
        measured = measure(grid, logits, self._cut, references)
        either = measured.inside[:, None] + references.flatten(1).count_nonzero(1)[None]
        iou = measured.common / (either - measured.common).clamp_min(1)
        probability = frame.wanted_probability(self._conditions)
        possible = likely(probability, self._options.least_score)
        best, score, area = self._choose(*to_host(possible, probability, iou, measured.area))
        mask = mask_of(grid, logits[best].clone(), self._cut, area)
        if score > ACCEPTED:
            self._accepted.append((mask.draw(), score))
        segments = (Segment(mask, self._conditions.labels[0], 0, score, OBJECT),) if area else ()
        return Segmentation(segments, map_of(segments, frame.original_size, EMPTY, frame.device), EMPTY)

    def state(self) -> RuleState:
        return RuleState(masks=tuple(m for m, _ in self._accepted), scores=tuple(score for _, score in self._accepted))

    def restore(self, state: RuleState, logits: torch.Size) -> None:
        self._accepted.extend(state.scored_masks(REMEMBERED, ACCEPTED))

    def _choose(
        self, possible: Numbers, probability: Numbers, ious: Numbers, areas: Numbers
    ) -> tuple[int, float, float]:
        """The query, its score and area."""
        weights = [1.0, *(score for _, score in self._accepted)]
        scores = {
            query: combined_score(float(probability[query]), ious[query].tolist(), weights)
            for query in np.flatnonzero(possible).tolist()
        }
        best = max(scores, key=scores.__getitem__)
        return best, scores[best], float(areas[best])

    def _anchor(self, frame: FrameLogits) -> Tensor:
        """The prompt, or nothing where it is left out: then its weight still counts, as published."""
        prompt = at_frame_size(self._prompt, frame)
        return prompt if self._options.anchored else torch.zeros_like(prompt)

    def _fitted(self, mask: Tensor, frame: FrameLogits) -> Tensor:
        return mask if mask.shape == frame.original_size else resize_nearest(mask, frame.original_size)
