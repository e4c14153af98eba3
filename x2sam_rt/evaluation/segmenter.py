"""A loaded bundle as something to be measured."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from x2sam_rt.data.example import Example
from x2sam_rt.errors import NoMasksError
from x2sam_rt.evaluation.prediction import Prediction, Showing, shown_clip
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.results import FrameResult, Segmentation
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.tasks.marks import LinkedText, link, parse_marks

_LANGUAGE = "language"
_NOTHING = -1


class RuntimeSegmenter:
    """Runs examples through sessions of a runtime."""

    def __init__(self, runtime: Runtime, again: ReAsk = ONCE) -> None:
        """again: when a video's instruction is asked again, on the frames seen last."""
        self._runtime, self._again = runtime, again

    @contextlib.contextmanager
    def predict(self, example: Example, showing: Showing) -> Iterator[Prediction]:
        """See `Segmenter.predict`."""
        if example.media == "image":
            yield self._of_image(example)
            return
        with self._session(showing) as session:
            yield self._of_video(session, example, showing)

    def _of_image(self, example: Example) -> Prediction:
        started = time.perf_counter()
        try:
            result = self._runtime.segment_image(example.frames[0], example.instruction)
        except NoMasksError as error:
            return _refused(example, error, started)
        text = LinkedText(result.text, result.spans)
        return Prediction((result,), text, drew=True, instruction_ms=result.timings.get(_LANGUAGE, 0.0))

    def _of_video(self, session: VideoSession, example: Example, showing: Showing) -> Prediction:
        started = time.perf_counter()
        try:
            session.ask(example.instruction, frames=shown_clip(example, showing))
        except NoMasksError as error:
            return _refused(example, error, started)
        assert session.answer is not None, "a clip was given, so the answer is there"
        frames = (session.step(frame) for frame in example.frames)
        return Prediction(frames, session.answer.text, drew=True, instruction_ms=_since(started))

    def _session(self, showing: Showing) -> VideoSession:
        if not showing.forget:
            return self._runtime.stream(again=self._again)
        runtime = self._runtime
        return ForgetfulSession(runtime.engines, runtime.language, runtime.manifest.model, "video", self._again)


class ForgetfulSession(VideoSession):
    """Empties the mask memory before every frame. What post-processing carries from frame to frame (ids, and the
    likeness to earlier results of the object task) stays, so that the difference is the memory's alone."""

    def step(self, frame: np.ndarray[Any, Any] | Tensor) -> FrameResult:
        self.forget()
        return super().step(frame)


def _refused(example: Example, error: NoMasksError, started: float) -> Prediction:
    """The model wrote words only: every frame without a segment."""
    nothing = np.full(example.frames.shape[1:3], _NOTHING, dtype=np.int32)
    said = link(parse_marks(error.text))
    frames = (
        FrameResult(index, Segmentation((), nothing, _NOTHING), said.text, said.spans)
        for index in range(len(example.frames))
    )
    return Prediction(frames, said, drew=False, instruction_ms=_since(started))


def _since(started: float) -> float:
    """Milliseconds."""
    return (time.perf_counter() - started) * 1e3
