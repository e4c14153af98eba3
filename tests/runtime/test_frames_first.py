"""Frames and an answer beside them: who waits for whom, by events alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from x2sam_rt.runtime.frames_first import FramesFirst

PATIENCE = 20  # seconds that nothing here takes unless it hangs


class Broken(Exception):
    pass


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as made:
        yield made


class Answer:
    """An answer of pieces that are let go one by one."""

    def __init__(self, turns: FramesFirst, pool: ThreadPoolExecutor) -> None:
        self._turns, self._go = turns, threading.Semaphore(0)
        self.begun = threading.Semaphore(0)  # pieces
        self.future: Future[None] = pool.submit(self._work)
        assert self.begun.acquire(timeout=PATIENCE)

    def end_piece(self) -> None:
        self._go.release()

    def _work(self) -> None:
        with self._turns.answer():
            for _ in range(3):
                self.begun.release()
                assert self._go.acquire(timeout=PATIENCE)
                self._turns.stand_back()


def test_nothing_waits_where_there_is_nothing_else(pool: ThreadPoolExecutor) -> None:
    turns = FramesFirst()
    with turns.frame(), turns.frame():
        pass
    answer = Answer(turns, pool)
    for _ in range(3):
        answer.end_piece()
    answer.future.result(PATIENCE)


def test_an_answer_stands_back_while_a_frame_is_in_progress(pool: ThreadPoolExecutor) -> None:
    turns = FramesFirst()
    answer = Answer(turns, pool)
    with turns.frame():
        answer.end_piece()
        assert not answer.begun.acquire(timeout=0.2)
    assert answer.begun.acquire(timeout=PATIENCE)
    for _ in range(2):
        answer.end_piece()
    answer.future.result(PATIENCE)


def test_a_frame_does_not_wait_for_a_piece_that_does_not_end(pool: ThreadPoolExecutor) -> None:
    turns = FramesFirst()
    with turns.frame():
        time.sleep(0.01)
    answer = Answer(turns, pool)
    for _ in range(5):
        with turns.frame():
            assert not answer.future.done()
    for _ in range(3):
        answer.end_piece()
    answer.future.result(PATIENCE)


def test_an_answer_goes_on_beside_frames_that_never_pause(pool: ThreadPoolExecutor) -> None:
    """Of several streams too: there is a frame in progress at any time."""
    turns, done = FramesFirst(), threading.Event()

    def stream() -> None:
        while not done.is_set():
            with turns.frame():
                time.sleep(0.003)

    streams = [pool.submit(stream) for _ in range(2)]
    answer = Answer(turns, pool)
    for _ in range(3):
        answer.end_piece()
    answer.future.result(PATIENCE)
    done.set()
    for one in streams:
        one.result(PATIENCE)


def test_an_answer_that_fails_leaves_nobody_waiting(pool: ThreadPoolExecutor) -> None:
    turns = FramesFirst()

    def fail() -> None:
        with turns.answer():
            raise Broken

    with pytest.raises(Broken):
        pool.submit(fail).result(PATIENCE)
    with turns.frame():
        pass
    assert not turns._at_work


def test_a_frame_that_fails_lets_the_answer_go_on(pool: ThreadPoolExecutor) -> None:
    turns = FramesFirst()
    answer = Answer(turns, pool)
    with pytest.raises(Broken), turns.frame():
        raise Broken
    for _ in range(3):
        answer.end_piece()
    answer.future.result(PATIENCE)
