"""Instructions asked beside the stream, and asked again."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from x2sam_rt.errors import ConfigError, NoMasksError, PromptError, SessionError
from x2sam_rt.runtime import session as session_module
from x2sam_rt.runtime.asking import ReAsk, ReAskState
from x2sam_rt.runtime.frames_first import FramesFirst
from x2sam_rt.runtime.language import Answer
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.results import Segmentation
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt


@pytest.fixture(scope="module")
def runtime(torch_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(torch_bundle) as loaded:
        yield loaded


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [frame.repeat(6, 0).repeat(8, 1) for frame in noise]


class Gate:
    """Holds answers back until it is opened, and counts them."""

    def __init__(self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.asked = threading.Event(), list[str]()
        answer = runtime.language.answer

        def gated(instruction: Instruction, *rest: Any, **options: Any) -> Answer:
            self.asked.append(instruction.phrases[0] if instruction.phrases else instruction.task)
            assert self.open.wait(20)
            return answer(instruction, *rest, **options)

        monkeypatch.setattr(runtime.language, "answer", gated)


def test_frames_go_on_under_the_old_answer(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, took_over = frames(8), list[int]()
    with runtime.stream("dog") as session, runtime.stream("dog") as waiting:
        for frame in clip[:3]:
            session.step(frame)
            waiting.step(frame)
        waiting.ask("a cat")
        gate = Gate(runtime, monkeypatch)
        session.ask("a cat", wait=False, on_answer=lambda answer, frame: took_over.append(frame))
        assert session.waiting
        for frame in clip[3:5]:
            assert session.step(frame).labels == ("dog",)
        assert took_over == []
        gate.open.set()
        session.wait_for_answer()
        assert took_over == [5]
        assert not session.waiting
        result = session.step(clip[5])
        assert result.labels == ("a cat",)
        assert session.answer is not None
        assert waiting.answer is not None
        # Asked on the same frames it is the same answer, however long it took.
        assert (session.answer.embeddings.seg == waiting.answer.embeddings.seg).all()  # type: ignore[union-attr]


def test_after_take_over_results_are_those_of_a_waiting_ask(runtime: Runtime) -> None:
    clip = frames(8, seed=1)
    with runtime.stream("dog") as beside, runtime.stream("dog") as waiting:
        for frame in clip[:4]:
            beside.step(frame)
            waiting.step(frame)
        beside.ask("the red circle", wait=False, keep_memory=False)
        beside.wait_for_answer()
        waiting.ask("the red circle", keep_memory=False)
        for frame in clip[4:]:
            ours, theirs = beside.step(frame), waiting.step(frame)
            assert np.array_equal(ours.segmentation.map, theirs.segmentation.map)
            assert [segment.score for segment in ours.segments] == [segment.score for segment in theirs.segments]


def test_the_answer_takes_over_by_itself(runtime: Runtime) -> None:
    clip, took_over = frames(2), threading.Event()
    with runtime.stream("dog") as session:
        session.step(clip[0])
        session.ask("a cat", wait=False, on_answer=lambda answer, frame: took_over.set())
        for _ in range(10000):
            if session.step(clip[1]).labels == ("a cat",):
                break
        assert took_over.is_set()


def test_the_last_of_several_wins(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, took_over = frames(3), list[str]()
    with runtime.stream("dog") as session:
        session.step(clip[0])
        gate = Gate(runtime, monkeypatch)
        for name in ("one", "two", "three"):
            session.ask(name, wait=False, on_answer=lambda answer, _: took_over.append(answer.conditions.labels[0]))
        gate.open.set()
        session.wait_for_answer()
        assert session.step(clip[1]).labels == ("three",)
        assert took_over == ["three"]
        assert "two" not in gate.asked  # it never came to its turn
        session.ask("four", wait=False)
        session.ask("five")
        session.wait_for_answer()
        assert session.step(clip[2]).labels == ("five",)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (Instruction("gcg", max_new_tokens=4), NoMasksError, "draws no masks"),
        (Instruction("object", regions=(Prompt.point(3, 3, frame=9),)), PromptError, "frame 9"),
        (Instruction(phrases=("dog " * 5000,)), PromptError, "the context holds 4096.*larger context="),
    ],
)
def test_errors_reach_the_caller_once_and_no_frame_is_lost(
    runtime: Runtime, wrong: Instruction, error: type[Exception], message: str
) -> None:
    clip = frames(4)
    with runtime.stream("dog") as session, runtime.stream("dog") as undisturbed:
        ours = [session.step(clip[0])]
        session.ask(wrong, wait=False)
        while session._asker._background.ready is False:
            threading.Event().wait(0.01)
        with pytest.raises(error, match=message):
            session.step(clip[1])
        ours += [session.step(frame) for frame in clip[1:3]]
        session.ask(wrong, wait=False)
        with pytest.raises(error, match=message):
            session.wait_for_answer()
        ours.append(session.step(clip[3]))
        for result, frame in zip(ours, clip, strict=True):
            wanted = undisturbed.step(frame)
            assert result.index == wanted.index
            assert np.array_equal(result.segmentation.map, wanted.segmentation.map)


def test_what_cannot_be_asked_is_refused_at_once(runtime: Runtime) -> None:
    with runtime.stream("dog") as session:
        for prompt in ("  ", Instruction("interactive", regions=(Prompt.point(3, 3),))):
            with pytest.raises(PromptError):
                session.ask(prompt, wait=False)


def test_before_the_first_frame_there_is_nothing_to_go_on_with(runtime: Runtime) -> None:
    with runtime.stream() as session:
        session.ask("a cat", wait=False)
        assert session.waiting
        result = session.step(frames(1)[0])
        assert result.labels == ("a cat",)
        assert "language" in result.timings


def test_prompts_mean_the_sessions_own_frames(runtime: Runtime) -> None:
    """Frames that a camera dropped were never stepped, so they have no number."""
    clip = frames(20, seed=3)
    with runtime.stream("dog") as session:
        for frame in clip[::2]:
            session.step(frame)
        session.ask(Instruction("object", regions=(Prompt.box(5, 5, 30, 30, frame=4),)), wait=False)
        session.wait_for_answer()
        beside = session.answer
        session.ask(Instruction("object", regions=(Prompt.box(5, 5, 30, 30, frame=4),)))
        assert session.answer is not None
        assert beside is not None
        assert session.answer.embeddings is not None
        assert beside.embeddings is not None
        # To rounding: what the first left in the cache spares the second a part of its chunks.
        assert_close(session.answer.embeddings.conditions, beside.embeddings.conditions, atol=1e-4, rtol=0)


def test_answers_stand_back_behind_all_of_a_step_but_its_own_question(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind resizing too. A step that waits for its answer must not keep it from being given."""
    found, turns = dict[str, bool](), FramesFirst()

    def noted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            found[name] = turns._in_progress == 1
            return call(*arguments, **options)

        return run

    monkeypatch.setattr(runtime.language, "frames_first", turns)
    monkeypatch.setattr(runtime.language, "answer", noted("answer", runtime.language.answer))
    for name in ("as_frame", "segmentor_input", "make_postprocessor", "_frame_logits"):
        monkeypatch.setattr(session_module, name, noted(name, getattr(session_module, name)))
    with runtime.stream("dog") as session:
        monkeypatch.setattr(session._asker, "see", noted("see", session._asker.see))
        session.step(frames(1)[0])
    own = {"as_frame": True, "see": True, "segmentor_input": True, "_frame_logits": True}
    assert found == {**own, "answer": False, "make_postprocessor": False}


