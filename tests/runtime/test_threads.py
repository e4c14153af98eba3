"""Sessions of one runtime in several threads; one session in one at a time; closing while something runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from x2sam_rt.errors import SessionError
from x2sam_rt.runtime.pipeline import Pipeline
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt

THREADS = 8
SOON, NEVER = 20.0, 0.3  # seconds


@pytest.fixture(params=["torch", "onnx"])
def runtime(request: pytest.FixtureRequest) -> Iterator[Runtime]:
    with Runtime.load(request.getfixturevalue(f"{request.param}_bundle")) as loaded:
        yield loaded


@pytest.fixture
def torch_runtime(torch_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(torch_bundle) as loaded:
        yield loaded


def frames(count: int, seed: int) -> list[np.ndarray]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [frame.repeat(6, 0).repeat(8, 1) for frame in noise]


def instructions(number: int) -> tuple[Instruction, Instruction]:
    """What a stream begins with, and what it is asked later."""
    region = Prompt.box(3 + number, 4, 30 + number, 40)
    return (
        Instruction("object", regions=(region,)) if number % 2 else Instruction(phrases=(f"circle {number}", "dog")),
        Instruction(phrases=(f"square {number}",)) if number % 3 else Instruction("panoptic", things=("dog", "cat")),
    )


Result = tuple[np.ndarray, tuple[float, ...]]


def run(runtime: Runtime, number: int) -> list[Result]:
    """A whole stream's results."""
    first, later = instructions(number)
    results = []
    with runtime.stream(first) as session:
        for index, frame in enumerate(frames(6, seed=number)):
            if index == 3:
                session.ask(later)
            result = session.step(frame)
            results.append((result.segmentation.map, tuple(segment.score for segment in result.segments)))
    return results


def assert_same(ours: Sequence[Result], alone: Sequence[Result]) -> None:
    for (our_map, our_scores), (map_alone, scores_alone) in zip(ours, alone, strict=True):
        assert np.array_equal(our_map, map_alone)
        assert our_scores == scores_alone


def test_sessions_in_threads_give_what_they_give_alone(runtime: Runtime) -> None:
    alone = [run(runtime, number) for number in range(THREADS)]
    barrier = threading.Barrier(THREADS)

    def together(number: int) -> list[Result]:
        barrier.wait(SOON)
        return run(runtime, number)

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(3):
            for ours, wanted in zip(pool.map(together, range(THREADS)), alone, strict=True):
                assert_same(ours, wanted)


class Held:
    """A step that stops where it runs the engines, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        step = Pipeline.step

        def held(pipeline: Pipeline, *arguments: Any) -> Any:
            self.reached.set()
            assert self.go.wait(SOON)
            return step(pipeline, *arguments)

        monkeypatch.setattr(Pipeline, "step", held)


def test_a_session_in_use_refuses_other_calls_and_close_waits(
    torch_runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, clip = Held(monkeypatch), frames(2, seed=0)
    session = torch_runtime.stream("dog")
    with ThreadPoolExecutor(2) as pool:
        stepping = pool.submit(session.step, clip[0])
        assert held.reached.wait(SOON)
        step, ask = partial(session.step, clip[1]), partial(session.ask, "cat")
        for call in (step, ask, session.forget, session.wait_for_answer):
            with pytest.raises(SessionError, match="one thread at a time"):
                call()
        closing = pool.submit(session.close)
        with pytest.raises(TimeoutError):
            closing.result(NEVER)
        held.go.set()
        assert stepping.result(SOON).index == 0
        closing.result(SOON)
    with pytest.raises(SessionError, match="closed"):
        session.step(clip[1])


def test_closing_a_runtime_waits_for_steps_and_answers(torch_runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    held, clip = Held(monkeypatch), frames(1, seed=0)
    session = torch_runtime.stream("dog")
    with ThreadPoolExecutor(2) as pool:
        stepping = pool.submit(session.step, clip[0])
        assert held.reached.wait(SOON)
        closing = pool.submit(torch_runtime.close)
        with pytest.raises(TimeoutError):
            closing.result(NEVER)
        with pytest.raises(SessionError, match="closed"):
            torch_runtime.stream("dog")
        held.go.set()
        assert stepping.result(SOON).labels == ("dog",)
        closing.result(SOON)
    shown = PromptFrames((), {})
    for call in (lambda: torch_runtime.answer_all(["dog"], shown), lambda: torch_runtime.engines):
        with pytest.raises(SessionError, match="closed"):
            call()


def test_closing_at_any_moment_ends_in_results_or_named_errors(torch_bundle: Path) -> None:
    for delay in (0.0, 0.02, 0.1):
        runtime = Runtime.load(torch_bundle)

        def work(number: int, runtime: Runtime = runtime) -> str:
            try:
                while True:
                    run(runtime, number)
            except SessionError as error:
                return str(error)

        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(work, number) for number in range(4)]
            threading.Event().wait(delay)
            runtime.close()
            assert all("closed" in one.result(SOON) for one in working)


@pytest.mark.parametrize("wait", [True, False])
def test_nothing_closes_from_within_its_own_callback(torch_runtime: Runtime, wait: bool) -> None:
    refused: list[SessionError] = []

    def close_all(*_: object) -> None:
        for close in (session.close, torch_runtime.close):
            try:
                close()
            except SessionError as error:
                refused.append(error)

    with torch_runtime.stream("dog") as session:
        session.step(frames(1, seed=0)[0])
        chat = Instruction("chat", question="What happens?", max_new_tokens=4)
        session.ask(chat, wait=wait, on_text=close_all, on_answer=close_all)
        session.wait_for_answer()
        assert len(refused) >= 2
        assert len(refused) % 2 == 0
        assert session.step(frames(1, seed=1)[0]).index == 1  # and all goes on
