"""The outputs of one run, by their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import any_file, naming_write_errors, nothing, uninterrupted
from x2sam_rt.media.audio import Audio
from x2sam_rt.media.encoding import ALPHA_SUFFIXES, DEFAULT_ENCODING, VIDEO_SUFFIXES, Encoding, format_of
from x2sam_rt.media.types import Pixels
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.writers.coco import CocoRleWriter
from x2sam_rt.runtime.writers.davis import DavisWriter
from x2sam_rt.runtime.writers.overlay import PLAIN_STYLE, Overlay, OverlayStyle
from x2sam_rt.runtime.writers.panoptic import PanopticWriter
from x2sam_rt.runtime.writers.pictures import (
    Painter,
    PictureFolderWriter,
    PictureImageWriter,
    PictureVideoWriter,
    cutout,
    matte,
)
from x2sam_rt.runtime.writers.writer import ResultWriter
from x2sam_rt.tasks.regions import RegionPrompt

_IMAGE, _ALPHA_IMAGE, _MASKS = (".png", ".jpg", ".jpeg"), (".png",), (".jsonl",)
Opener = Callable[[], ResultWriter]


@dataclass(frozen=True)
class OutputPlan:
    """What a run writes. outputs: the suffix says what. davis, panoptic: folders. matte: white where any segment is;
    cutout: the frame there, transparent elsewhere; both a file, or, without a suffix, a folder of PNGs for a video.

    overwrite: whether what is there already may be replaced, where it is of the same kind. keep_partial: whether an
    interrupted run keeps the frames that are done. style, regions: of overlays. encoding: of videos of overlays and
    mattes. sound: whether videos of overlays and cut-outs get the source's."""

    outputs: tuple[Path, ...] = ()
    davis: Path | None = None
    panoptic: Path | None = None
    matte: Path | None = None
    cutout: Path | None = None
    overwrite: bool = False
    keep_partial: bool = False
    style: OverlayStyle = PLAIN_STYLE
    regions: tuple[RegionPrompt, ...] = ()
    encoding: Encoding = DEFAULT_ENCODING
    sound: bool = True

    def paths(self, source: Path) -> tuple[Path, ...]:
        """All that takes a name. source: the file that is segmented."""
        others = (self.davis and self.davis / source.stem, self.panoptic, self.matte, self.cutout)
        return (*self.outputs, *(path for path in others if path is not None))


class RunOutputs(ResultWriter):
    """The writers of one run as one, opened before anything is computed.

    source: the file that is segmented; frame_rate: its frames per second, None of an image; audio: what sounds with it;
    size: (height, width) of its frames, if it is known.
    notes: what is to be said of them to whoever waits for them.
    Raises VideoError for an output that is the source, is named twice, exists (see OutputPlan), cannot be encoded, has
    a suffix nobody writes or one that does not fit the source; nothing is left then.
    """

    def __init__(
        self,
        plan: OutputPlan,
        source: Path,
        frame_rate: Fraction | None,
        audio: Audio | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._plan, self.frames = plan, 0
        self._check(source)
        self._writers: list[ResultWriter] = []
        self._made: Path | None = None
        openers = _Openers(plan, source, frame_rate, audio if plan.sound else None, size)
        with ExitStack() as opened:
            opened.callback(self.discard)
            self._make_shared_folder()
            for open_writer in openers.all():
                with uninterrupted():
                    self._writers.append(open_writer())
            opened.pop_all()
        growing = [writer.growing for writer in self._writers if isinstance(writer, CocoRleWriter) and frame_rate]
        self.notes = (*openers.silent, *(f"{path.name} can be followed: tail -f {path}" for path in growing))

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
        videos = [path for path in (*self._plan.outputs, self._plan.matte) if path and _suffix(path) in VIDEO_SUFFIXES]
        if self._plan.encoding != DEFAULT_ENCODING and not videos:
            raise VideoError(
                "A codec or quality is given (--codec, --crf), and no output is a video of overlays or mattes, which "
                f"take one. Name such an output ({_listed(VIDEO_SUFFIXES)})."
            )


class _Openers:
    """What opens each output of a plan. silent: notes on those that get no sound."""

    def __init__(
        self,
        plan: OutputPlan,
        source: Path,
        frame_rate: Fraction | None,
        audio: Audio | None,
        size: tuple[int, int] | None,
    ) -> None:
        self._plan, self._source, self._frame_rate, self._audio, self._size = plan, source, frame_rate, audio, size
        self._replaces = any_file if plan.overwrite else nothing
        self.silent: list[str] = []

    def all(self) -> Iterator[Opener]:
        plan = self._plan
        yield from [self._by_suffix(path) for path in plan.outputs]
        if (davis := plan.davis) is not None:
            yield lambda: DavisWriter(davis, self._source.stem, overwrite=plan.overwrite)
        if (panoptic := plan.panoptic) is not None:
            yield lambda: PanopticWriter(panoptic, overwrite=plan.overwrite)
        if plan.matte is not None:
            yield self._picture(plan.matte, matte, plan.encoding, None)
        if plan.cutout is not None:
            yield self._picture(plan.cutout, cutout, Encoding(alpha=True), self._audio)

    def _by_suffix(self, path: Path) -> Opener:
        if _suffix(path) in _MASKS:
            return lambda: CocoRleWriter(path, replaces=self._replaces)
        self._require_suffix(path, (*VIDEO_SUFFIXES, *_IMAGE, *_MASKS))
        overlay = Overlay(self._plan.style, self._plan.regions, self._frame_rate)
        return self._picture(path, overlay.draw, self._plan.encoding, self._audio, _MASKS)

    def _picture(
        self, path: Path, paint: Painter, encoding: Encoding, audio: Audio | None, others: tuple[str, ...] = ()
    ) -> Opener:
        """others: the suffixes that would do as well."""
        images = _ALPHA_IMAGE if encoding.alpha else _IMAGE
        videos = ALPHA_SUFFIXES if encoding.alpha else VIDEO_SUFFIXES
        if self._frame_rate is None:
            if _suffix(path) in VIDEO_SUFFIXES:
                raise VideoError(f"{path}: an image makes no video; wanted one of {_listed(images + others)}.")
            self._require_suffix(path, images)
            return lambda: PictureImageWriter(path, paint, replaces=self._replaces)
        if not _suffix(path):
            return lambda: PictureFolderWriter(path, paint, overwrite=self._plan.overwrite)
        if _suffix(path) in _IMAGE:
            raise VideoError(f"{path}: holds one image; wanted one of {_listed(videos + others)} for a video.")
        self._require_suffix(path, videos)
        rate, sound = self._frame_rate, self._sound(path, audio)
        return lambda: PictureVideoWriter(
            path, rate, paint, encoding=encoding, audio=sound, size=self._size, replaces=self._replaces
        )

    def _sound(self, path: Path, audio: Audio | None) -> Audio | None:
        obstacle = None if audio is None else audio.obstacle(format_of(path))
        if obstacle is None:
            return audio
        self.silent.append(f"{path} gets no sound: {obstacle}")
        return None

    def _require_suffix(self, path: Path, wanted: tuple[str, ...]) -> None:
        if _suffix(path) not in wanted:
            found = _suffix(path) or "a file without suffix"
            raise VideoError(f"{path}: cannot write {found} here; wanted one of {_listed(wanted)}.")


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _listed(suffixes: Sequence[str]) -> str:
    return ", ".join(suffixes)
