"""A session as a worker has it: a stream that speaks in messages and in its client's frame numbers."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from x2sam_rt.errors import FrameError, PromptError, SessionError, SnapshotError, VideoError, X2SamError
from x2sam_rt.media.image import decode_image
from x2sam_rt.media.types import BoolMask, Pixels
from x2sam_rt.runtime.asking import ReAsk
from x2sam_rt.runtime.language import Answer
from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES, PromptFrames
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.serve.messages import (
    Answered,
    Ask,
    Clip,
    Failed,
    Frame,
    Message,
    Open,
    Result,
    Resume,
    Save,
    Saved,
    code_of,
)
from x2sam_rt.serve.settings import WorkerConfig

Tell = Callable[..., None]


class ServedSession:
    """One session. Everything that its client may get wrong is told as `Failed`; an error beyond that is the worker's
    and ends it, and the server has its streams go on elsewhere."""

    def __init__(self, runtime: Runtime, message: Open | Resume, config: WorkerConfig, tell: Tell) -> None:
        self._runtime, self._opened, self._config, self._tell = runtime, message, config, tell
        self._stream: VideoSession | None = None
        self._numbers: dict[int, int] = {}  # of the frames that can be drawn on
        self._first: Ask | Clip | None = None  # waits for the first frame
        self._asking: int | None = None  # number of the question that has no answer yet
        self._wait = False  # the next frame is segmented by its answer
        self._asks, self._since_saved, self._changed = 0, 0, False
        self.parked: tuple[Frame, Pixels, float] | None = None

    def begin(self, snapshot: bytes) -> None:
        """Takes the stream's memory; tells why it cannot."""
        try:
            match self._opened:
                case Resume(frames=frames):
                    self._stream = self._runtime.resume(snapshot)
                    self._numbers = dict(frames)
                    if any(index >= self._stream.next_frame for index in self._numbers.values()):
                        raise SnapshotError("Frames are numbered that the snapshot has not seen.")
                case Open() as opened:
                    again = replace(ReAsk.parse(opened.again), wait=False)
                    if opened.instruction is not None:
                        self._first = Ask(instruction=opened.instruction)
                        self._first.instruction.instruction().require_media(opened.media)
                    self._stream = self._runtime.stream(again=again, media=opened.media)
        except X2SamError as error:
            self.close()
            self._fail(error, fatal=True)

    def take(self, message: Message, payload: bytes) -> None:
        """The next thing that its client wants."""
        if self._stream is None:
            return
        match message:
            case Frame():
                self._take_frame(message, payload)
            case Ask() | Clip():
                self._ask(message, payload)
            case Save():
                self._save(wanted=True)

    def go_on(self) -> None:
        """With the frame that was put aside, when its answer is there."""
        if self.parked is not None and self._stream is not None and self._stream.answer_ready:
            (frame, pixels, started), self.parked = self.parked, None
            self._segment(self._stream, frame, pixels, started)

    def close(self) -> None:
        """Beside the loop where an answer must first find out that nobody wants it."""
        stream, self._stream, self.parked = self._stream, None, None
        if stream is not None and not stream.answer_ready:
            threading.Thread(target=stream.close, daemon=True).start()
        elif stream is not None:
            stream.close()

    def _take_frame(self, message: Frame, payload: bytes) -> None:
        stream, started = self._stream, time.perf_counter()
        assert stream is not None, "checked when the message was taken"
        try:
            pixels = frame_pixels(message, payload, self._config.most_pixels)
            if self._first is not None:
                self._ask_first(stream, self._first, message.frame, pixels)
        except X2SamError as error:
            self._fail(error, frame=message.frame)
            return
        if stream.answer_ready or not (self._wait or stream.answer is None):
            self._segment(stream, message, pixels, started)
        else:
            self.parked = message, pixels, started

    def _segment(self, stream: VideoSession, message: Frame, pixels: Pixels, started: float) -> None:
        decoded = time.perf_counter()
        self._numbers[message.frame] = stream.next_frame
        try:
            result = self._step(stream, pixels)
        except X2SamError as error:
            del self._numbers[message.frame]
            self._fail(error, frame=message.frame)
            return
        self._numbers = dict(list(self._numbers.items())[-PROMPT_FRAMES:])
        stepped = time.perf_counter()
        told, masks = self._told(message.frame, result)
        decode, encode = (decoded - started) * 1e3, (time.perf_counter() - stepped) * 1e3
        timings = {"decode": decode, **result.timings, "encode": encode}
        self._tell(told.model_copy(update={"timings": timings}), masks)
        self._save_when_due()

    def _step(self, stream: VideoSession, pixels: Pixels) -> FrameResult:
        """The frame's result. What a question ran into is told; the frame is then segmented by the answer in force."""
        try:
            return stream.step(pixels)
        except PromptError as error:
            number, self._asking, self._wait = self._asking, None, False
            if stream.answer is None:
                raise
            self._fail(error, number=number)
            return stream.step(pixels)

    def _ask(self, message: Ask | Clip, payload: bytes) -> None:
        stream = self._stream
        assert stream is not None, "checked when the message was taken"
        self._asks += 1
        number = message.number if isinstance(message, Ask) else None
        try:
            if isinstance(message, Clip):
                self._start(stream, message, clip_frames(message, payload))
            elif stream.next_frame == 0 and stream.answer is None:
                message.instruction.instruction().require_media(stream.media)
                self._supersede()
                self._first, self._asking = message, message.number
            else:
                self._start(stream, message, None)
        except X2SamError as error:
            self._fail(error, number=number)

    def _ask_first(self, stream: VideoSession, question: Ask | Clip, number: int, pixels: Pixels) -> None:
        """On the first frame, as a stream by itself would."""
        frame = torch.from_numpy(pixels)
        self._first = None
        self._numbers = {number: 0}
        self._start(stream, question, PromptFrames((frame,), {0: frame}))

    def _start(self, stream: VideoSession, question: Ask | Clip, frames: PromptFrames | None) -> None:
        numbers = self._numbers if isinstance(question, Ask) else {index: index for index in question.drawn_on}
        instruction = question.instruction.instruction(numbers or None)
        number = question.number if isinstance(question, Ask) else 0
        keep = question.keep_memory if isinstance(question, Ask) else True
        self._supersede()
        stream.ask(
            instruction,
            frames=frames,
            keep_memory=keep,
            wait=False,
            on_answer=lambda answer, index: self._answered(answer, index, number),
        )
        self._asking, self._wait = number, isinstance(question, Clip) or question.wait or stream.answer is None

    def _supersede(self) -> None:
        if self._asking is not None:
            message = "Another instruction came before this one had its answer."
            self._tell(Failed(code="superseded", message=message, number=self._asking))
        self._asking = None

    def _answered(self, answer: Answer, index: int, number: int) -> None:
        frame = next(client for client, ours in self._numbers.items() if ours == index)
        self._asking, self._wait, self._changed = None, False, True
        labels, text = answer.conditions.labels, answer.text.text
        self._tell(Answered(frame=frame, number=number, text=text, labels=labels))

    def _told(self, frame: int, result: FrameResult) -> tuple[Result, bytes]:
        record, pngs = result.record(), list[bytes]()
        if self._opened.masks == "png":
            pngs = [png_mask(segment.mask) for segment in result.segments]
            for segment in record["segments"]:
                del segment["rle"]  # type: ignore[misc]
        sizes = tuple(map(len, pngs))
        return Result(frame=frame, record=dict(record), png_sizes=sizes, timings={}), b"".join(pngs)

    def _save_when_due(self) -> None:
        """Every so many frames, and when an answer came that a snapshot from before does not know."""
        self._since_saved += 1
        if self._config.save_every and (self._changed or self._since_saved >= self._config.save_every):
            self._save(wanted=False)

    def _save(self, *, wanted: bool) -> None:
        stream = self._stream
        assert stream is not None, "only sessions that are open save"
        if self._first is not None or stream.answer is None:
            self._fail(SessionError("There is nothing to save before the first frame has its result."))
            return
        self._since_saved, self._changed = 0, False
        frames = tuple(self._numbers.items())
        self._tell(Saved(frames=frames, asks=self._asks, wanted=wanted), stream.snapshot())

    def _fail(
        self, error: X2SamError, *, frame: int | None = None, number: int | None = None, fatal: bool = False
    ) -> None:
        self._tell(Failed(code=code_of(error), message=str(error), frame=frame, number=number, fatal=fatal))


