"""A client's side of a stream, without the wire: what it says, and what it makes of what comes back."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from x2sam_rt.errors import ServeError
from x2sam_rt.media.rle import decode_mask
from x2sam_rt.media.types import BoolMask, Pixels
from x2sam_rt.serve.messages import (
    FROM_CLIENT,
    FROM_SERVER,
    Answered,
    Ask,
    Asked,
    Closed,
    Draining,
    Drop,
    Failed,
    Frame,
    Masks,
    Open,
    Opened,
    Part,
    PixelFormat,
    Result,
    Resume,
    Resumed,
    Saved,
    decode,
    encode,
)
from x2sam_rt.tasks.instruction import Instruction, as_instruction

Prompt = str | Instruction
_PART = 2**20  # bytes of a snapshot in one message, which every server and proxy lets through
_FORMATS: dict[bytes, PixelFormat] = {b"\xff\xd8\xff": "jpeg", b"\x89PN": "png"}


@dataclass(frozen=True, eq=False)
class RemoteSegment:
    """As `x2sam_rt.Segment`. bbox: [x, y, width, height]."""

    id: int
    label: str
    label_id: int
    score: float
    is_thing: bool
    area: int
    bbox: tuple[int, int, int, int]
    mask: BoolMask


@dataclass(frozen=True, eq=False)
class RemoteResult:
    """One frame's result. frame: the number it was sent with. record: as `FrameResult.record`. timings: milliseconds
    per stage, `served` from receipt to result. dropped: frames that gave way since the result before."""

    frame: int
    record: dict[str, Any]
    timings: dict[str, float]
    dropped: tuple[int, ...]
    pngs: tuple[bytes, ...] = ()

    @cached_property
    def segments(self) -> tuple[RemoteSegment, ...]:
        known = ("id", "label", "label_id", "score", "is_thing", "area")
        return tuple(
            RemoteSegment(**{name: one[name] for name in known}, bbox=tuple(one["bbox"]), mask=self._mask(number))
            for number, one in enumerate(self.record["segments"])
        )

    @property
    def text(self) -> str:
        """What the model said."""
        return str(self.record["text"])

    def _mask(self, number: int) -> BoolMask:
        """(H, W) bool."""
        if self.pngs:
            return np.asarray(Image.open(io.BytesIO(self.pngs[number])), dtype=np.bool_)
        return decode_mask(self.record["segments"][number]["rle"], *self.record["size"])


class Conversation:
    """What a stream knows: numbers, packets, and what came back but was not asked for yet.

    results, saved: that came and were not taken. answers: instructions that were answered. superseded: numbers of those
    that a later one came before. resumed: after which frames the server had to go on from a snapshot. draining: seconds
    until the server ends, once it said so. dropped: frames that gave way, in all.
    """

    def __init__(self) -> None:
        self.answers: list[Answered] = []
        self.superseded: list[int | None] = []
        self.resumed: list[int | None] = []
        self.draining: float | None = None
        self.dropped, self.session = 0, ""
        self._next = 0
        self.results: deque[RemoteResult] = deque()
        self.saved: deque[bytes] = deque()

    def frame(self, frame: Pixels | bytes, number: int | None) -> tuple[int, bytes]:
        number = self._next if number is None else number
        self._next = number + 1
        if isinstance(frame, bytes):
            if frame[:3] not in _FORMATS:
                raise ServeError("invalid", "The bytes are no JPEG or PNG; raw pixels are given as an array.")
            return number, encode(Frame(frame=number, format=_FORMATS[frame[:3]]), frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ServeError("invalid", f"A frame is {frame.dtype} {frame.shape}; wanted (H, W, 3) uint8 RGB.")
        message = Frame(frame=number, format="rgb", height=frame.shape[0], width=frame.shape[1])
        return number, encode(message, np.ascontiguousarray(frame).tobytes())

    def take(self, data: str | bytes) -> None:
        """Raises ServeError for what the server could not do."""
        packet = decode(data, FROM_SERVER)
        match packet.message:
            case Result() as result:
                self.dropped = result.dropped_in_all
                self.results.append(_result(result, packet.payload))
            case Saved(frames=frames):
                self.saved.append(encode(Resume(frames=frames), packet.payload))
            case Answered() as answered:
                self.answers.append(answered)
            case Resumed(frame=frame):
                self.resumed.append(frame)
                self._next = max(self._next, 0 if frame is None else frame + 1)
            case Draining(seconds=seconds):
                self.draining = seconds
            case Failed(code="superseded", number=number):
                self.superseded.append(number)
            case Failed() as failed:
                raise ServeError(failed.code, failed.message)
            case Closed():
                raise ServeError("closed", "The stream was closed.")
            case Opened(session=session):
                self.session = session


def _result(result: Result, payload: bytes) -> RemoteResult:
    ends = np.cumsum([0, *result.png_sizes]).tolist()
    pngs = tuple(payload[start:end] for start, end in pairwise(ends))
    return RemoteResult(result.frame, result.record, result.timings, result.dropped, pngs)


def first_messages(
    prompt: Prompt | None, snapshot: bytes | None, session: str | None, drop: Drop, masks: Masks, again: str
) -> Iterator[bytes]:
    """What begins a stream."""
    if session is not None:
        yield encode(Resume(session=session, drop=drop, masks=masks))
    elif snapshot is not None:
        yield from _resuming(snapshot, drop, masks)
    else:
        asked = None if prompt is None else Asked.of(as_instruction(prompt))
        yield encode(Open(instruction=asked, drop=drop, masks=masks, again=again))


def _resuming(snapshot: bytes, drop: Drop, masks: Masks) -> Iterator[bytes]:
    """A snapshot in parts, for it may be larger than a message."""
    saved = decode(snapshot, FROM_CLIENT)
    assert isinstance(saved.message, Resume), "snapshots are kept as what resumes them"
    known = {"drop": drop, "masks": masks, "size": len(saved.payload)}
    yield encode(saved.message.model_copy(update=known), saved.payload[:_PART])
    for start in range(_PART, len(saved.payload), _PART):
        yield encode(Part(), saved.payload[start : start + _PART])


def ask_message(prompt: Prompt, number: int, keep_memory: bool, wait: bool) -> bytes:
    asked = Asked.of(as_instruction(prompt))
    return encode(Ask(instruction=asked, number=number, keep_memory=keep_memory, wait=wait))
