"""Runs a file through a runtime: frames in, results to writers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from x2sam_rt.media.source import FrameSource
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video import VideoFrame
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.growing_text import OnText
from x2sam_rt.runtime.prompt_frames import PromptFrames, read_prompt_frames
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.writers import ResultWriter
from x2sam_rt.tasks.instruction import Instruction

DECODE, WRITE = "decode", "write"


@dataclass(frozen=True, eq=False)
class RunFrame:
    """One frame's result, with the milliseconds of everything that was done for it, reading and writing too."""

    result: FrameResult
    timings: dict[str, float]


def run_video(
    runtime: Runtime,
    source: FrameSource,
    instruction: Instruction,
    writers: Sequence[ResultWriter] = (),
    *,
    on_text: OnText | None = None,
    again: ReAsk = ONCE,
    on_ready: Callable[[int | None], None] = lambda frames: None,
) -> Iterator[RunFrame]:
    """Streams a source, one result per frame. What can be read twice is: the instruction is answered on frames of all
    of it; of what cannot, on the first. again: when it is asked again, on the frames streamed last. on_ready: told the
    number of frames (None = unknown) once the instruction is answered. writers: are written to; whoever opened them
    closes them.

    Raises VideoError, PromptError.
    """
    clip = read_prompt_frames(source, instruction, runtime.manifest.model.video_budget)
    with runtime.stream(instruction, frames=clip, on_text=on_text, again=again) as session:
        on_ready(source.num_frames)
        read = _TimedFrames(source)
        # Of what comes live none waits already: reading ahead would hold every result back by a frame.
        results = map(session.step, read) if clip is None else session.steps(read)
        for result in results:
            frame, milliseconds = read.waiting.popleft()
            stepped = time.perf_counter()
            for writer in writers:
                writer.write(frame.pixels, result, frame.timestamp)
            written = (time.perf_counter() - stepped) * 1e3
            yield RunFrame(result, {DECODE: milliseconds, **result.timings, WRITE: written})


class _TimedFrames:
    """A source's frames. waiting: those handed out, for the writers, with the milliseconds each took."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.waiting: deque[tuple[VideoFrame, float]] = deque()

    def __iter__(self) -> Iterator[Pixels]:
        started = time.perf_counter()
        for frame in self._source:
            self.waiting.append((frame, (time.perf_counter() - started) * 1e3))
            yield frame.pixels
            started = time.perf_counter()


def answer_video(
    runtime: Runtime, source: FrameSource, instruction: Instruction, *, on_text: OnText | None = None
) -> str:
    """The answer to an instruction that draws no masks: the language model alone, no frame is segmented. Raises
    VideoError, PromptError."""
    clip = read_prompt_frames(source, instruction, runtime.manifest.model.video_budget)
    if clip is None:
        first = torch.from_numpy(next(iter(source)).pixels)
        clip = PromptFrames((first,), {0: first})
    with runtime.stream(instruction, frames=clip, on_text=on_text) as session:
        assert session.answer is not None, "a clip was given, so the answer is there"
        return session.answer.text.text