def frame_pixels(message: Frame, payload: bytes, most_pixels: int) -> Pixels:
    """(H, W, 3) uint8 RGB. Raises FrameError."""
    if message.format != "rgb":
        try:
            return decode_image(payload, [message.format.upper()], most_pixels)
        except VideoError as error:
            raise FrameError(str(error)) from error
    if message.height is None or message.width is None:
        raise FrameError("Raw RGB without height and width: say both.")
    if message.height * message.width > most_pixels:
        raise FrameError(f"A frame of {message.width}×{message.height}; up to {most_pixels} pixels are taken.")
    pixels: Pixels = _raw(payload, 1, message.height, message.width)[0]
    return pixels


def clip_frames(message: Clip, payload: bytes) -> PromptFrames:
    """Raises FrameError."""
    count = message.shown + len(message.drawn_on)
    frames = [torch.from_numpy(frame) for frame in _raw(payload, count, message.height, message.width)]
    return PromptFrames(
        tuple(frames[: message.shown]), dict(zip(message.drawn_on, frames[message.shown :], strict=True))
    )


def _raw(payload: bytes, count: int, height: int, width: int) -> Pixels:
    if len(payload) != count * height * width * 3:
        raise FrameError(f"{len(payload)} bytes of raw RGB; {count} × {height} × {width} × 3 were said.")
    raw: Pixels = np.frombuffer(payload, dtype=np.uint8).reshape(count, height, width, 3).copy()
    return raw


def png_mask(mask: BoolMask) -> bytes:
    """(H, W) bool as a PNG of one bit per pixel."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG", compress_level=1)
    return file.getvalue()
