"""Files of data sets: every complaint names the example and the file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from x2sam_rt.errors import DataError, VideoError
from x2sam_rt.media.image import read_image

Pixels = npt.NDArray[np.uint8]
_FRAME_SUFFIXES = (".jpg", ".png", ".jpeg")  # in any case
_EXIF_ORIENTATION, _AS_STORED = 274, 1


def read_json(path: Path, encoding: str = "utf-8") -> Any:
    """A parsed JSON file. Raises DataError if it is missing or is none."""
    try:
        return json.loads(path.read_text(encoding=encoding))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the data set's folder and split.") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}). Fetch the file again.") from error


class _PlainUnpickler(pickle.Unpickler):
    """Numbers, texts, lists and dictionaries need no class; whatever names one could run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """A pickle of plain containers (RefCOCO's refs), Python 2's too. Nothing that it could run is run.

    Raises DataError for a missing or damaged file, and for one that holds more than plain containers.
    """
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="utf-8", errors="strict").load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}). Check the data set's folder and split.") from error
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path}: is no pickle of plain lists, dictionaries, texts and numbers ({error}), so it is not opened. "
            "Fetch it from the data set's authors."
        ) from error
    except (EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise DataError(f"{path}: the pickle is damaged ({type(error).__name__}: {error}). Fetch it again.") from error


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


@contextmanager
def of_example(example: str) -> Iterator[None]:
    """Puts the example's name before complaints about its image files."""
    try:
        yield
    except VideoError as error:
        raise DataError(f"Example {example}: {error}") from error


def is_frame(path: Path) -> bool:
    return path.suffix.lower() in _FRAME_SUFFIXES and not path.name.startswith(".")


def list_frames(folder: Path) -> tuple[Path, ...]:
    """The images of a folder, sorted by name; () where there is no such folder."""
    return tuple(sorted(path for path in folder.iterdir() if is_frame(path))) if folder.is_dir() else ()


def frame_file(folder: Path, name: str) -> Path:
    """The file of a frame that an annotation names with a suffix or without one, whatever the case of its own
    (".JPG"). Where there is none, the path that was expected, so that reading it says so."""
    expected = folder / (name if is_frame(Path(name)) else f"{name}{_FRAME_SUFFIXES[0]}")
    if expected.is_file():
        return expected
    stem = expected.with_suffix("")
    spelled = [case for suffix in _FRAME_SUFFIXES for case in (suffix, suffix.upper())]
    others = (stem.with_name(stem.name + suffix) for suffix in spelled)
    return next((other for other in others if other.is_file()), expected)


@dataclass(frozen=True, eq=False)
class Frames:
    """An example's frames, upright. pixels: (T, H, W, 3) uint8 RGB. orientations: how each file says it must be
    turned (EXIF, 1 … 8; 1 as it is)."""

    example: str
    pixels: Pixels
    orientations: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns, upright."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def stored_size(self, frame: int) -> tuple[int, int]:
        """Rows and columns as the file of a frame has them."""
        height, width = self.size
        return (width, height) if _swaps(self.orientations[frame]) else (height, width)

    def upright(self, frame: int, labels: npt.NDArray[Any], origin: str) -> npt.NDArray[Any]:
        """Labels of a frame's pixels, (h, w), turned as the frame was: they lie on the pixels of its file, unless
        their size fits the upright frame only. Raises DataError, naming their `origin`, for another size."""
        if labels.shape == self.stored_size(frame):
            return turned(labels, self.orientations[frame])
        if labels.shape != self.size:
            raise DataError(
                f"Example {self.example}: {origin} is {labels.shape[1]}×{labels.shape[0]} pixels; wanted "
                f"{self.size[1]}×{self.size[0]}, the size of the frames."
            )
        return labels


def read_frames(example: str, paths: Sequence[Path]) -> Frames:
    """Raises DataError for a missing or damaged file, and for frames of several sizes."""
    if not paths:
        raise DataError(f"Example {example}: it lists no frames.")
    pixels: Pixels | None = None
    orientations = []
    for index, path in enumerate(paths):
        with of_example(example):
            frame = read_image(path)
        pixels = np.empty((len(paths), *frame.shape), dtype=np.uint8) if pixels is None else pixels
        if frame.shape != pixels.shape[1:]:
            raise DataError(
                f"Example {example}: {path} is {frame.shape[1]}×{frame.shape[0]} pixels; wanted "
                f"{pixels.shape[2]}×{pixels.shape[1]}, the size of the frames."
            )
        pixels[index] = frame
        with Image.open(path) as image:  # its head only: the pixels were read just now
            orientations.append(orientation_of(image))
    assert pixels is not None, "there is a frame"
    return Frames(example, pixels, tuple(orientations))


def orientation_of(image: Image.Image) -> int:
    """How an image says its pixels must be turned (EXIF), 1 … 8; 1 where it says nothing."""
    found = image.getexif().get(_EXIF_ORIENTATION, _AS_STORED)
    return found if found in range(1, 9) else _AS_STORED


def turned(labels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """(h, w) turned and mirrored as an EXIF orientation says."""
    if orientation in (2, 4, 5, 7):  # mirrored: 2 left-right, 4 top-bottom, 5 along the diagonal, 7 along the other
        labels = labels[:, ::-1]
    quarters = {3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}.get(orientation, 0)
    return np.rot90(labels, quarters)


def _swaps(orientation: int) -> bool:
    return orientation >= 5
