"""How data sets write masks: polygons, run lengths, PNGs of object numbers or ids; and how they are held."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from x2sam_rt.data.readers.files import Frames, of_example, orientation_of, turned
from x2sam_rt.errors import DataError
from x2sam_rt.media.image import decode_ids, open_image
from x2sam_rt.media.rle import decode_mask
from x2sam_rt.media.types import BoolMask, LabelMap

Indices = npt.NDArray[np.uint8]
VOID = 255  # in PNGs of object numbers: pixels that no evaluation counts (DAVIS)
_FOREGROUND = 255  # in PNGs of one mask


@dataclass(frozen=True, eq=False)
class PackedMasks:
    """Masks of a clip, one bit per pixel, unpacked when they are asked for. bits: (T, ⌈H·W / 8⌉) uint8."""

    bits: npt.NDArray[np.uint8]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, masks: Iterable[BoolMask]) -> PackedMasks:
        """masks: (H, W) bool each, one or more."""
        packed, size = [], (0, 0)
        for mask in masks:
            size = (mask.shape[0], mask.shape[1])
            packed.append(np.packbits(mask))
        return cls(np.stack(packed), (len(packed), *size))

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.bool_)

    def __getitem__(self, key: Any) -> BoolMask:
        """As of a (T, H, W) array; what stands first in the key is unpacked."""
        first, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(first, int | np.integer):
            (mask,) = self._unpacked(self.bits[first])
            return cast(BoolMask, mask[rest]) if rest else mask
        return self._unpacked(self.bits[first])[(slice(None), *rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)

    def _unpacked(self, bits: npt.NDArray[np.uint8]) -> BoolMask:
        height, width = self.shape[1:]
        rows = np.unpackbits(bits.reshape(-1, self.bits.shape[1]), axis=1, count=height * width)
        return rows.view(np.bool_).reshape(-1, height, width)


def decode_segmentation(segmentation: Any, height: int, width: int) -> BoolMask:
    """The (height, width) bool mask of a parsed COCO "segmentation"; None (not visible) gives an empty one.

    Raises ValueError, KeyError or TypeError where it is none, or of another size.
    """
    if segmentation is None:
        return np.zeros((height, width), dtype=np.bool_)
    if isinstance(segmentation, list):
        return _drawn(segmentation, height, width)
    return decode_mask(segmentation, height, width)


def segmentation_mask(frames: Frames, frame: int, segmentation: Any, origin: str) -> BoolMask:
    """The upright (H, W) bool mask of a frame's COCO "segmentation". origin: what to call it in complaints.

    Run lengths may be of the stored or the upright frame, polygons are of the stored one. Raises DataError.
    """
    size = frames.stored_size(frame)
    if isinstance(segmentation, dict) and list(segmentation.get("size", ())) == list(frames.size):
        size = frames.size
    try:
        mask = decode_segmentation(segmentation, *size)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"Example {frames.example}: {origin}: {error}.") from error
    return cast(BoolMask, frames.upright(frame, mask, origin))


def _drawn(polygons: list[Any], height: int, width: int) -> BoolMask:
    if not polygons:
        return np.zeros((height, width), dtype=np.bool_)
    if all(isinstance(one, dict) for one in polygons):
        merged: BoolMask = np.any([decode_mask(one, height, width) for one in polygons], axis=0)
        return merged
    reach = 2 * max(height, width)
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon that is no list of at least three x, y pairs")
        if not all(-reach <= number <= reach for number in polygon):
            raise ValueError(f"a polygon with a corner far outside the {width}×{height} frame")
    together = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    drawn: BoolMask = coco_mask.decode(together).astype(np.bool_)
    return drawn


def read_indices(frames: Frames, frame: int, path: Path) -> Indices:
    """(H, W) uint8, upright: the indices of a palette or grey PNG. Raises DataError for a missing or damaged file,
    other kinds of images, and another size than the frame's."""
    return _labels(frames, frame, path, ("P", "L"), "an indexed (P) or grey (L) one", lambda pixels: pixels)


def read_resized_indices(frames: Frames, frame: int, path: Path) -> Indices:
    """As read_indices, but a map of another size is scaled to the frame's, by the nearest pixel."""
    with of_example(frames.example), open_image(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise DataError(f"Example {frames.example}: {path} is a {image.mode} image; wanted a mask of grey levels.")
        height, width = frames.stored_size(frame)
        fits = image if image.size in ((width, height), frames.size[::-1]) else image.resize((width, height), 0)
        indices = np.array(fits).astype(np.uint8)
    return cast(Indices, frames.upright(frame, indices, str(path)))


def read_ids(frames: Frames, frame: int, path: Path) -> LabelMap:
    """(H, W) int32, upright: the ids of a panoptic PNG, R + 256·G + 65536·B. Raises DataError as read_indices does."""
    return _labels(frames, frame, path, ("RGB",), "RGB, which ids are coded in", decode_ids)


def read_colours(frames: Frames, frame: int, path: Path) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8, upright: the numbers in a PNG's channels. Raises DataError as read_indices does."""
    return _labels(frames, frame, path, ("RGB",), "RGB, whose channels hold numbers", lambda pixels: pixels)


def _labels(
    frames: Frames,
    frame: int,
    path: Path,
    modes: tuple[str, ...],
    wanted: str,
    decode: Callable[[npt.NDArray[np.uint8]], npt.NDArray[Any]],
) -> npt.NDArray[Any]:
    with of_example(frames.example), open_image(path) as image:
        if image.mode not in modes:
            raise DataError(f"Example {frames.example}: {path} is a {image.mode} image; wanted {wanted}.")
        labels, orientation = decode(np.array(image)), orientation_of(image)
    if orientation != 1:  # a mask that says itself how it is to be turned
        return _of_upright_size(frames, turned_map(labels, orientation), path)
    if labels.ndim == 3:
        return np.stack([frames.upright(frame, channel, str(path)) for channel in np.moveaxis(labels, 2, 0)], axis=2)
    return frames.upright(frame, labels, str(path))


def turned_map(labels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """(h, w) or (h, w, channels) turned as an EXIF orientation says."""
    if labels.ndim == 2:
        return turned(labels, orientation)
    return np.stack([turned(channel, orientation) for channel in np.moveaxis(labels, 2, 0)], axis=2)


def _of_upright_size(frames: Frames, labels: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    if labels.shape[:2] != frames.size:
        raise DataError(
            f"Example {frames.example}: {path}, turned as it says itself, is {labels.shape[1]}×{labels.shape[0]} "
            f"pixels; wanted {frames.size[1]}×{frames.size[0]}, the size of the frames."
        )
    return labels


def require_object(example: str, indices: Indices, number: int, place: Path) -> None:
    """indices: (T, H, W). Raises DataError where no pixel has the object's number, and says why that may be."""
    if (indices == number).any():
        return
    found = sorted(set(np.unique(indices).tolist()) - {0})
    if found == [_FOREGROUND]:
        raise DataError(
            f"Example {example}: {place} holds 0 and {_FOREGROUND} only, and {VOID} means a pixel that is not counted. "
            f"Masks of this layout hold each object's own number: write {number} where there is {_FOREGROUND}."
        )
    raise DataError(
        f"Example {example}: object {number} is in none of {place}; there are "
        f"{[number for number in found if number != VOID]}."
    )
