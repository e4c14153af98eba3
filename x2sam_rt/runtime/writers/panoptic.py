"""Results in COCO's panoptic layout: id-encoded RGB PNGs and one JSON that says what each id is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import AtomicOutput, naming_write_errors, nothing
from x2sam_rt.media.image import decode_ids, encode_ids, read_image, save_image
from x2sam_rt.media.shapes import bounding_box
from x2sam_rt.media.types import LabelMap, Pixels
from x2sam_rt.runtime.results import FrameResult, Segment
from x2sam_rt.runtime.writers.writer import Categories, Category, ResultWriter, shifted_ids

IMAGES = "panoptic"  # folder of the PNGs, beside the JSON
JSON = "panoptic.json"


class SegmentInfo(TypedDict):
    """What a segment's visible pixels are. id: as encoded in the PNG. bbox: [x, y, width, height]."""

    id: int
    category_id: int
    area: int
    bbox: list[int]
    iscrowd: int
    score: float


class ImageInfo(TypedDict):
    id: int
    file_name: str
    height: int
    width: int


class Annotation(TypedDict):
    image_id: int
    file_name: str
    segments_info: list[SegmentInfo]


@dataclass(frozen=True, eq=False)
class PanopticFrame:
    """A frame read back. ids: (H, W) int32 as encoded (0 = no segment); categories: by their number."""

    index: int
    ids: LabelMap
    segments: tuple[SegmentInfo, ...]
    categories: Mapping[int, Category]


class PanopticWriter(ResultWriter):
    """`<folder>/panoptic/00000.png`, one per frame, and `<folder>/panoptic.json`.

    A pixel's id is its topmost segment's id + 1 (0 is COCO's void), as R + 256·G + 65536·B; `image_id` is the
    frame's index. The list entries of one id (stuff in several pieces) become one, with the highest score. The
    JSON's parts are spooled to disk, so a stream may be as long as the disk. overwrite: whether an older folder of this
    kind may be replaced.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False) -> None:
        self._replacement = AtomicOutput(folder, folder=True, replaces=_is_panoptic if overwrite else nothing)
        self._folder = self._replacement.temporary
        self._categories = Categories()
        with self._replacement.discarded_on_error():
            (self._folder / IMAGES).mkdir()
            self._images = (self._folder / "images.part").open("w+", encoding="utf-8")
            self._annotations = (self._folder / "annotations.part").open("w+", encoding="utf-8")

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        ids = shifted_ids(result.segmentation)
        infos = self._infos(ids, result)
        name = f"{result.index:05d}.png"
        save_image(self._folder / IMAGES / name, Image.fromarray(encode_ids(ids)))
        height, width = ids.shape
        image = ImageInfo(id=result.index, file_name=name, height=height, width=width)
        annotation = Annotation(image_id=result.index, file_name=name, segments_info=infos)
        with naming_write_errors(self._replacement.target):
            for spool, record in ((self._images, image), (self._annotations, annotation)):
                spool.write((",\n" if spool.tell() else "") + json.dumps(record, allow_nan=False))

    def close(self) -> None:
        with self._replacement.discarded_on_error():
            self._write_json()
            self._close_spools()
        self._replacement.publish()

    def discard(self) -> None:
        for spool in (self._images, self._annotations):
            with suppress(OSError):  # what is not written yet is unwanted
                spool.close()
        self._replacement.discard()

    def _infos(self, ids: LabelMap, result: FrameResult) -> list[SegmentInfo]:
        areas = np.bincount(ids.ravel())
        best: dict[int, Segment] = {}
        for segment in sorted(result.segments, key=lambda one: one.score):
            best[segment.id + 1] = segment
        visible = [int(id) for id in np.flatnonzero(areas) if id]
        if unknown := [id - 1 for id in visible if id not in best]:
            raise VideoError(f"Frame {result.index}: its map holds the ids {unknown}, which no segment has.")
        return [
            SegmentInfo(
                id=id,
                category_id=self._categories.number_of(best[id]),
                area=int(areas[id]),
                bbox=bounding_box(ids == id),
                iscrowd=0,
                score=float(best[id].score),
            )
            for id in visible
        ]

    def _write_json(self) -> None:
        with (self._folder / JSON).open("w", encoding="utf-8") as file:
            file.write('{"categories": ' + json.dumps(self._categories.listed(), ensure_ascii=False))
            for name, spool in (("images", self._images), ("annotations", self._annotations)):
                spool.seek(0)
                file.write(f',\n"{name}": [\n')
                shutil.copyfileobj(spool, file)
                file.write("\n]")
            file.write("}\n")

    def _close_spools(self) -> None:
        for spool in (self._images, self._annotations):
            spool.close()
            Path(spool.name).unlink()


def _is_panoptic(folder: Path) -> bool:
    return folder.is_dir() and {path.name for path in folder.iterdir()} == {IMAGES, JSON}


def read_panoptic(folder: str | Path) -> Iterator[PanopticFrame]:
    """The frames of a PanopticWriter's folder, one by one. Raises VideoError if it is missing or damaged."""
    path = Path(folder) / JSON
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        categories: dict[int, Category] = {entry["id"]: entry for entry in document["categories"]}
        annotations: list[Annotation] = document["annotations"]
    except FileNotFoundError:
        raise VideoError(f"{path}: no such file.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise VideoError(f"{path}: is not panoptic JSON ({type(error).__name__}: {error}).") from error
    for annotation in annotations:
        ids = decode_ids(read_image(Path(folder) / IMAGES / annotation["file_name"]))
        yield PanopticFrame(annotation["image_id"], ids, tuple(annotation["segments_info"]), categories)
