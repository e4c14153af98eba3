"""One stream's questions: asked now, beside the stream, with its first frame, or again by the policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import NoMasksError
from x2sam_rt.runtime.asking import ReAsk, ReAskState
from x2sam_rt.runtime.background_asks import BackgroundAsks, Taken, answer_question
from x2sam_rt.runtime.language import Answer, LanguageRuntime
from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES, PromptFrames, RecentFrame, RecentFrames
from x2sam_rt.runtime.question import Question, QuestionState
from x2sam_rt.runtime.results import Segmentation
from x2sam_rt.tasks.table import Media


@dataclass(frozen=True, eq=False)
class AskerState:
    """A stream's questions at rest. recent: the frames seen last. first: waits for the first frame, which first_waits
    for its answer. pending: is being answered. in_force: was answered last. since: frames since the last was asked.
    changed: whether masks changed since. before: (H, W) bool, the pixels of any mask in the last frame."""

    policy: ReAsk
    recent: tuple[RecentFrame, ...]
    first: QuestionState | None
    first_waits: bool
    pending: QuestionState | None
    in_force: QuestionState | None
    since: int
    changed: bool
    before: Tensor | None


class StreamAsker:
    """One stream's questions and the frames they are answered on.

    A question is answered when it is asked, or with the first frame where there was none yet, or beside the stream, or
    again by the policy; `take_over` hands each answer over before the frame it is first used for.
    """

    def __init__(self, language: LanguageRuntime, config: ModelConfig, media: Media, policy: ReAsk) -> None:
        self._language, self._media, self._again = language, media, ReAskState(policy)
        video = media == "video"
        self._recent = RecentFrames(*((config.video_budget, PROMPT_FRAMES) if video else (config.image_budget, 1)))
        self._background = BackgroundAsks(language, media)
        self._first: tuple[Question, bool] | None = None
        self._in_force: Question | None = None

    def see(self, index: int, pixels: Tensor) -> None:
        """The next frame, (H, W, 3) uint8, by its number in the stream."""
        self._recent.add(index, pixels)

    def observe(self, segmentation: Segmentation) -> None:
        """What became of the frame seen last."""
        self._again.observe(segmentation)

    @property
    def waiting(self) -> bool:
        """Whether a question waits for the first frame or for its answer."""
        return self._first is not None or self._background.pending is not None

    @property
    def ready(self) -> bool:
        """Whether nothing waits, or its answer is there."""
        return self._first is None and (self._background.pending is None or self._background.ready)

    @property
    def at_work_next(self) -> bool:
        """Whether the next `take_over` asks something, rather than look whether an answer is there."""
        return self._first is not None or (self._background.pending is None and self._again.due)

    @property
    def due(self) -> bool:
        """Whether the next `take_over` asks something, or finds an answer there."""
        return self.at_work_next or (self._background.pending is not None and self._background.ready)

    def ask(self, question: Question, *, wait: bool) -> Taken | None:
        """What takes over at once; None where the question waits. Raises as `LanguageRuntime.answer`."""
        question.instruction.require_media(self._media)
        if question.frames is None and not len(self._recent):
            self._first = question, wait
            return None
        return self._start(question, wait)

    def use(self, question: Question, answer: Answer) -> Taken:
        """Takes an answer that is there already, as if it had been asked for now."""
        question.instruction.require_media(self._media)
        self._first = None
        self._background.drop()
        self._again.asked()
        self._in_force = replace(question, frames=question.frames or PromptFrames((), {}))
        return Taken(self._in_force, answer)

    def take_over(self, *, wait: bool) -> Taken | None:
        """What takes over with the frame seen last, if anything does. wait: for an answer that is being worked on.

        Raises what answering raised; the question is then given up, but for one that waited for the first frame.
        """
        if self._first is not None:
            taken = self._start(*self._first)
            self._first = None
            return taken or self._finished(wait=wait)
        if self.at_work_next and self._in_force is not None:
            taken = self._start(self._asked_again(self._in_force), self._again.policy.wait)
            return taken or self._finished(wait=wait)
        return self._finished(wait=wait)

    def finish(self) -> Taken | None:
        """Waits for what is being answered. Raises what answering raised."""
        return self._finished(wait=True)

    def state(self) -> AskerState:
        pending, (since, changed, before) = self._background.pending, self._again.state()
        return AskerState(
            self._again.policy,
            self._recent.state(),
            None if self._first is None else QuestionState.of(self._first[0]),
            self._first is not None and self._first[1],
            None if pending is None else QuestionState.of(pending),
            None if self._in_force is None else QuestionState.of(self._in_force, answered=True),
            since,
            changed,
            before,
        )

    def restore(self, state: AskerState, next_frame: int, place: torch.device) -> None:
        """Goes on where another was; what was being answered there is begun anew. place: where the stream's frames
        are. Raises SnapshotError, PromptError."""
        for question in filter(None, (state.first, state.pending, state.in_force)):
            question.instruction.require_media(self._media)
        self._recent.restore(tuple(replace(f, pixels=f.pixels.to(place)) for f in state.recent), next_frame)
        self._again.restore(state.since, state.changed, None if state.before is None else state.before.to(place))
        if state.first is not None:
            self._first = state.first.question(place), state.first_waits
        if state.in_force is not None:
            self._in_force = state.in_force.asked(place)
        if state.pending is not None:
            self._background.submit(state.pending.asked(place))

    @property
    def answers_here(self) -> bool:
        """Whether this is the thread that answers beside the stream."""
        return self._background.is_this_thread

    def close(self) -> None:
        self._background.close()

    def _start(self, question: Question, wait: bool) -> Taken | None:
        self._again.asked()
        shown = replace(question, frames=question.frames or self._recent.prompt_frames())
        if not wait:
            self._background.submit(shown)
            return None
        self._background.drop()
        return self._settle(shown, lambda: answer_question(self._language, self._media, shown))

    def _finished(self, *, wait: bool) -> Taken | None:
        question = self._background.pending
        if question is None or not (wait or self._background.ready):
            return None
        return self._settle(question, self._background.take)

    def _settle(self, question: Question, answer: Callable[[], Answer]) -> Taken | None:
        try:
            taken = Taken(question, answer())
        except NoMasksError:
            if question.again:
                return None
            raise
        self._in_force = question
        return taken

    def _asked_again(self, question: Question) -> Question:
        """On the frames seen last; what its regions were drawn on stays at hand."""
        return replace(question, frames=self._now(question), keep_memory=self._again.policy.keep_memory, again=True)

    def frames_to_correct(self) -> PromptFrames:
        """Those seen last, and those that regions of the question in force are drawn on."""
        assert self._in_force is not None, "there is an answer in force"
        return self._now(self._in_force)

    def _now(self, question: Question) -> PromptFrames:
        assert question.frames is not None, "answered questions know their frames"
        now, before = self._recent.prompt_frames(), question.frames
        drawn_on = {region.frame: before.frame_of(region) for region in question.instruction.regions}
        return replace(now, by_index={**now.by_index, **drawn_on})
