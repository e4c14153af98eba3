"""Frames and an answer beside them: who waits for whom, by events alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from x2sam_rt.runtime import frames_first
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


def test_what_a_frame_waits_for_goes_on(pool: ThreadPoolExecutor) -> None:
    """Or an answer would wait for the frame that waits for it. The time does not count as the frame's."""
    turns = FramesFirst()
    answer = Answer(turns, pool)
    with turns.frame() as turn:
        answer.end_piece()
        assert not answer.begun.acquire(timeout=0.2)
        with turn.aside():
            for _ in range(2):
                assert answer.begun.acquire(timeout=PATIENCE)
                answer.end_piece()
            answer.future.result(PATIENCE)
            time.sleep(0.5)
    assert 0.2 * frames_first._SHARE <= turns._share < 0.6 * frames_first._SHARE


def test_a_frame_waits_for_the_piece_at_work(pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Side by side with it, it would be slower."""
    monkeypatch.setattr(frames_first, "_SHARE", 1e6)
    turns, began = FramesFirst(), threading.Event()
    answer = Answer(turns, pool)
    with turns.frame():  # nobody knows yet how long a frame takes, and how long one may wait
        pass

    def step() -> None:
        with turns.frame():
            began.set()

    frame = pool.submit(step)
    assert not began.wait(0.2)
    answer.end_piece()
    frame.result(PATIENCE)
    for _ in range(2):
        answer.end_piece()
    answer.future.result(PATIENCE)


def test_a_turn_is_one_piece_where_pieces_are_longer_than_the_share(pool: ThreadPoolExecutor) -> None:
    """The turn begins as the frame ends, whichever thread is quicker then."""
    turns, begun = FramesFirst(), 0

    def work() -> None:
        nonlocal begun
        with turns.answer():
            for _ in range(4):
                begun += 1
                time.sleep(0.05)
                turns.stand_back()

    found = []
    with turns.frame():
        answer = pool.submit(work)
        time.sleep(0.1)
        found.append(begun)
    for _ in range(4):
        with turns.frame():
            time.sleep(0.1)
            found.append(begun)
    assert found == [0, 1, 2, 3, 4]
    answer.result(PATIENCE)


def test_a_frame_that_was_held_up_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_first, "_SHARE", 1.0)
    turns = FramesFirst()
    for seconds in (0.0, 0.5, 0.0):
        with turns.frame():
            time.sleep(seconds)
    assert turns._share < 0.25


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