def test_on_answer_may_ask_another_stream(runtime: Runtime) -> None:
    """Which waits for what a third one is being answered beside its frames."""
    with runtime.stream("dog") as told, runtime.stream("dog") as other, runtime.stream("dog") as third:
        for session in (told, other, third):
            session.step(frames(1)[0])
        told.ask("a cat", wait=False, on_answer=lambda answer, frame: other.ask("the red circle"))
        while not told.answer_ready:
            threading.Event().wait(0.01)
        third.ask(Instruction("chat", question="what is it?", max_new_tokens=32), wait=False)
        assert told.step(frames(1)[0]).labels == ("a cat",)
        assert other.step(frames(1)[0]).labels == ("the red circle",)
        third.wait_for_answer()


def test_other_threads_keep_their_number_of_threads(runtime: Runtime) -> None:
    before, started = torch.get_num_threads(), list[int]()
    torch.set_num_threads(2)
    try:
        with runtime.stream("dog") as session:
            session.step(frames(1)[0])
            session.ask("a cat", wait=False, on_text=lambda text: None)
            session.wait_for_answer()
            assert torch.get_num_threads() == 2
            later = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
            later.start()
            later.join(20)
        assert started == [2]
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the whole process's")
def test_only_the_answering_thread_gives_way(runtime: Runtime) -> None:
    ours, found = os.getpriority(os.PRIO_PROCESS, 0), list[int]()
    with runtime.stream("dog") as session:
        session.step(frames(1)[0])
        chat = Instruction("chat", question="what is it?", max_new_tokens=2)
        session.ask(chat, wait=False, on_text=lambda text: found.append(os.getpriority(os.PRIO_PROCESS, 0)))
        session.wait_for_answer()
    assert set(found) == {min(ours + 10, 19)}
    assert os.getpriority(os.PRIO_PROCESS, 0) == ours


