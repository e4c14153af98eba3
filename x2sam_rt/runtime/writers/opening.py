"""Writers by the name of the output."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import naming_write_errors
from x2sam_rt.runtime.writers.coco import CocoRleWriter
from x2sam_rt.runtime.writers.davis import DavisWriter
from x2sam_rt.runtime.writers.overlay import PLAIN_STYLE, OverlayImageWriter, OverlayStyle, OverlayVideoWriter
from x2sam_rt.runtime.writers.panoptic import PanopticWriter
from x2sam_rt.runtime.writers.writer import ResultWriter
from x2sam_rt.tasks.regions import RegionPrompt

_VIDEO, _IMAGE, _MASKS = (".mp4", ".mkv", ".mov"), (".png", ".jpg", ".jpeg"), (".jsonl",)


def open_writers(
    source: Path,
    frame_rate: Fraction | None,
    outputs: Sequence[Path],
    davis: Path | None,
    panoptic: Path | None,
    style: OverlayStyle = PLAIN_STYLE,
    regions: Sequence[RegionPrompt] = (),
) -> list[ResultWriter]:
    """source: the file that is segmented, frame_rate: its frames per second; None of an image. outputs: the suffix says
    what is written. davis, panoptic: folders. style, regions: of overlays.

    Raises VideoError for a suffix nobody writes, and for a video of an image.
    """
    writers = [_by_suffix(path, frame_rate, style, regions) for path in outputs]
    if davis is not None:
        with naming_write_errors(davis):
            davis.mkdir(exist_ok=True)  # the sequences of several runs share it
        writers.append(DavisWriter(davis, source.stem))
    if panoptic is not None:
        writers.append(PanopticWriter(panoptic))
    return writers


def _by_suffix(
    path: Path, frame_rate: Fraction | None, style: OverlayStyle, regions: Sequence[RegionPrompt]
) -> ResultWriter:
    suffix = path.suffix.lower()
    if suffix in _MASKS:
        return CocoRleWriter(path)
    if suffix in _IMAGE:
        return OverlayImageWriter(path, style, regions)
    if suffix in _VIDEO:
        if frame_rate is None:
            raise VideoError(f"{path}: an image makes no video; wanted one of {', '.join(_IMAGE + _MASKS)}.")
        return OverlayVideoWriter(path, frame_rate, style, regions)
    known = ", ".join(_VIDEO + _IMAGE + _MASKS)
    raise VideoError(f"{path}: cannot write {suffix or 'a file without suffix'}; wanted one of {known}.")
