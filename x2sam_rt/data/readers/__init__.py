"""Public data sets, read from the folders they come in. A new one is a new file and a new row here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.readers.annotated import AnnotatedExample, CaptionedExample, PromptedExample
from x2sam_rt.data.readers.coco_panoptic import read_coco_panoptic
from x2sam_rt.data.readers.expressions import read_ref_davis17, read_ref_youtube_vos
from x2sam_rt.data.readers.reasonseg import read_reasonseg
from x2sam_rt.data.readers.refcoco import read_refcoco, read_refcoco_plus, read_refcocog
from x2sam_rt.data.readers.vipseg import read_vipseg
from x2sam_rt.data.readers.youtube_vis import read_youtube_vis
from x2sam_rt.errors import DataError

__all__ = ["READERS", "AnnotatedExample", "CaptionedExample", "PromptedExample", "Reader", "read_dataset"]

Reader = Callable[[Path, str], Dataset]

READERS: dict[str, Reader] = {
    "coco-panoptic": read_coco_panoptic,
    "reasonseg": read_reasonseg,
    "ref-davis17": read_ref_davis17,
    "ref-youtube-vos": read_ref_youtube_vos,
    "refcoco": read_refcoco,
    "refcoco+": read_refcoco_plus,
    "refcocog": read_refcocog,
    "vipseg": read_vipseg,
    "youtube-vis": read_youtube_vis,
}


def read_dataset(name: str, root: str | Path, split: str) -> Dataset:
    """The examples of a public data set, loaded when they are asked for.

    name: one of READERS. root: its folder; each reader's file shows what must be in it. Raises DataError for an
    unknown name, a folder that is not in the layout, and a split without ground truth.
    """
    if name not in READERS:
        raise DataError(f"There is no reader for {name!r}; there are {', '.join(READERS)}.")
    if not Path(root).is_dir():
        raise DataError(f"{root}: no such folder. Name the folder that {name} was unpacked into.")
    return READERS[name](Path(root), split)
