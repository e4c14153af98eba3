"""Questions that are answered beside a stream, on a thread of their own."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from x2sam_rt.runtime.device import on_current_stream
from x2sam_rt.runtime.language import Answer, LanguageRuntime
from x2sam_rt.runtime.question import Question
from x2sam_rt.tasks.table import Media

# Of the answering thread, beside the stream's: on the core of the stream's own thread it waits until that one sleeps.
_NICE = 10


@dataclass(frozen=True, eq=False)
class Taken:
    """An answer that takes over, with its question; `question.frames` are those it was answered on."""

    question: Question
    answer: Answer


def answer_question(
    language: LanguageRuntime, media: Media, question: Question, given_up: threading.Event | None = None
) -> Answer:
    """given_up, and what it raises: as of `LanguageRuntime.answer`."""
    assert question.frames is not None, "frames are chosen when a question starts"
    return language.answer(question.instruction, media, question.frames, on_text=question.on_text, given_up=given_up)


class BackgroundAsks:
    """Questions answered one after the other beside a stream's frames, which go first. The last one wins: what was
    asked before it is given up."""

    def __init__(self, language: LanguageRuntime, media: Media) -> None:
        self._language, self._media = language, media
        self._pool = ThreadPoolExecutor(1, "x2sam-ask", _begin_thread, (torch.get_num_threads(),))
        self._last: tuple[Question, Future[Answer]] | None = None
        self._given_up = threading.Event()
        self._worker: int | None = None

    def submit(self, question: Question) -> None:
        self.drop()
        self._given_up = threading.Event()
        stream = on_current_stream(self._language.device)
        self._last = question, self._pool.submit(self._answer, question, self._given_up, stream)

    def _answer(
        self, question: Question, given_up: threading.Event, stream: contextlib.AbstractContextManager[object]
    ) -> Answer:
        self._worker = threading.get_ident()
        try:
            with stream:
                return answer_question(self._language, self._media, question, given_up)
        finally:
            self._worker = None

    def drop(self) -> None:
        """Nobody waits for what was asked."""
        self._given_up.set()
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

    @property
    def is_this_thread(self) -> bool:
        """Whether this is the thread that answers, which calls `on_text`."""
        return threading.get_ident() == self._worker

    def close(self) -> None:
        self.drop()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _begin_thread(threads: int) -> None:
    """Makes the calling thread give way: it shares the cores with frames, and with what is done between them.

    threads: of PyTorch's, that all other threads go on with.
    """
    _limit_threads(threads)
    if sys.platform == "linux":  # elsewhere the priority is the whole process's
        os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + _NICE)


def _limit_threads(threads: int) -> None:
    """Gives the calling thread half of PyTorch's threads, as it shares the cores with frames.

    threads: how many all others go on with: PyTorch keeps the number per thread, but begins a new one, at its first
    use, with the last that was set anywhere.
    """
    torch.get_num_threads()  # the first use
    torch.set_num_threads(max(1, threads // 2))
    others = threading.Thread(target=torch.set_num_threads, args=(threads,))
    others.start()
    others.join()
