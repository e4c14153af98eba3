"""Results as indexed PNGs in the layout of DAVIS: <folder>/<sequence>/00000.png."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import AtomicOutput, nothing
from x2sam_rt.media.colors import color_of
from x2sam_rt.media.image import open_image, save_image
from x2sam_rt.media.types import LabelMap, Pixels
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.writers.writer import ResultWriter, is_png_sequence, shifted_ids

BACKGROUND = -1  # in maps read back
_VOID = 255  # DAVIS: pixels that no evaluation counts
_VOID_COLOR = (224, 224, 192)


class DavisWriter(ResultWriter):
    """One palette PNG per frame, named by the frame's index. A pixel is its topmost segment's id + 1.

    0 is the background, as DAVIS has it, hence the + 1: ids begin at 0 in some tasks. 255 is DAVIS's void, so ids
    from 254 on cannot be written. Masks that overlap are not kept; see CocoRleWriter.
    overwrite: whether an older sequence of that name may be replaced.
    """

    def __init__(self, folder: str | Path, sequence: str, *, overwrite: bool = False) -> None:
        if sequence in ("", "..") or Path(sequence).name != sequence:
            raise VideoError(f"{sequence!r} is no name for a sequence: it becomes a folder in {folder}.")
        replaces = is_png_sequence if overwrite else nothing
        self._replacement = AtomicOutput(Path(folder) / sequence, folder=True, replaces=replaces)
        self._palette = b"".join(bytes(color) for color in _palette())

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        indices = shifted_ids(result.segmentation)
        if indices.max(initial=0) >= _VOID:
            raise VideoError(
                f"Frame {result.index} has a segment with id {int(indices.max()) - 1}; DAVIS's PNGs hold ids up to "
                f"{_VOID - 2}. Write COCO or panoptic output instead."
            )
        image = Image.fromarray(indices.astype(np.uint8), mode=None)
        image.putpalette(self._palette)
        save_image(self._replacement.temporary / f"{result.index:05d}.png", image)

    def close(self) -> None:
        self._replacement.publish()

    def discard(self) -> None:
        self._replacement.discard()


def read_davis(sequence: str | Path) -> Iterator[LabelMap]:
    """The segment ids of a sequence folder, frame by frame: (H, W) int32, −1 where nothing (or void) is.

    Raises VideoError if there is no such folder, no PNG in it, or one that is not indexed.
    """
    paths = sorted(Path(sequence).glob("*.png"))
    if not paths:
        raise VideoError(f"{sequence}: holds no PNG files. Name the sequence's own folder.")
    for path in paths:
        with open_image(path) as image:
            if image.mode not in ("P", "L"):
                raise VideoError(f"{path}: is a {image.mode} image; DAVIS's are indexed (P) or grey (L).")
            indices = np.array(image, dtype=np.int32)
        indices[indices == _VOID] = 0
        yield indices - 1


def _palette() -> list[tuple[int, int, int]]:
    return [(0, 0, 0), *(color_of(index) for index in range(_VOID - 1)), _VOID_COLOR]
