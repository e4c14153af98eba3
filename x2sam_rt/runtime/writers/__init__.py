"""Results on disk: one file per format, all used in the same way (ResultWriter)."""

from x2sam_rt.runtime.writers.coco import CocoFrame, CocoRleWriter, read_coco_rle
from x2sam_rt.runtime.writers.davis import DavisWriter, read_davis
from x2sam_rt.runtime.writers.overlay import Overlay, OverlayImageWriter, OverlayStyle, OverlayVideoWriter, draw_overlay
from x2sam_rt.runtime.writers.panoptic import PanopticFrame, PanopticWriter, read_panoptic
from x2sam_rt.runtime.writers.pictures import (
    PictureFolderWriter,
    PictureImageWriter,
    PictureVideoWriter,
    cutout,
    matte,
)
from x2sam_rt.runtime.writers.writer import ResultWriter

__all__ = [
    "CocoFrame",
    "CocoRleWriter",
    "DavisWriter",
    "Overlay",
    "OverlayImageWriter",
    "OverlayStyle",
    "OverlayVideoWriter",
    "PanopticFrame",
    "PanopticWriter",
    "PictureFolderWriter",
    "PictureImageWriter",
    "PictureVideoWriter",
    "ResultWriter",
    "cutout",
    "draw_overlay",
    "matte",
    "read_coco_rle",
    "read_davis",
    "read_panoptic",
]
