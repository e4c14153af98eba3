"""What a rule remembers of earlier frames, at rest: the same wherever its masks are kept, and checked as it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from x2sam_rt.errors import SnapshotError


@dataclass(frozen=True)
class TrackerState:
    """The numbering of a stream's segments (`InstanceTracker`). stuff: (label, id) pairs. labels, ids: of the segments
    of the last frame; stuff has the label −1 there."""

    next_id: int
    stuff: tuple[tuple[int, int], ...]
    labels: tuple[int, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RuleState:
    """ids: where segments are numbered. masks: of earlier frames, as the methods below say. scores: of these masks,
    where they count. All methods raise SnapshotError for what no rule of the kind remembers."""

    ids: TrackerState | None = None
    masks: tuple[Tensor, ...] = ()
    scores: tuple[float, ...] = ()

    def to(self, device: torch.device) -> RuleState:
        return replace(self, masks=tuple(mask.to(device) for mask in self.masks))

    def nothing(self) -> None:
        """Of a rule that remembers nothing."""
        if self.ids is not None or self.masks or self.scores:
            raise SnapshotError("The saved session remembers earlier frames, which its task's rule does not.")

    def numbering(self) -> TrackerState:
        if self.ids is None or self.scores or len(self.masks) > 1:
            raise SnapshotError("The saved session was numbered by another rule than its task's.")
        return self.ids

    def grid_masks(self, grid: tuple[int, int]) -> Tensor | None:
        """(segments, h, w) bool, the last frame's segments on the decoder's grid; None before the first frame."""
        count = len(self.numbering().ids)
        found, wanted = [(mask.dtype, *mask.shape) for mask in self.masks], [(torch.bool, count, *grid)]
        if found != wanted and (found or count):
            raise SnapshotError(f"The masks before are {found}; wanted {wanted}.")
        return self.masks[0] if self.masks else None

    def segment_map(self) -> Tensor | None:
        """(H, W) int32, the number of each pixel's segment in the last frame or −1; None before the first frame."""
        count = len(self.numbering().ids)
        if not self.masks and not count:
            return None
        found = self.masks[0] if self.masks else torch.empty(0)
        if found.dtype != torch.int32 or found.ndim != 2 or not found.numel():
            raise SnapshotError(f"The map before is {found.dtype} {tuple(found.shape)}; wanted (H, W) int32.")
        if int(found.min()) < -1 or int(found.max()) >= count:
            raise SnapshotError(f"The map names segments {int(found.min())} to {int(found.max())} of {count}.")
        return found

    def owners(self, queries: int) -> tuple[Tensor, list[int]] | None:
        """As the other way round of `numbered`. queries: so many there are."""
        found, count = self.segment_map(), len(self.numbering().ids)
        if found is None:
            return None
        if count + int((found < 0).any()) > queries:
            raise SnapshotError(f"{count} segments in the frame before, of {queries} queries.")
        return torch.where(found < 0, count, found), list(range(count))

    def scored_masks(self, most: int, least: float) -> list[tuple[Tensor, float]]:
        """(H, W) bool masks with their scores. most: so many. least: what scores lie above."""
        masks, scores = self.masks, self.scores
        fits = all(mask.dtype == torch.bool and mask.ndim == 2 and mask.numel() for mask in masks)
        if self.ids is not None or len(masks) != len(scores) or len(masks) > most or not fits:
            raise SnapshotError(f"{len(masks)} earlier masks, {len(scores)} scores; wanted up to {most} of both.")
        if not all(least < score < 1.001 for score in scores):
            raise SnapshotError(f"Earlier masks have the scores {scores}; wanted more than {least}, up to 1.")
        return list(zip(masks, scores, strict=True))


def numbered(owner: Tensor, queries: Sequence[int]) -> Tensor:
    """(H, W) int32, each pixel's query → the number of its segment, −1 where its query is none of these."""
    numbers = torch.full_like(owner, -1)
    for number, query in enumerate(queries):
        numbers.masked_fill_(owner == query, number)
    return numbers
