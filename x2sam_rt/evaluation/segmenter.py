"""What is made of an example: by a loaded bundle, or by anything else that is to be measured the same way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from x2sam_rt.data.example import Example
from x2sam_rt.errors import DataError, EngineError, FrameError, NoMasksError, PromptError
from x2sam_rt.model.frame_layout import RGB, Frame, Layout
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.results import FrameResult, Segmentation
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.tasks.marks import LinkedText, link, parse_marks
from x2sam_rt.tasks.table import Media
from x2sam_rt.tasks.wording import Wording

_NOTHING = -1


@dataclass(frozen=True)
class Showing:
    """How an example is put to the model. language_frames: the frames the language model sees, by number. wording: of
    questions and known answers; None = the bundle's own. forget: every frame is segmented as the first of its stream,
    by the same answer: the control that shows what the memory is worth. again: when a video's instruction is
    asked again.
    """

    language_frames: tuple[int, ...]
    wording: Wording | None = None
    forget: bool = False
    again: ReAsk = ONCE


@dataclass(frozen=True, eq=False)
class Prediction:
    """frames: one result per frame of the example, in order and in its own size; made while one goes through them,
    which is possible once. text: what the model answered, its phrases linked to `Segment.label_id`; answer: the same
    with its marks, empty where it was known beforehand. has_seg: whether the answer had the token masks are drawn for;
    without it no frame has a segment. instruction_ms: how long the language model took.
    """

    frames: Iterable[FrameResult]
    text: LinkedText
    answer: str
    has_seg: bool
    instruction_ms: float


class Segmenter(Protocol):
    """Something that can be measured."""

    def predict(self, example: Example, showing: Showing) -> AbstractContextManager[Prediction]:
        """Leaving the context gives the stream's memory back. Raises, here or while going through the frames,
        FrameError, PromptError or EngineError for what cannot be segmented."""


@contextlib.contextmanager
def predicted(segmenter: Segmenter, example: Example, showing: Showing) -> Iterator[Prediction]:
    """The prediction, with the example's name in every complaint, those of its frames included.

    Raises DataError for an example that cannot be asked or segmented, EngineError for an engine that fails on it.
    """
    with _naming(example), segmenter.predict(example, showing) as prediction:
        yield replace(prediction, frames=_named(example, prediction.frames))


@contextlib.contextmanager
def _naming(example: Example) -> Iterator[None]:
    try:
        yield
    except (FrameError, PromptError) as error:
        raise DataError(f"Example {example.name}: {error}") from error
    except EngineError as error:
        raise EngineError(f"Example {example.name}: {error}") from error


def _named(example: Example, frames: Iterable[FrameResult]) -> Iterator[FrameResult]:
    with _naming(example):
        yield from frames


class RuntimeSegmenter:
    """Runs examples through sessions of a runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @contextlib.contextmanager
    def predict(self, example: Example, showing: Showing) -> Iterator[Prediction]:
        """See `Segmenter.predict`."""
        with self._session(example.media, showing) as session:
            yield _prediction(session, example, showing)

    def _session(self, media: Media, showing: Showing) -> VideoSession:
        kind = ForgetfulSession if showing.forget else VideoSession
        runtime = self._runtime
        language = runtime.language if showing.wording is None else runtime.language.worded(showing.wording)
        return kind(runtime.engines, language, runtime.manifest.model, media, showing.again)


class ForgetfulSession(VideoSession):
    """Empties the mask memory before every frame. What post-processing carries from frame to frame (ids, and the
    likeness to earlier results of the object task) stays, so that the difference is the memory's alone."""

    def step(self, frame: Frame, layout: Layout = RGB) -> FrameResult:
        self.forget()
        return super().step(frame, layout)


def shown_frames(example: Example, language_frames: tuple[int, ...]) -> PromptFrames:
    """The frames the language model is shown, and those the visual prompts are drawn on."""
    frames = [torch.from_numpy(np.ascontiguousarray(frame)) for frame in example.frames]
    regions = example.instruction.regions
    prompted = {region.frame: frames[region.frame] for region in regions if region.frame < len(frames)}
    return PromptFrames(tuple(frames[place] for place in language_frames), prompted)


def _prediction(session: VideoSession, example: Example, showing: Showing) -> Prediction:
    started, written = time.perf_counter(), list[str]()
    try:
        session.ask(example.instruction, frames=shown_frames(example, showing.language_frames), on_text=written.append)
    except NoMasksError as error:
        return _refused(example, error, started)
    assert session.answer is not None, "a clip was given, so the answer is there"
    answer = "".join(written) or example.instruction.answer or ""
    elapsed = _since(started)
    frames = (session.step(frame) for frame in example.frames)
    return Prediction(frames, session.answer.text, answer, True, elapsed)


def _refused(example: Example, error: NoMasksError, started: float) -> Prediction:
    """The model wrote words only: every frame without a segment."""
    nothing = np.full(example.frames.shape[1:3], _NOTHING, dtype=np.int32)
    said = link(parse_marks(error.text))
    frames = (
        FrameResult(index, Segmentation((), nothing, _NOTHING), said.text, said.spans)
        for index in range(len(example.frames))
    )
    return Prediction(frames, said, error.text, has_seg=False, instruction_ms=_since(started))


def _since(started: float) -> float:
    """Milliseconds."""
    return (time.perf_counter() - started) * 1e3
