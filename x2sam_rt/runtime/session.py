"""A stream in progress: frames in, masks out, and an instruction that may change at any time."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import SessionError
from x2sam_rt.model.preprocess import SegmentorInput, check_frame, segmentor_input
from x2sam_rt.runtime.engines.engine import Engines
from x2sam_rt.runtime.language import Answer, LanguageRuntime, OnText
from x2sam_rt.runtime.pipeline import MaskPrediction, Pipeline
from x2sam_rt.runtime.postprocess import FrameLogits, PostProcessor, make_postprocessor
from x2sam_rt.runtime.prompt_frames import PromptFrames, RecentFrames
from x2sam_rt.runtime.results import FrameResult, Segmentation
from x2sam_rt.tasks.instruction import Instruction, as_instruction
from x2sam_rt.tasks.table import Media

_NOTHING = -1


@dataclass(frozen=True, eq=False)
class _Waiting:
    """An instruction that came before the first frame."""

    instruction: Instruction
    on_text: OnText | None


class VideoSession:
    """Made by `Runtime.stream`. Steps one frame at a time, in fixed memory, for a stream of any length.

    The language model runs when an instruction arrives, not per frame: on the frames seen so far, at most the last
    16 (a file is prompted with 16 evenly spaced ones). Its answer holds until the next `ask`.
    """

    def __init__(self, engines: Engines, language: LanguageRuntime, config: ModelConfig, media: Media) -> None:
        self._pipeline: Pipeline | None = Pipeline(engines, config)
        self._language, self._config, self._media = language, config, media
        self._recent = RecentFrames()
        self._waiting: _Waiting | None = None
        self._answer: Answer | None = None
        self._postprocess: PostProcessor | None = None

    @property
    def answer(self) -> Answer | None:
        """The answer in force; None before the first frame."""
        return self._answer

    def ask(
        self,
        prompt: str | Instruction,
        *,
        frames: PromptFrames | None = None,
        keep_memory: bool = True,
        on_text: OnText | None = None,
    ) -> None:
        """Changes the instruction; the next frame uses it. Before the first frame it waits for that frame.

        frames: what to answer on, instead of the frames seen. keep_memory: False forgets what was segmented so far.
        on_text: gets generated text as it grows. Raises PromptError, and NoMasksError (with the text) when the model
        answers without masks; the instruction in force then stays.
        """
        pipeline = self._require_open()
        instruction = as_instruction(prompt)
        instruction.require_media(self._media)
        if frames is None and not len(self._recent):
            self._waiting = _Waiting(instruction, on_text)
            return
        self._take_answer(instruction, frames or self._recent.prompt_frames(), on_text)
        if not keep_memory:
            pipeline.forget()

    def step(self, frame: np.ndarray[Any, Any] | Tensor) -> FrameResult:
        """Segments the next frame: (H, W, 3) uint8 RGB of any size; results come back in that size.

        Raises FrameError for a frame that cannot be segmented (the stream goes on with the next one), SessionError
        after `close` or before any instruction.
        """
        pipeline = self._require_open()
        pixels = check_frame(frame)
        if self._answer is None and self._waiting is None:
            raise SessionError("step before any instruction: call ask(…) or pass prompt= to stream(…) first.")
        with pipeline.timer("preprocess"):
            taken = segmentor_input(pixels, self._config.image_size, self._config.resize)
            self._recent.add(pipeline.next_frame, pixels)
        if self._waiting is not None:
            with pipeline.timer("language"):
                self._take_answer(self._waiting.instruction, self._recent.prompt_frames(), self._waiting.on_text)
        assert self._answer is not None
        index, segmentation = pipeline.next_frame, self._segment(pipeline, self._answer, taken)
        return FrameResult(index, segmentation, self._answer.text.text, self._answer.text.spans, pipeline.timer.take())

    def forget(self) -> None:
        """Empties the mask memory, as after a cut; the instruction and its answer stay. Raises SessionError after
        `close`."""
        self._require_open().forget()

    def close(self) -> None:
        """Gives the stream's memory back. Closing twice is allowed."""
        self._pipeline = self._answer = self._waiting = self._postprocess = None
        self._recent = RecentFrames()

    def __enter__(self) -> VideoSession:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> Pipeline:
        if self._pipeline is None:
            raise SessionError("This session is closed; open another with Runtime.stream(…).")
        return self._pipeline

    def _take_answer(self, instruction: Instruction, frames: PromptFrames, on_text: OnText | None) -> None:
        answer = self._language.answer(instruction, self._media, frames, on_text=on_text)
        self._answer, self._waiting = answer, None
        rule = instruction.row.rule
        self._postprocess = None
        if rule is not None:
            options = instruction.options_in_force
            self._postprocess = make_postprocessor(rule, answer.conditions, options, answer.region_masks)

    def _segment(self, pipeline: Pipeline, answer: Answer, taken: SegmentorInput) -> Segmentation:
        if answer.embeddings is None or self._postprocess is None:
            pipeline.skip()
            return _no_masks(taken)
        prediction = pipeline.step(taken.pixels, answer.embeddings)
        with pipeline.timer("postprocess"):
            return self._postprocess(_frame_logits(prediction, taken, self._config.image_size))


def _frame_logits(prediction: MaskPrediction, taken: SegmentorInput, side: int) -> FrameLogits:
    return FrameLogits(
        prediction.mask_logits.float(), prediction.class_logits.float(), side, taken.scaled_size, taken.original_size
    )


def _no_masks(taken: SegmentorInput) -> Segmentation:
    return Segmentation((), np.full(taken.original_size, _NOTHING, dtype=np.int32), _NOTHING)
