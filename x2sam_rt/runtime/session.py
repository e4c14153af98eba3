"""A stream in progress: frames in, masks out, and an instruction that may change at any time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import EngineError, PromptError, SessionError, X2SamError
from x2sam_rt.model.frame_layout import RGB, Frame, Layout, as_frame
from x2sam_rt.model.preprocess import SegmentorInput, segmentor_input
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.background_asks import Taken
from x2sam_rt.runtime.device import one_thread
from x2sam_rt.runtime.engines.engine import Engines
from x2sam_rt.runtime.frames_first import FrameInProgress
from x2sam_rt.runtime.growing_text import OnText
from x2sam_rt.runtime.language import Answer, LanguageRuntime
from x2sam_rt.runtime.one_caller import CLOSED, OneCaller
from x2sam_rt.runtime.pipeline import MaskPrediction, Pipeline
from x2sam_rt.runtime.postprocess import FIRST_ON_TOP, FrameLogits, PostProcessor, make_postprocessor
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.question import OnAnswer, Question
from x2sam_rt.runtime.results import FrameResult, Segmentation
from x2sam_rt.runtime.snapshot import StreamState, write_snapshot
from x2sam_rt.runtime.stream_asker import StreamAsker
from x2sam_rt.runtime.upload import FrameUpload
from x2sam_rt.tasks.instruction import Instruction, as_instruction, corrected
from x2sam_rt.tasks.regions import RegionPrompt
from x2sam_rt.tasks.table import Media

_NOTHING = -1


class VideoSession:
    """Made by `Runtime.stream`. Steps one frame at a time, in fixed memory, for a stream of any length.

    Belongs to one thread at a time: a call during another one raises SessionError; `close` waits for it to end.

    The language model runs when an instruction arrives or is asked again, not per frame: on the frames seen so far, at
    most the last 16 (a file is prompted with 16 evenly spaced ones). Its answer holds until the next one.
    """

    def __init__(
        self,
        engines: Engines,
        language: LanguageRuntime,
        config: ModelConfig,
        media: Media,
        again: ReAsk = ONCE,
        bundle: str = "",
    ) -> None:
        """bundle: SHA-256 of its manifest, which snapshots are bound to."""
        self._pipeline: Pipeline | None = Pipeline(engines, config)
        self._upload = FrameUpload(engines.device)
        self._asker, self._frames_first = StreamAsker(language, config, media, again), language.frames_first
        self._config, self._media, self._bundle = config, media, bundle
        self._answer: Answer | None = None
        self._postprocess: PostProcessor | None = None
        self._one = OneCaller()
        self._last_ids: tuple[int, ...] = ()
        self._removed: frozenset[int] = frozenset()

    @property
    def answer(self) -> Answer | None:
        """The answer in force; None before the first frame."""
        return self._answer

    @property
    def media(self) -> Media:
        """What instructions are asked as of."""
        return self._media

    @property
    def next_frame(self) -> int:
        """Number of the frame that `step` takes next. Raises SessionError after `close`."""
        return self._require_open().next_frame

    @property
    def waiting(self) -> bool:
        """Whether an instruction still waits for the first frame or for its answer."""
        return self._asker.waiting

    @property
    def answer_ready(self) -> bool:
        """Whether the next `step` finds its answer there, and need not wait for the language model."""
        return self._asker.ready

    def ask(
        self,
        prompt: str | Instruction | Answer,
        *,
        frames: PromptFrames | None = None,
        keep_memory: bool = True,
        wait: bool = True,
        on_text: OnText | None = None,
        on_answer: OnAnswer | None = None,
    ) -> None:
        """Changes the instruction; the next frame uses it. Before the first frame it waits for that frame.

        prompt: an `Answer` is one that is there already (`Runtime.answer_all`), and is taken as it is. frames: what to
        answer on, instead of the frames seen. keep_memory: False forgets what was segmented so far. on_text: gets
        generated text as it grows. on_answer: is told the answer and the number of the first frame that uses it, when
        it takes over. wait: False answers on another thread (`on_text` is called there), while frames go on under the
        answer in force; the new one takes over with the first frame after it is there. Of several instructions the
        last one wins, and those before it are given up.

        Raises PromptError, and NoMasksError (with the text) when the model answers without masks; the instruction in
        force then stays. With wait=False the next `step` or `wait_for_answer` raises these, once.
        """
        instruction = prompt.instruction if isinstance(prompt, Answer) else as_instruction(prompt)
        question = Question(instruction, frames, keep_memory, on_text, on_answer)
        with self._in_use() as pipeline:
            if isinstance(prompt, Answer):
                self._take_over(pipeline, self._asker.use(question, prompt))
            else:
                self._take_over(pipeline, self._asker.ask(question, wait=wait))

    def correct(self, *regions: RegionPrompt, keep_memory: bool = True, wait: bool = True) -> None:
        """Asks again with other visual prompts, on frames seen: a wanted one takes the place of that of `object` and
        `interactive`, whose id stays; negative ones (`RegionPrompt.negative`) are added, also in `vgd`, where the
        others' ids stay. The mask memory is kept unless keep_memory is False. What a click is worth:
        `python benchmarks/bench_interaction.py`.

        Raises PromptError for tasks without visual prompts and for what `ask` refuses, SessionError before the first
        frame; then nothing has changed.
        """
        with self._in_use() as pipeline:
            if self._answer is None:
                raise SessionError("correct before the first frame: give the regions to ask(…).")
            instruction = corrected(self._answer.instruction, regions)
            question = Question(instruction, self._asker.frames_to_correct(), keep_memory, corrects=True)
            self._take_over(pipeline, self._asker.ask(question, wait=wait))

    def remove(self, segment: int) -> None:
        """Shows the segment of this id no more, until something else is asked; the others, and their ids, stay. An
        object that loses its id, as when it was away, comes back under another one. Raises PromptError for an id that
        the last frame does not show."""
        with self._in_use():
            if segment not in self._last_ids:
                raise PromptError(f"The last frame shows no id {segment}; it shows {list(self._last_ids)}.")
            self._removed |= {segment}

    def wait_for_answer(self) -> None:
        """Returns when nothing that was asked with wait=False is left to be answered; the answer then is in force.
        Before the first frame there is nothing to wait for. Raises as `ask`."""
        with self._in_use() as pipeline:
            self._take_over(pipeline, self._asker.finish())

    def step(self, frame: Frame, layout: Layout = RGB) -> FrameResult:
        """Segments the next frame: (H, W, 3) uint8 RGB of any size, or an array that lies as `layout` says, or an image
        (`model.frame_layout.as_frame`); results come back in its size. A tensor on the runtime's GPU stays there.

        Raises FrameError or (of image files) VideoError for a frame that cannot be segmented (the stream goes on with
        the next one), SessionError after `close`, before any instruction or during another call; EngineError, naming
        the stage, for results with NaN or infinity; what an instruction asked with wait=False ran into (the frame can
        then be given again, and is segmented under the answer in force).
        """
        with self._in_use() as pipeline, self._frames_first.frame() as turn:
            return self._step(pipeline, turn, self._given(frame, layout))

    def steps(self, frames: Iterable[Frame], layout: Layout = RGB) -> Iterator[FrameResult]:
        """`step` for frames that need not be waited for, as those of a file or a queue. Where a GPU can, one frame is
        read ahead: while it works on one frame's memory, the next is fetched, brought there and encoded.

        Raises as `step`.
        """
        if not self._require_open().looks_ahead:
            yield from (self.step(frame, layout) for frame in frames)
            return
        source = _ReadAhead(frames, lambda frame: self._given(frame, layout))
        while (frame := source.take()) is not None:
            with self._in_use() as pipeline, self._frames_first.frame() as turn:
                result = self._step(pipeline, turn, frame, source.look)
            yield result

    def _given(self, frame: Frame, layout: Layout) -> _GivenFrame:
        """Raises FrameError, VideoError, SessionError."""
        with self._require_open().timer("preprocess"), one_thread():
            return _GivenFrame(as_frame(frame, layout), self._prepare)

    def _prepare(self, pixels: Tensor) -> SegmentorInput:
        """Raises SessionError."""
        with self._require_open().timer("preprocess"), one_thread():
            return segmentor_input(self._upload(pixels), self._config.image_size, self._config.resize)

    def _step(
        self,
        pipeline: Pipeline,
        turn: FrameInProgress,
        frame: _GivenFrame,
        following: Callable[[], Tensor | None] = lambda: None,
    ) -> FrameResult:
        """following: the next frame, for the segmentor, if it is there."""
        if self._answer is None and not self._asker.waiting:
            raise SessionError("step before any instruction: call ask(…) or pass prompt= to stream(…) first.")
        with pipeline.timer("preprocess"):
            self._asker.see(pipeline.next_frame, frame.pixels)
        if self._asker.due or self._answer is None:
            with turn.aside(), pipeline.timer("language") if self._asker.at_work_next else contextlib.nullcontext():
                self._take_over(pipeline, self._asker.take_over(wait=self._answer is None))
        assert self._answer is not None
        index, segmentation = pipeline.next_frame, self._segment(pipeline, self._answer, frame.taken, following)
        self._asker.observe(segmentation)
        segmentation = self._shown(self._answer, segmentation)
        self._last_ids = tuple(segment.id for segment in segmentation.segments)
        return FrameResult(index, segmentation, self._answer.text.text, self._answer.text.spans, pipeline.timer.take())

    def state(self) -> StreamState:
        """All that the next frames depend on. Raises SessionError after `close` and during another call."""
        with self._in_use() as pipeline:
            return self._state(pipeline)

    def _state(self, pipeline: Pipeline) -> StreamState:
        remembered = None if self._postprocess is None else self._postprocess.state()
        asker, bank = self._asker.state(), pipeline.bank.state()
        return StreamState(
            self._media, pipeline.next_frame, bank, asker, self._answer, remembered, tuple(sorted(self._removed))
        )

    def restore(self, state: StreamState) -> None:
        """Takes the place of the session that had this state; of a session that has seen nothing yet. Raises
        SnapshotError or PromptError for a state that no session of this bundle has."""
        with self._in_use() as pipeline:
            self._restore(pipeline, state)

    def _restore(self, pipeline: Pipeline, state: StreamState) -> None:
        answer = state.answer_on(pipeline.device, self._config.image_size)
        self._asker.restore(state.asker, state.next_frame, pipeline.device)
        pipeline.restore(state.next_frame, state.bank, None if answer is None else answer.embeddings)
        self._answer = answer
        self._postprocess = None if answer is None else _postprocessor(answer, pipeline.device)
        if self._postprocess is not None and state.rule is not None:
            self._postprocess.restore(state.rule.to(pipeline.device), self._logits)
        self._removed = frozenset(state.removed)

    @property
    def _logits(self) -> torch.Size:
        side = self._config.image_size // 4
        return torch.Size((self._config.mask_decoder.queries, side, side))

    def _shown(self, answer: Answer, segmentation: Segmentation) -> Segmentation:
        """Without what was removed, and what scores less than is asked for."""
        least = answer.instruction.options.presence
        return segmentation.only(
            lambda one: one.id not in self._removed and (least is None or one.score >= least),
            first_on_top=answer.instruction.row.rule in FIRST_ON_TOP,
        )

    def snapshot(self) -> bytes:
        """The session as bytes, for `Runtime.resume`: memory, frame numbers, instruction, its answer, what
        post-processing remembers, and the last frames. What is being answered is asked anew there; what was to be told
        of it (on_text, on_answer) is not. Raises SessionError after `close` and during another call."""
        with self._in_use() as pipeline:
            return write_snapshot(self._state(pipeline), self._bundle)

    def forget(self) -> None:
        """Empties the mask memory, as after a cut; the instruction and its answer stay. Raises SessionError after
        `close`."""
        with self._in_use() as pipeline:
            pipeline.forget()

    def close(self) -> None:
        """Gives the stream's memory back; waits for a call in progress, and gives up what is being answered beside the
        stream. Closing twice is allowed; from within `on_text` or `on_answer` it raises SessionError."""
        self.require_outside()
        with self._one.closing():
            self._asker.close()
            self._pipeline = self._answer = self._postprocess = None

    def require_outside(self) -> None:
        """Raises SessionError from within this session's `on_text` or `on_answer`, where nothing may wait for it."""
        if self._one.is_this_thread or self._asker.answers_here:
            raise SessionError("A session was closed from within its on_text or on_answer; close it after the call.")

    def __enter__(self) -> VideoSession:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> Pipeline:
        if self._pipeline is None:
            raise SessionError(CLOSED)
        return self._pipeline

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[Pipeline]:
        with self._one.call():
            yield self._require_open()

    def _take_over(self, pipeline: Pipeline, taken: Taken | None) -> None:
        if taken is None:
            return
        question, answer, before = taken.question, taken.answer, self._answer
        self._answer = answer
        # Asked again for the same things, segments keep their numbers.
        if not (question.again and before is not None and answer.conditions == before.conditions):
            remembered = self._postprocess.state() if question.corrects and self._postprocess is not None else None
            self._postprocess = _postprocessor(answer, pipeline.device)
            if remembered is not None and self._postprocess is not None and remembered.ids is not None:
                self._postprocess.restore(remembered, self._logits)
            elif not question.corrects:
                self._removed = frozenset()
        if not question.keep_memory:
            pipeline.forget()
        if question.on_answer is not None:
            question.on_answer(answer, pipeline.next_frame)

    def _segment(
        self, pipeline: Pipeline, answer: Answer, taken: SegmentorInput, following: Callable[[], Tensor | None]
    ) -> Segmentation:
        if answer.embeddings is None or self._postprocess is None:
            pipeline.skip()
            return _no_masks(taken)
        prediction = pipeline.step(taken.pixels, answer.embeddings, following)
        with pipeline.timer("postprocess"):
            try:
                return self._postprocess(_frame_logits(prediction, taken, self._config.image_size))
            except EngineError:  # on a GPU NaN shows here; the pipeline knows where it came from
                pipeline.require_sound()
                raise


