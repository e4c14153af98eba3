"""Which segment of this frame is which of the last: ids that stay with their object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from x2sam_rt.errors import SnapshotError
from x2sam_rt.runtime.postprocess.state import TrackerState

Overlaps = npt.NDArray[np.float64]
_MOST_IDS = 2**30  # a stream that gives so many is none; a map's ids have 32 bits
MIN_IOU = 0.5  # X2SAM's rule for panoptic things, used for all


class InstanceTracker:
    """Gives ids. A thing takes over the id of the segment of the last frame that has its label and overlaps it most,
    by more than half; the pairs that overlap best are settled first, and no id is taken over twice. Stuff has one id
    per label. Every other thing gets the next free number.

    first: the first id. reserved: an id never given, because it marks empty pixels. restart: number from `first`
    again in every frame, as the published panoptic code does; then a number can mean two things at once.
    """

    def __init__(self, first: int, reserved: int | None = None, restart: bool = False) -> None:
        self._first, self._reserved, self._restart = first, reserved, restart
        self._next = first
        self._stuff: dict[int, int] = {}
        self._last_labels: tuple[int, ...] = ()
        self._last_ids: tuple[int, ...] = ()

    def assign(self, labels: Sequence[int], is_thing: Sequence[bool], overlaps: Overlaps) -> tuple[int, ...]:
        """One id per segment. overlaps: (segments, segments of the frame before) IoU, in the order of that call."""
        assert overlaps.shape == (len(labels), len(self._last_ids)), "overlaps with the frame assigned before"
        if self._restart:
            self._next, self._stuff = self._first, {}
        taken = self._taken_over(labels, is_thing, overlaps)
        ids = tuple(
            taken[i] if i in taken else self._fresh() if is_thing[i] else self._stuff_id(label)
            for i, label in enumerate(labels)
        )
        self._last_labels = tuple(label if thing else -1 for label, thing in zip(labels, is_thing, strict=True))
        self._last_ids = ids
        return ids

    def state(self) -> TrackerState:
        return TrackerState(self._next, tuple(self._stuff.items()), self._last_labels, self._last_ids)

    def restore(self, state: TrackerState) -> None:
        """Raises SnapshotError for numbers that were never given."""
        given = (*state.ids, *(number for _, number in state.stuff))
        if len(state.ids) != len(state.labels) or not all(self._first <= i < state.next_id <= _MOST_IDS for i in given):
            raise SnapshotError(
                f"Segments {state.ids} of {len(state.labels)} labels, the next is {state.next_id}; wanted as many "
                f"labels, and numbers from {self._first} that come before the next."
            )
        self._next, self._stuff = state.next_id, dict(state.stuff)
        self._last_labels, self._last_ids = state.labels, state.ids

    def _taken_over(self, labels: Sequence[int], is_thing: Sequence[bool], overlaps: Overlaps) -> dict[int, int]:
        same = np.asarray(labels, dtype=np.int64)[:, None] == np.asarray(self._last_labels, dtype=np.int64)[None]
        rows, columns = np.nonzero(same & np.asarray(is_thing, dtype=np.bool_)[:, None] & (overlaps > MIN_IOU))
        taken: dict[int, int] = {}
        used: set[int] = set()
        for k in np.argsort(-overlaps[rows, columns], kind="stable"):
            now, before = int(rows[k]), int(columns[k])
            if now not in taken and before not in used:
                taken[now] = self._last_ids[before]
                used.add(before)
        return taken

    def _stuff_id(self, label: int) -> int:
        if label not in self._stuff:
            self._stuff[label] = self._fresh()
        return self._stuff[label]

    def _fresh(self) -> int:
        if self._next == self._reserved:
            self._next += 1
        self._next += 1
        return self._next - 1


class MaskHistory:
    """The masks of the frame before on the decoder's grid: small, and of one size however the frames change."""

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def overlaps(self, masks: Tensor) -> Overlaps:
        """IoU with the masks of the call before. masks: (n, h, w) bool. Returns (n, masks before) float64."""
        before, self._last = masks[:0] if self._last is None else self._last, masks
        return mask_ious(masks, before).double().cpu().numpy()

    def state(self) -> tuple[Tensor, ...]:
        return () if self._last is None else (self._last,)

    def restore(self, masks: Tensor | None) -> None:
        self._last = masks


def mask_ious(first: Tensor, second: Tensor) -> Tensor:
    """IoU of every mask of one set with every one of another. (n, h, w) and (m, h, w) bool → (n, m) fp32."""
    one, other = first.flatten(1).float(), second.flatten(1).float()
    common = one @ other.T
    return common / (one.sum(1)[:, None] + other.sum(1)[None] - common).clamp_min(1)
