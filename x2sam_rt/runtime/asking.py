"""When the language model is asked: now, beside the stream, or again because time passed or the masks changed."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from x2sam_rt.errors import ConfigError, NoMasksError, SnapshotError
from x2sam_rt.runtime.language import Answer, LanguageRuntime
from x2sam_rt.runtime.prompt_frames import PromptFrames, RecentFrame, RecentFrames
from x2sam_rt.runtime.question import Question, QuestionState
from x2sam_rt.runtime.results import Segmentation
from x2sam_rt.tasks.table import Media

Policy = Literal["once", "every", "on_change"]
_SPELLED = re.compile(
    r"(once|every=(?P<frames>\d{1,9})|on_change(=(?P<threshold>[01]?\.?\d{1,6}))?)(?P<more>(:forget)?(:beside)?)"
)
_PUBLISHED = 8  # frames of the clips the model was trained on and is evaluated on
# Frames go before answers: two threads of PyTorch's beside a stream's two made frames take twice as long, one thread a
# third longer. At the lowest priority, 19, answers got nothing while anything else ran.
_NICENESS = 10


@dataclass(frozen=True)
class ReAsk:
    """When an instruction is asked again, on the frames seen last.

    once: never. every: every `frames` frames. on_change: when the masks lose consistency. A frame's consistency is the
    IoU of all its masks together with those of the frame before (1 where both have none); once it has been below
    `threshold`, or while there are no masks at all, the instruction is asked again, though not sooner than `frames`
    frames after it was asked last.

    keep_memory: False empties the memory with each new answer. wait: False answers beside the stream. An answer
    without masks then says that there is nothing new: the one in force stays.
    """

    policy: Policy = "once"
    frames: int = _PUBLISHED
    threshold: float = 0.5
    keep_memory: bool = True
    wait: bool = True

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"An instruction cannot be asked again every {self.frames} frames; wanted 1 or more.")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"The consistency below which is asked again is {self.threshold}; wanted 0 to 1.")

    @classmethod
    def parse(cls, text: str) -> ReAsk:
        """`once`, `every=8`, `on_change` or `on_change=0.5`; behind it `:forget` (keep_memory=False) and `:beside`
        (wait=False). Raises ConfigError for anything else."""
        found = _SPELLED.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"{text!r} does not say when to ask again; wanted once, every=8 or on_change=0.5, with :forget behind "
                "it to empty the memory."
            )
        frames, threshold, more = found["frames"], found["threshold"], found["more"]
        policy: Policy = "every" if frames else "once" if text.startswith("once") else "on_change"
        return cls(
            policy,
            frames=int(frames) if frames else _PUBLISHED,
            threshold=float(threshold) if threshold else 0.5,
            keep_memory=":forget" not in more,
            wait=":beside" not in more,
        )

    def __str__(self) -> str:
        """As `parse` takes it."""
        number = {"once": "", "every": f"={self.frames}", "on_change": f"={self.threshold:g}"}[self.policy]
        return self.policy + number + ":forget" * (not self.keep_memory) + ":beside" * (not self.wait)


ONCE = ReAsk()


class ReAskState:
    """A policy at work on one stream."""

    def __init__(self, policy: ReAsk) -> None:
        self.policy = policy
        self._since, self._changed = 0, False
        self._before: Tensor | None = None

    def asked(self) -> None:
        """An instruction is asked on the frame that comes next."""
        self._since, self._changed = 0, False

    def state(self) -> tuple[int, bool, Tensor | None]:
        return self._since, self._changed, self._before

    def restore(self, since: int, changed: bool, before: Tensor | None) -> None:
        """Raises SnapshotError for masks that are none."""
        if before is not None and (before.dtype != torch.bool or before.ndim != 2):
            raise SnapshotError(f"The masks before are {before.dtype} {tuple(before.shape)}; wanted (H, W) bool.")
        self._since, self._changed, self._before = since, changed, before

    def observe(self, segmentation: Segmentation) -> None:
        """The frame that was segmented last."""
        self._since += 1
        if self.policy.policy == "on_change":
            masks = segmentation.covered()
            consistency, nothing = _compared(masks, masks if self._before is None else self._before)
            self._changed, self._before = self._changed or consistency < self.policy.threshold or nothing, masks

    @property
    def due(self) -> bool:
        """Whether to ask again before the next frame."""
        if self.policy.policy == "once" or self._since < self.policy.frames:
            return False
        return self.policy.policy == "every" or self._changed


def _compared(now: Tensor, before: Tensor) -> tuple[float, bool]:
    """IoU (1 where both are empty, 0 where the frames differ in size), and whether there is nothing now."""
    if now.shape != before.shape:
        return 0.0, not now.any()
    counts = [mask.count_nonzero() for mask in (now & before, now | before, now)]
    common, union, here = torch.stack(counts).tolist()
    return common / union if union else 1.0, here == 0


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


@dataclass(frozen=True, eq=False)
class Taken:
    """An answer that takes over, with its question; `question.frames` are those it was answered on."""

    question: Question
    answer: Answer


class BackgroundAsks:
    """Questions answered on a thread of their own, which stands back behind all others. The last one wins: what was
    asked before it is given up."""

    def __init__(self, answer: Callable[[Question, Callable[[], bool]], Answer]) -> None:
        """answer: is told how to find out that nobody wants its result any more."""
        self._answer = answer
        self._pool = ThreadPoolExecutor(1, "x2sam-ask", _stand_back, (torch.get_num_threads(),))
        self._last: tuple[Question, Future[Answer]] | None = None
        self._abandon = threading.Event()

    def submit(self, question: Question) -> None:
        self.drop()
        self._abandon = threading.Event()
        self._last = question, self._pool.submit(self._answer, question, self._abandon.is_set)

    def drop(self) -> None:
        """Nobody waits for what was asked."""
        self._abandon.set()
        if self._last is not None:
            self._last[1].cancel()
        self._last = None

    @property
    def pending(self) -> Question | None:
        """The question whose answer was not taken yet."""
        return None if self._last is None else self._last[0]

    @property
    def ready(self) -> bool:
        """Whether `take` need not wait."""
        return self._last is not None and self._last[1].done()

    def take(self) -> Answer:
        """The answer to the pending question, once. Raises what answering it raised."""
        assert self._last is not None, "nothing was asked"
        (_, future), self._last = self._last, None
        return future.result()

    def close(self) -> None:
        self.drop()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _stand_back(threads: int) -> None:
    """Gives the calling thread one thread of PyTorch's and, where threads have priorities of their own, a low one.

    threads: how many all others go on with: PyTorch keeps the number per thread, but begins a new one, at its first
    use, with the last that was set anywhere.
    """
    torch.get_num_threads()  # the first use
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    torch.set_num_threads(1)
    others = threading.Thread(target=torch.set_num_threads, args=(threads,))
    others.start()
    others.join()


class StreamAsker:
    """One stream's questions and the frames they are answered on.

    A question is answered when it is asked, or with the first frame where there was none yet, or beside the stream, or
    again by the policy; `take_over` hands each answer over before the frame it is first used for.
    """

    def __init__(self, language: LanguageRuntime, media: Media, policy: ReAsk) -> None:
        self._language, self._media = language, media
        self._recent, self._again = RecentFrames(), ReAskState(policy)
        self._background = BackgroundAsks(self._answer)
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
    def at_work_next(self) -> bool:
        """Whether the next `take_over` asks something, rather than look whether an answer is there."""
        return self._first is not None or (self._background.pending is None and self._again.due)

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
        self._recent.restore(tuple(RecentFrame(f.index, f.pixels.to(place)) for f in state.recent), next_frame)
        self._again.restore(state.since, state.changed, None if state.before is None else state.before.to(place))
        if state.first is not None:
            self._first = state.first.question(place), state.first_waits
        if state.in_force is not None:
            self._in_force = state.in_force.asked(place)
        if state.pending is not None:
            self._background.submit(state.pending.asked(place))

    def close(self) -> None:
        self._background.close()

    def _start(self, question: Question, wait: bool) -> Taken | None:
        self._again.asked()
        shown = replace(question, frames=question.frames or self._recent.prompt_frames())
        if not wait:
            self._background.submit(shown)
            return None
        self._background.drop()
        return self._settle(shown, lambda: self._answer(shown))

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
        assert question.frames is not None, "answered questions know their frames"
        now = self._recent.prompt_frames()
        drawn_on = {region.frame: question.frames.frame_of(region) for region in question.instruction.regions}
        frames = replace(now, by_index={**now.by_index, **drawn_on})
        return replace(question, frames=frames, keep_memory=self._again.policy.keep_memory, again=True)

    def _answer(self, question: Question, abandoned: Callable[[], bool] = lambda: False) -> Answer:
        assert question.frames is not None, "frames are chosen when a question starts"
        return self._language.answer(
            question.instruction, self._media, question.frames, on_text=question.on_text, abandoned=abandoned
        )
