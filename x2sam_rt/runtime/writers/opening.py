"""The outputs of one run, by their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import any_file, naming_write_errors, nothing, uninterrupted
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video_writer import VIDEO_SUFFIXES
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.writers.coco import CocoRleWriter
from x2sam_rt.runtime.writers.davis import DavisWriter
from x2sam_rt.runtime.writers.overlay import PLAIN_STYLE, OverlayImageWriter, OverlayStyle, OverlayVideoWriter
from x2sam_rt.runtime.writers.panoptic import PanopticWriter
from x2sam_rt.runtime.writers.writer import ResultWriter
from x2sam_rt.tasks.regions import RegionPrompt

_IMAGE, _MASKS = (".png", ".jpg", ".jpeg"), (".jsonl",)


@dataclass(frozen=True)
class OutputPlan:
    """What a run writes. outputs: the suffix says what. davis, panoptic: folders. overwrite: whether what is there
    already may be replaced, where it is of the same kind. keep_partial: whether an interrupted run keeps the frames
    that are done. style, regions: of overlays."""

    outputs: tuple[Path, ...] = ()
    davis: Path | None = None
    panoptic: Path | None = None
    overwrite: bool = False
    keep_partial: bool = False
    style: OverlayStyle = PLAIN_STYLE
    regions: tuple[RegionPrompt, ...] = ()

    def paths(self, source: Path) -> tuple[Path, ...]:
        """All that takes a name. source: the file that is segmented."""
        folders = (self.davis and self.davis / source.stem, self.panoptic)
        return (*self.outputs, *(folder for folder in folders if folder is not None))


class RunOutputs(ResultWriter):
    """The writers of one run as one, opened before anything is computed.

    source: the file that is segmented; frame_rate: its frames per second, None of an image.
    Raises VideoError for an output that is the source, is named twice, exists (see OutputPlan), has a suffix nobody
    writes or one that does not fit the source; nothing is left then.
    """

    def __init__(self, plan: OutputPlan, source: Path, frame_rate: Fraction | None) -> None:
        self._plan, self.frames = plan, 0
        self._check(source)
        self._writers: list[ResultWriter] = []
        self._made: Path | None = None
        with ExitStack() as opened:
            opened.callback(self.discard)
            self._make_shared_folder()
            for open_writer in _openers(plan, source, frame_rate):
                with uninterrupted():
                    self._writers.append(open_writer())
            opened.pop_all()

    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        with uninterrupted():  # every output holds the same whole frames
            for writer in self._writers:
                writer.write(pixels, result, timestamp)
            self.frames += 1

    def close(self) -> None:
        """Where one cannot be finished, those behind it are discarded."""
        with ExitStack() as stack:
            for writer in reversed(self._writers):
                stack.enter_context(writer)

    def discard(self) -> None:
        with ExitStack() as stack:
            if self._made is not None:
                stack.callback(self._made.rmdir)
                self._made = None
            for writer in self._writers:
                stack.callback(writer.discard)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt) and self.kept:
            super().__exit__(None, None, None)
        else:
            super().__exit__(kind, error, trace)

    @property
    def kept(self) -> bool:
        """Whether an interruption now keeps what is done."""
        return bool(self._plan.keep_partial and self.frames and self._writers)

    def _make_shared_folder(self) -> None:
        """The sequences of several runs share it."""
        if self._plan.davis is not None and not self._plan.davis.is_dir():
            with naming_write_errors(self._plan.davis):
                self._plan.davis.mkdir()
            self._made = self._plan.davis

    def _check(self, source: Path) -> None:
        paths = self._plan.paths(source)
        for number, path in enumerate(paths):
            kept = [one for one in (source, *source.absolute().parents) if one.exists()]  # an address is no file
            if any(os.path.exists(path) and path.samefile(lost) for lost in kept):
                raise VideoError(f"{path}: {source} would be lost, which is segmented. Choose another output path.")
            if path.absolute() in [other.absolute() for other in paths[:number]]:
                raise VideoError(f"{path}: is named as an output twice.")


def _openers(plan: OutputPlan, source: Path, frame_rate: Fraction | None) -> list[Callable[[], ResultWriter]]:
    """Those by suffix have been checked."""
    openers = [_by_suffix(path, frame_rate, plan) for path in plan.outputs]
    if (davis := plan.davis) is not None:
        openers.append(lambda: DavisWriter(davis, source.stem, overwrite=plan.overwrite))
    if (panoptic := plan.panoptic) is not None:
        openers.append(lambda: PanopticWriter(panoptic, overwrite=plan.overwrite))
    return openers


def _by_suffix(path: Path, frame_rate: Fraction | None, plan: OutputPlan) -> Callable[[], ResultWriter]:
    replaces = any_file if plan.overwrite else nothing
    suffix = path.suffix.lower()
    if suffix in _MASKS:
        return lambda: CocoRleWriter(path, replaces=replaces)
    if suffix in _IMAGE:
        if frame_rate is not None:
            raise VideoError(f"{path}: holds one image; wanted one of {_listed(VIDEO_SUFFIXES + _MASKS)} for a video.")
        return lambda: OverlayImageWriter(path, plan.style, plan.regions, replaces=replaces)
    if suffix in VIDEO_SUFFIXES:
        if frame_rate is None:
            raise VideoError(f"{path}: an image makes no video; wanted one of {_listed(_IMAGE + _MASKS)}.")
        return lambda: OverlayVideoWriter(path, frame_rate, plan.style, plan.regions, replaces=replaces)
    known = _listed(VIDEO_SUFFIXES + _IMAGE + _MASKS)
    raise VideoError(f"{path}: cannot write {suffix or 'a file without suffix'}; wanted one of {known}.")


def _listed(suffixes: Sequence[str]) -> str:
    return ", ".join(suffixes)
