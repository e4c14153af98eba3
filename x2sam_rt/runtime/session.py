"""A stream in progress: frames in, masks out, and an instruction that may change at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import NoMasksError, SessionError
from x2sam_rt.model.conditions import PromptEmbeddings
from x2sam_rt.model.preprocess import SegmentorInput, check_frame, region_input, segmentor_input, vision_input
from x2sam_rt.runtime.language import LanguageSide
from x2sam_rt.runtime.pipeline import Engines, MaskPrediction, Pipeline
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor
from x2sam_rt.runtime.prompt_frames import Clip, RecentFrames
from x2sam_rt.runtime.results import FrameResult, Segmentation
from x2sam_rt.tasks import Instruction, LinkedText, Media, Wording, link
from x2sam_rt.tasks.ask import Ask, as_ask

OnText = Callable[[str], None]
_NOTHING = -1


@dataclass(frozen=True, eq=False)
class Answer:
    """What the language model made of an instruction: its text, phrases linked to conditions, and how to segment."""

    instruction: Instruction
    text: LinkedText
    embeddings: PromptEmbeddings | None
    postprocess: PostProcessor | None


@dataclass(frozen=True, eq=False)
class _Pending:
    ask: Ask
    instruction: Instruction
    on_text: OnText | None


class VideoSession:
    """Made by `Runtime.stream`. Steps one frame at a time, in fixed memory, for a stream of any length.

    The language model runs when an instruction arrives, not per frame: on the frames seen so far, at most the last
    16 (a file is prompted with 16 evenly spaced ones). Its answer holds until the next `ask`.
    """

    def __init__(
        self, engines: Engines, language: LanguageSide, config: ModelConfig, wording: Wording, media: Media
    ) -> None:
        self._pipeline: Pipeline | None = Pipeline(engines, config)
        self._language, self._config, self._wording, self._media = language, config, wording, media
        self._recent = RecentFrames()
        self._pending: _Pending | None = None
        self._answer: Answer | None = None

    @property
    def answer(self) -> Answer | None:
        """The answer in force; None before the first frame."""
        return self._answer

    def ask(
        self,
        prompt: str | Ask,
        *,
        clip: Clip | None = None,
        keep_memory: bool = True,
        on_text: OnText | None = None,
    ) -> None:
        """Changes the instruction; the next frame uses it. Before the first frame it waits for that frame.

        clip: frames to answer on, instead of those seen. keep_memory: False forgets what was segmented so far.
        on_text: gets generated text as it grows. Raises PromptError, and NoMasksError (with the text) when the model
        answers without masks; the instruction in force then stays.
        """
        pipeline = self._require_open()
        asked = as_ask(prompt)
        pending = _Pending(asked, asked.instruction(self._media, self._wording), on_text)
        if clip is None and not len(self._recent):
            self._pending = pending
            return
        self._answer = self._reply(pending, clip or self._recent.clip())
        self._pending = None
        if not keep_memory:
            pipeline.forget()

    def step(self, frame: np.ndarray[Any, Any] | Tensor) -> FrameResult:
        """Segments the next frame: (H, W, 3) uint8 RGB of any size; results come back in that size.

        Raises FrameError for a frame that cannot be segmented (the stream goes on with the next one), SessionError
        after `close` or before any instruction.
        """
        pipeline = self._require_open()
        pixels = check_frame(frame)
        if self._answer is None and self._pending is None:
            raise SessionError("step before any instruction: call ask(…) or pass prompt= to stream(…) first.")
        with pipeline.timer("preprocess"):
            taken = segmentor_input(pixels, self._config.image_size, self._config.resize)
            self._recent.add(pipeline.next_frame, pixels)
        answer = self._current_answer(pipeline)
        index = pipeline.next_frame
        if answer.embeddings is None:
            pipeline.skip()
            segmentation = _no_masks(taken)
        else:
            prediction = pipeline.step(taken.pixels, answer.embeddings)
            with pipeline.timer("postprocess"):
                segmentation = self._postprocess(answer, prediction, taken)
        return FrameResult(index, segmentation, answer.text.text, answer.text.spans, pipeline.timer.take())

    def forget(self) -> None:
        """Empties the mask memory, as after a cut; the instruction and its answer stay. Raises SessionError after
        `close`."""
        self._require_open().forget()

    def close(self) -> None:
        """Gives the stream's memory back. Closing twice is allowed."""
        self._pipeline = self._answer = self._pending = None
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

    def _current_answer(self, pipeline: Pipeline) -> Answer:
        if self._pending is not None:
            with pipeline.timer("language"):
                self._answer = self._reply(self._pending, self._recent.clip())
            self._pending = None
        assert self._answer is not None
        return self._answer

    def _reply(self, pending: _Pending, clip: Clip) -> Answer:
        instruction = pending.instruction
        budget = self._config.video_budget if self._media == "video" else self._config.image_budget
        reply = self._language.reply(
            self._media,
            vision_input(clip.frames, budget, video=self._media == "video"),
            instruction.question,
            instruction.answer,
            self._region_tokens(instruction, clip),
            on_text=pending.on_text,
            max_new_tokens=pending.ask.max_new_tokens,
        )
        if not instruction.task.draws_masks:
            return Answer(instruction, link(reply.text), None, None)
        if reply.embeddings is None:
            raise NoMasksError(reply.text)
        answered = instruction.answered(reply.text) if instruction.answer is None else instruction
        masks = self._prompt_masks(answered, clip)
        postprocess = answered.task.postprocessor(answered, pending.ask.options, masks)
        # The words of an answer known beforehand are ours and say nothing.
        said = reply.text if instruction.answer is None or pending.ask.answer is not None else ""
        return Answer(answered, link(said), reply.embeddings, postprocess)

    def _region_tokens(self, instruction: Instruction, clip: Clip) -> Tensor:
        """(regions, 64, dim), each read from the features of the frame it was drawn on."""
        tokens = []
        for region in instruction.regions:
            frame = clip.frame_of(region)
            seen = segmentor_input(frame, self._config.image_size, self._config.resize)
            features = self._require_open().encode(seen.pixels)
            mask = region_input(region.mask(*seen.original_size), self._config.image_size, self._config.resize)
            tokens.append(self._language.look_at_regions(features.region_source, mask[None]))
        return torch.cat(tokens) if tokens else torch.zeros(0)

    def _prompt_masks(self, instruction: Instruction, clip: Clip) -> Tensor | None:
        """(regions, S, S) in the segmentor's input grid."""
        masks = [
            region_input(region.mask(*clip.frame_of(region).shape[:2]), self._config.image_size, self._config.resize)
            for region in instruction.regions
        ]
        return torch.stack(masks) if masks else None

    def _postprocess(self, answer: Answer, prediction: MaskPrediction, taken: SegmentorInput) -> Segmentation:
        assert answer.postprocess is not None
        logits = FrameLogits(
            prediction.mask_logits.float(),
            prediction.class_logits.float(),
            self._config.image_size,
            taken.scaled_size,
            taken.original_size,
        )
        return answer.postprocess(logits)


def _no_masks(taken: SegmentorInput) -> Segmentation:
    return Segmentation((), np.full(taken.original_size, _NOTHING, dtype=np.int32), _NOTHING)