def test_closing_gives_up_what_is_being_answered(runtime: Runtime) -> None:
    session = runtime.stream("dog")
    session.step(frames(1)[0])
    session.ask(Instruction("chat", question="what is it?", max_new_tokens=2048), wait=False)
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.wait_for_answer()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("x2sam-ask")]


def answered(runtime: Runtime, policy: ReAsk, clip: list[np.ndarray], prompt: str | Instruction = "dog") -> list[int]:
    """The frames whose answer is a new one."""
    found, last = [], None
    with runtime.stream(prompt, again=policy) as session:
        for index, frame in enumerate(clip):
            session.step(frame)
            if session.answer is not last:
                found.append(index)
            last = session.answer
    return found


def test_once_is_once(runtime: Runtime) -> None:
    assert answered(runtime, ReAsk(), frames(12)) == [0]


@pytest.mark.parametrize(("count", "wanted"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (7, [0])])
def test_every_few_frames(runtime: Runtime, count: int, wanted: list[int]) -> None:
    assert answered(runtime, ReAsk("every", frames=count), frames(7)) == wanted


def test_an_ask_of_the_users_own_starts_the_count_anew(runtime: Runtime) -> None:
    clip = frames(10)
    with runtime.stream("dog", again=ReAsk("every", frames=4)) as session:
        for frame in clip[:3]:
            session.step(frame)
        session.ask("a cat")
        mine = session.answer
        for frame in clip[3:7]:
            assert session.step(frame).labels == ("a cat",)
            assert session.answer is mine
        assert session.step(clip[7]).labels == ("a cat",)
        assert session.answer is not mine


@pytest.mark.parametrize("keep", [True, False])
def test_memory_is_kept_or_emptied_with_each_answer(runtime: Runtime, keep: bool) -> None:
    with runtime.stream("dog", again=ReAsk("every", frames=3, keep_memory=keep)) as session:
        results = [session.step(frame) for frame in frames(7)]
    attended = ["memory_attention" in result.timings for result in results]
    assert attended == [False, True, True, keep, True, True, keep]
    assert ["language" in result.timings for result in results] == [index % 3 == 0 for index in range(7)]


