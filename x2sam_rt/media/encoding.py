"""How videos are encoded: which codecs a container takes, which of them FFmpeg has here, and with transparency."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import av.container

from x2sam_rt.errors import VideoError

# By suffix: FFmpeg's format, the codec where none is asked for, and the one that holds transparency.
_CONTAINERS = {
    ".mp4": ("mp4", "h264", None),
    ".mov": ("mov", "h264", "prores"),
    ".mkv": ("matroska", "h264", "vp9"),
    ".webm": ("webm", "vp9", "vp9"),
}
VIDEO_SUFFIXES = tuple(_CONTAINERS)
ALPHA_SUFFIXES = tuple(suffix for suffix, (_, _, alpha) in _CONTAINERS.items() if alpha)


@dataclass(frozen=True)
class Codec:
    """encoder: its name in FFmpeg. pixels, alpha: the format it is given, without and with transparency. worst: the
    largest crf, None = it takes none. crf: the one where none is asked for. tag: what players know it by in MP4."""

    encoder: str
    pixels: str
    alpha: str | None = None
    worst: int | None = None
    crf: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    alpha_options: Mapping[str, str] = field(default_factory=dict)
    tag: str | None = None


_X265 = {"preset": "fast", "x265-params": "log-level=error"}
CODECS = {
    "h264": Codec("libx264", "yuv420p", worst=51, crf=18, options={"preset": "fast"}),
    "hevc": Codec("libx265", "yuv420p", worst=51, crf=20, options=_X265, tag="hvc1"),
    "av1": Codec("libsvtav1", "yuv420p", worst=63, crf=28, options={"preset": "8"}),
    "vp9": Codec(
        "libvpx-vp9",
        "yuv420p",
        "yuva420p",
        worst=63,
        crf=24,
        options={"b": "0", "cpu-used": "4", "row-mt": "1"},
        alpha_options={"auto-alt-ref": "0"},  # its alpha plane is encoded apart, and must keep frame for frame
    ),
    "prores": Codec(
        "prores_ks",
        "yuv422p10le",
        "yuva444p10le",
        options={"vendor": "apl0"},
        alpha_options={"profile": "4444", "alpha_bits": "8"},
    ),
}


@dataclass(frozen=True)
class Encoding:
    """How a video is encoded.

    codec: one of CODECS, None = the container's own. crf: its quality, 0 the best; None = the codec's own. alpha:
    whether the frames have transparency. Raises VideoError for a codec or crf that is none."""

    codec: str | None = None
    crf: int | None = None
    alpha: bool = False

    def __post_init__(self) -> None:
        if self.codec is not None and self.codec not in CODECS:
            raise VideoError(f"{self.codec} is no codec here; wanted one of {', '.join(CODECS)}.")
        if self.crf is not None and self.crf < 0:
            raise VideoError(f"The quality crf is {self.crf}; wanted 0 (the best) or more.")

    def encoder(self, path: Path) -> Encoder:
        """What encodes a file of that name. Raises VideoError where its container does not hold the codec, the codec
        no transparency or no such crf, or FFmpeg was built without it."""
        format, own, alpha = _container(path)
        name = self.codec or (alpha if self.alpha else own)
        if name is None:
            raise VideoError(f"{path}: holds no transparency; wanted one of {', '.join(ALPHA_SUFFIXES)}.")
        codec = CODECS[name]
        if name not in _supported(format):
            held = ", ".join(one for one in CODECS if one in _supported(format))
            raise VideoError(f"{path}: {path.suffix} files hold no {name}; wanted one of {held}, or another suffix.")
        if self.alpha and codec.alpha is None:
            raise VideoError(f"{path}: {name} holds no transparency; leave the codec to the suffix.")
        _require_built(path, name, codec.encoder)
        return Encoder(format, codec, self.alpha, self._quality(path, name, codec))

    def _quality(self, path: Path, name: str, codec: Codec) -> int | None:
        if self.crf is None:
            return codec.crf
        if codec.worst is None or self.crf > codec.worst:
            wanted = "no crf" if codec.worst is None else f"a crf from 0 to {codec.worst}"
            raise VideoError(f"{path}: {name} takes {wanted}, not {self.crf}.")
        return self.crf


DEFAULT_ENCODING = Encoding()


@dataclass(frozen=True)
class Encoder:
    """A codec, chosen and checked. format: FFmpeg's name of the container."""

    format: str
    codec: Codec
    alpha: bool
    crf: int | None

    @property
    def pixels(self) -> str:
        return self.codec.alpha if self.alpha and self.codec.alpha else self.codec.pixels

    @property
    def options(self) -> dict[str, str]:
        os.environ.setdefault("SVT_LOG", "1")  # its library prints a page about itself otherwise
        quality = {} if self.crf is None else {"crf": str(self.crf)}
        return {**self.codec.options, **(self.codec.alpha_options if self.alpha else {}), **quality}

    def require_size(self, path: Path, height: int, width: int) -> None:
        """Raises VideoError where the codec takes no frames of this size; path: for the message."""
        trial = av.CodecContext.create(self.codec.encoder, "w")
        assert isinstance(trial, av.VideoCodecContext), "its codec is one of pictures"
        trial.width, trial.height, trial.pix_fmt = even(width), even(height), self.pixels
        trial.time_base, trial.options = Fraction(1, 25), self.options
        try:
            with kept_scheduling():
                trial.open()
        except av.FFmpegError as error:
            raise VideoError(
                f"{path}: {self.codec.encoder} takes no frames of {width}×{height} pixels ({error.strerror}). Choose "
                f"another codec ({', '.join(CODECS)}), or write .jsonl."
            ) from error


def even(pixels: int) -> int:
    """A width or height as videos have it: most codecs halve the colour planes."""
    return pixels + pixels % 2


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """Threads of this process that the body starts or alters are scheduled as its own is, for good.

    SVT-AV1, where it may (as root), puts its threads and the one that opens it at the highest real-time priority, and
    leaves them there: what such a process computes from then on, and all that it starts, keeps others from the
    processors. Done on Linux alone, where threads have such policies of their own.
    """
    if sys.platform != "linux":
        yield
        return
    own, before = (os.sched_getscheduler(0), os.sched_getparam(0)), _scheduling()
    try:
        yield
    finally:
        for thread, policy in _scheduling().items():
            if policy != before.get(thread, own[0]):
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    os.sched_setscheduler(thread, *own)


def _scheduling() -> dict[int, int]:
    """Policies by thread of this process."""
    policies = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with suppress(ProcessLookupError):
            policies[thread] = os.sched_getscheduler(thread)
    return policies


def format_of(path: Path) -> str:
    """FFmpeg's name of the container that a suffix stands for. Raises VideoError for one of none."""
    return _container(path)[0]


def _container(path: Path) -> tuple[str, str, str | None]:
    suffix = path.suffix.lower()
    if suffix not in _CONTAINERS:
        raise VideoError(f"{path}: {suffix or 'no suffix'} is no video format here; use {', '.join(VIDEO_SUFFIXES)}.")
    return _CONTAINERS[suffix]


def _supported(format: str) -> frozenset[str]:
    with av.open(BytesIO(), "w", format=format) as container:
        return frozenset(container.supported_codecs)


def _require_built(path: Path, name: str, encoder: str) -> None:
    try:
        av.codec.Codec(encoder, "w")
    except av.codec.codec.UnknownCodecError as error:
        raise VideoError(
            f"{path}: cannot be written as {name}: this PyAV ({av.__version__}) was built without {encoder}. Choose "
            "another codec or suffix, or install PyAV's own wheels (pip install --force-reinstall av)."
        ) from error