class _GivenFrame:
    """pixels: as they were given, checked."""

    def __init__(self, pixels: Tensor, prepare: Callable[[Tensor], SegmentorInput]) -> None:
        self.pixels, self._prepare = pixels, prepare

    @cached_property
    def taken(self) -> SegmentorInput:
        """The same for the segmentor, on its device: made when it is first wanted."""
        return self._prepare(self.pixels)


class _ReadAhead:
    """Frames of a source, of which one may be had before its turn, prepared. An error of this package that reading or
    preparing it meets is raised in its turn."""

    def __init__(
        self,
        frames: Iterable[Frame],
        given: Callable[[Frame], _GivenFrame],
    ) -> None:
        self._frames, self._given = iter(frames), given
        self._seen: _GivenFrame | X2SamError | None = None
        self._looked = False

    def look(self) -> Tensor | None:
        """The next frame for the segmentor, before `take`; None at the end, or where it cannot be had."""
        self._looked = True
        try:
            self._seen = seen = self._read()
            return None if seen is None else seen.taken.pixels
        except X2SamError as error:
            self._seen = error
            return None

    def take(self) -> _GivenFrame | None:
        """The next frame; None at the end."""
        seen, self._seen = (self._seen, None) if self._looked else (self._read(), None)
        self._looked = False
        if isinstance(seen, X2SamError):
            raise seen
        return seen

    def _read(self) -> _GivenFrame | None:
        frame = next(self._frames, None)
        return None if frame is None else self._given(frame)


def _postprocessor(answer: Answer, device: torch.device) -> PostProcessor | None:
    instruction = answer.instruction
    if instruction.row.rule is None:
        return None
    options = instruction.options_in_force
    masks, wanted = answer.region_masks, [k for k, region in enumerate(instruction.regions) if region.wanted]
    # One by one: a list of numbers would have to be brought to the device first.
    shown_masks = None if masks is None else torch.stack([masks[k] for k in wanted])
    return make_postprocessor(instruction.row.rule, answer.conditions, options, shown_masks, device)


def _frame_logits(prediction: MaskPrediction, taken: SegmentorInput, side: int) -> FrameLogits:
    return FrameLogits(
        prediction.mask_logits.float(), prediction.class_logits.float(), side, taken.scaled_size, taken.original_size
    )


def _no_masks(taken: SegmentorInput) -> Segmentation:
    return Segmentation((), np.full(taken.original_size, _NOTHING, dtype=np.int32), _NOTHING)