def test_asking_again_beside_the_stream(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = frames(8)
    with runtime.stream("dog", again=ReAsk("every", frames=2, wait=False)) as session:
        session.step(clip[0])
        first = session.answer
        gate = Gate(runtime, monkeypatch)
        for frame in clip[1:6]:
            session.step(frame)
        assert session.answer is first
        assert gate.asked == ["dog"]  # the next is not asked while one is being answered
        gate.open.set()
        session.wait_for_answer()
        assert session.answer is not first


def test_regions_are_asked_again_when_their_frame_has_slid_away(runtime: Runtime) -> None:
    region = Instruction("object", regions=(Prompt.box(5, 5, 30, 30, frame=0),))
    assert answered(runtime, ReAsk("every", frames=10), frames(41), region) == [0, 10, 20, 30, 40]


def test_segments_keep_their_numbers_when_asked_again(runtime: Runtime) -> None:
    panoptic = Instruction("panoptic", things=("cat", "dog"))
    clip = [frames(1)[0]] * 6
    with runtime.stream(panoptic, again=ReAsk("every", frames=2)) as session:
        session.step(clip[0])
        kept = session._postprocess
        for frame in clip[1:]:
            session.step(frame)
        assert session._postprocess is kept
        session.ask(panoptic)
        assert session._postprocess is not kept


def test_an_answer_without_masks_changes_nothing(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = frames(5)
    with runtime.stream("dog", again=ReAsk("every", frames=2)) as session:
        session.step(clip[0])

        def refuse(*_: Any, **__: Any) -> Answer:
            raise NoMasksError("There is none.")

        monkeypatch.setattr(runtime.language, "answer", refuse)
        assert all(session.step(frame).labels == ("dog",) for frame in clip[1:])
        with pytest.raises(NoMasksError):
            session.ask("a cat")


def shown(left: int, right: int, width: int = 20) -> Segmentation:
    """Columns left…right belong to a segment."""
    label_map = np.zeros((4, width), dtype=np.int32)
    label_map[:, left:right] = 1
    return Segmentation((), label_map, 0)


@pytest.mark.parametrize(
    ("seen", "due"),
    [
        ([shown(0, 10)] * 9, [False] * 9),
        # IoU 5/15 at the third frame; not sooner than four frames after the last ask
        ([shown(0, 10)] * 2 + [shown(5, 15)] * 3, [False, False, False, True, True]),
        ([shown(0, 10), shown(3, 10), shown(5, 10), shown(6, 10), shown(7, 10)], [False] * 5),  # shrinks slowly
        ([shown(0, 10)] * 3 + [shown(0, 0)] * 2, [False] * 3 + [True] * 2),  # it left
        ([shown(0, 0)] * 5, [False] * 3 + [True] * 2),  # nothing was found yet
        ([shown(0, 10)] * 4 + [shown(0, 10, width=30)], [False] * 4 + [True]),  # another camera
    ],
    ids=["steady", "jump", "slow", "left", "never-there", "size"],
)
def test_when_masks_lose_consistency(seen: list[Segmentation], due: list[bool]) -> None:
    state = ReAskState(ReAsk("on_change", frames=4, threshold=0.5))
    found = []
    for segmentation in seen:
        state.observe(segmentation)
        found.append(state.due)
    assert found == due
    state.asked()
    assert not state.due


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("once", ReAsk()),
        ("every=5", ReAsk("every", frames=5)),
        ("on_change", ReAsk("on_change")),
        ("on_change=0.25", ReAsk("on_change", threshold=0.25)),
        ("every=8:forget", ReAsk("every", keep_memory=False)),
        ("on_change:forget:beside", ReAsk("on_change", keep_memory=False, wait=False)),
    ],
)
def test_policies_by_name(text: str, wanted: ReAsk) -> None:
    assert ReAsk.parse(text) == wanted
    assert ReAsk.parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "every", "every=0", "every=x", "once=3", "on_change=2", "never", "every=2.5", "once:", "every=8:remember"],
)
def test_other_policies_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        ReAsk.parse(text)


def test_answers_made_together_begin_streams_of_their_own(runtime: Runtime) -> None:
    clip = frames(4)
    shown = PromptFrames(tuple(torch.from_numpy(frame) for frame in clip), {})
    prompts = ("dog", Instruction("panoptic", things=("cat", "dog")), "the red circle")
    for prompt, answer in zip(prompts, runtime.answer_all(prompts, shown), strict=True):
        with runtime.stream(answer) as ready, runtime.stream(prompt, frames=shown) as asked:
            for frame in clip:
                ours, theirs = ready.step(frame), asked.step(frame)
                assert ours.labels == theirs.labels
                assert (ours.masks & theirs.masks).sum() >= 0.999 * (ours.masks | theirs.masks).sum()


def test_an_answer_that_is_there_replaces_what_is_asked(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, took_over = frames(3), list[int]()
    shown = PromptFrames((torch.from_numpy(clip[0]),), {})
    (answer,) = runtime.answer_all(["a cat"], shown)
    with runtime.stream("dog") as session:
        session.step(clip[0])
        gate = Gate(runtime, monkeypatch)
        session.ask("the red circle", wait=False)
        session.ask(answer, on_answer=lambda taken, frame: took_over.append(frame))
        gate.open.set()
        assert session.step(clip[1]).labels == session.step(clip[2]).labels == ("a cat",)
        assert took_over == [1]
