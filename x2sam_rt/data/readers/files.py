"""Files of data sets: every complaint names the example and the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from x2sam_rt.errors import DataError, VideoError
from x2sam_rt.media.image import decode_ids, open_image, read_image
from x2sam_rt.media.types import LabelMap

Frames = npt.NDArray[np.uint8]


def read_json(path: Path, encoding: str = "utf-8") -> Any:
    """A parsed JSON file. Raises DataError if it is missing or is none."""
    try:
        return json.loads(path.read_text(encoding=encoding))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the data set's folder and split.") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}). Fetch the file again.") from error


@contextmanager
def in_layout(path: Path, layout: str) -> Iterator[None]:
    """Around the reading of a parsed document: what is not where it should be raises DataError with the path."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: is not in the layout of {layout} ({type(error).__name__}: {error}). Fetch the file again, or "
            "name the data set that it belongs to."
        ) from error


def read_frames(example: str, paths: Sequence[Path]) -> Frames:
    """(T, H, W, 3) uint8 RGB. Raises DataError for a missing or damaged file, and for frames of several sizes."""
    frames: Frames | None = None
    for index, path in enumerate(paths):
        with _of_example(example):
            pixels = read_image(path)
        if frames is None:
            frames = np.empty((len(paths), *pixels.shape), dtype=np.uint8)
        _require_size(example, path, pixels.shape[:2], frames.shape[1:3])
        frames[index] = pixels
    if frames is None:
        raise DataError(f"Example {example}: it lists no frames.")
    return frames


def read_indices(example: str, path: Path, size: tuple[int, ...]) -> LabelMap:
    """(H, W) int32: the indices of a palette or grey PNG. size: (H, W) of the frame. Raises DataError for a missing or
    damaged file, other kinds of images, and another size."""
    with _of_example(example), open_image(path) as image:
        if image.mode not in ("P", "L"):
            raise DataError(
                f"Example {example}: {path} is a {image.mode} image; wanted an indexed (P) or grey (L) one."
            )
        indices = np.array(image, dtype=np.int32)
    _require_size(example, path, indices.shape, size)
    return indices


def read_ids(example: str, path: Path, size: tuple[int, ...]) -> LabelMap:
    """(H, W) int32: the ids of a panoptic PNG, R + 256·G + 65536·B. size: (H, W) of the frame. Raises DataError as
    read_indices does."""
    with _of_example(example), open_image(path) as image:
        if image.mode != "RGB":
            raise DataError(f"Example {example}: {path} is a {image.mode} image; wanted RGB, which ids are coded in.")
        ids = decode_ids(np.array(image))
    _require_size(example, path, ids.shape, size)
    return ids


@contextmanager
def _of_example(example: str) -> Iterator[None]:
    try:
        yield
    except VideoError as error:
        raise DataError(f"Example {example}: {error}") from error


def _require_size(example: str, path: Path, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise DataError(
            f"Example {example}: {path} is {found[1]}×{found[0]} pixels; wanted {wanted[1]}×{wanted[0]}, the size of "
            "the frames."
        )
