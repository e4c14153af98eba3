"""What is compared in panoptic segmentation: who owns each pixel of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.example import Target
from x2sam_rt.errors import DataError
from x2sam_rt.media.types import LabelMap
from x2sam_rt.runtime.results import Segmentation

VOID = 0
Overlaps = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tube:
    """A segment through the frames of a clip. crowd: several objects under one mask, neither missed nor found."""

    category: int
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """owners: (T, H, W) int32; a pixel holds n where it belongs to tubes[n − 1], or 0 (void) where it belongs to none.
    T = 1 for an image. Raises DataError for other shapes and numbers."""

    owners: LabelMap
    tubes: tuple[Tube, ...]

    def __post_init__(self) -> None:
        owners = self.owners
        if owners.ndim != 3 or owners.dtype != np.int32 or not owners.size:
            raise DataError(f"A panoptic map is {owners.shape} {owners.dtype}; wanted (T, H, W) int32, not empty.")
        if owners.min() < VOID or owners.max() > len(self.tubes):
            raise DataError(
                f"A panoptic map holds numbers from {owners.min()} to {owners.max()}; wanted 0 to {len(self.tubes)}, "
                "the number of its tubes."
            )

    @classmethod
    def of_targets(
        cls, shape: tuple[int, int, int], targets: Sequence[Target], crowds: Sequence[Target] = ()
    ) -> PanopticMap:
        """The truth of an example. shape: (T, H, W) of its masks. Where targets overlap the later one wins."""
        owners = np.zeros(shape, dtype=np.int32)
        together = [*targets, *crowds]
        for number, target in enumerate(together, start=1):
            if target.masks.shape != shape:
                raise DataError(f"Masks {target.masks.shape} of target {target.id} in a clip of {shape}.")
            owners[target.masks] = number
        tubes = [Tube(target.condition, crowd=place >= len(targets)) for place, target in enumerate(together)]
        return cls(owners, tuple(tubes))

    @classmethod
    def of_results(cls, frames: Sequence[Segmentation]) -> PanopticMap:
        """The results of a stream or an image. Segments of one id and label are one tube, over all frames.

        Raises DataError without frames, or for frames of several sizes.
        """
        if len({frame.map.shape for frame in frames}) != 1:
            raise DataError(f"Results of sizes {sorted({frame.map.shape for frame in frames})}; wanted one size.")
        numbers: dict[tuple[int, int], int] = {}
        owners = np.zeros((len(frames), *frames[0].map.shape), dtype=np.int32)
        for frame, owner in zip(frames, owners, strict=True):
            for key in {(segment.id, segment.label_id) for segment in frame.segments}:
                owner[frame.map == key[0]] = numbers.setdefault(key, len(numbers) + 1)
        return cls(owners, tuple(Tube(category) for _, category in numbers))

    @property
    def categories(self) -> npt.NDArray[np.int64]:
        """(tubes,) the category of each."""
        return np.array([tube.category for tube in self.tubes], dtype=np.int64)

    @property
    def crowds(self) -> npt.NDArray[np.bool_]:
        """(tubes,) which are crowds."""
        return np.array([tube.crowd for tube in self.tubes], dtype=np.bool_)

    def require_categories(self, count: int) -> None:
        """Raises DataError for a tube whose category is not one of `count`."""
        if outside := sorted({tube.category for tube in self.tubes if not 0 <= tube.category < count}):
            raise DataError(f"Tubes of the categories {outside}; there are {count}, numbered from 0.")


def overlaps(truth: PanopticMap, predicted: PanopticMap) -> Overlaps:
    """(T, true tubes + 1, predicted tubes + 1) int64: how many pixels each pair shares in each frame; index 0 is void.

    Raises DataError where the maps are not of one shape.
    """
    if truth.owners.shape != predicted.owners.shape:
        raise DataError(f"True map {truth.owners.shape}, predicted {predicted.owners.shape}: they must be of one size.")
    rows, columns = len(truth.tubes) + 1, len(predicted.tubes) + 1
    shared = np.empty((len(truth.owners), rows, columns), dtype=np.int64)
    for frame, (true, found) in enumerate(zip(truth.owners, predicted.owners, strict=True)):
        pairs = true.ravel().astype(np.int64) * columns + found.ravel()
        shared[frame] = np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)
    return shared
