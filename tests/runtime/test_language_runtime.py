"""The language runtime: what is reused, batched and streamed is what one plain forward gives."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from x2sam_rt.errors import ConfigError, NoMasksError, PromptError, SessionError
from x2sam_rt.model.key_value_cache import Branches
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.language import Answer, LanguageRuntime, default_context
from x2sam_rt.runtime.prompt_frames import PromptFrames, RecentFrames
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt

BOUND = 1e-4


@pytest.fixture(scope="module")
def runtime(torch_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(torch_bundle) as loaded:
        yield loaded


def clip(count: int, seed: int = 0) -> list[Tensor]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 160, 192, 3), dtype=np.uint8)
    return [torch.from_numpy(frame) for frame in noise]  # 30 visual tokens to a pair


def prompt_frames(frames: Sequence[Tensor]) -> PromptFrames:
    return PromptFrames(tuple(frames), dict(enumerate(frames)))


def fresh(runtime: Runtime, instruction: Instruction, frames: PromptFrames) -> Answer:
    """By a language side that has seen nothing yet."""
    known = runtime.language
    source, config = known.vision._region_source, runtime.manifest.model
    new = LanguageRuntime(known.encoder, source, known.tokenizer, config, known._wording)
    return new.answer(instruction, "video", frames)


def assert_same(one: Answer, other: Answer) -> None:
    assert one.text == other.text
    assert one.conditions == other.conditions
    if one.embeddings is None or other.embeddings is None:
        assert one.embeddings is other.embeddings
        return
    for name, ours in vars(one.embeddings).items():
        theirs = getattr(other.embeddings, name)
        assert (ours - theirs).abs().max() <= BOUND * theirs.abs().max().clamp_min(1), name


class Counted:
    """Counts the tokens that go through the language model's layers, and the pairs through the visual tower."""

    def __init__(self, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = self.pairs = 0
        self._language = runtime.language
        encoder = runtime.language.encoder
        layers, tower = encoder.language._layers, encoder._tower

        def count_layers(hidden: Tensor, *rest: object) -> Tensor:
            self.tokens += hidden.shape[1]
            return layers(hidden, *rest)

        def count_tower(patches: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
            self.pairs += len(patches)
            return tower(patches, *rest)

        monkeypatch.setattr(encoder.language, "_layers", count_layers)
        monkeypatch.setattr(encoder, "_tower", count_tower)

    def answer(self, question: Instruction, frames: PromptFrames) -> Answer:
        return self.answer_all([question], frames)[0]

    def answer_all(self, questions: list[Instruction], frames: PromptFrames) -> list[Answer]:
        """The tokens and pairs are those of this call."""
        self.tokens = self.pairs = 0
        if len(questions) == 1:
            return [self._language.answer(questions[0], "video", frames)]
        return self._language.answer_all(questions, "video", frames)


QUESTIONS = [
    Instruction(phrases=("the red circle",)),
    Instruction(phrases=("dog",)),
    Instruction("reasoning", question="Which one would you eat?"),
    Instruction("panoptic", things=("cat", "dog"), stuff=("sky",)),
    Instruction("gcg", answer="<p>the boy</p> jumps on <p>a bed</p>. <SEG>."),
    Instruction("object", regions=(Prompt.box(5, 5, 30, 30, frame=1),)),
    Instruction("vgd", regions=(Prompt.point(5, 5, frame=0), Prompt.box(5, 5, 30, 30, frame=2))),
    Instruction("chat", question="what is it?", max_new_tokens=7),
]


def test_questions_on_the_same_frames_are_as_if_each_were_the_first(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = prompt_frames(clip(5))
    wanted = [fresh(runtime, question, frames) for question in QUESTIONS]
    counted = Counted(runtime, monkeypatch)
    counted.answer(QUESTIONS[0], frames)
    assert counted.pairs == 3
    assert counted.tokens > 3 * 30
    for question, expected in zip(QUESTIONS * 2, wanted * 2, strict=True):
        assert_same(counted.answer(question, frames), expected)
        assert counted.pairs == 0
        assert counted.tokens < 80 + 64 * len(question.regions)  # the words alone


def test_frames_that_are_added_extend_the_prefix(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, question = clip(10, seed=1), QUESTIONS[0]
    counted = Counted(runtime, monkeypatch)
    for count in (2, 4, 6, 7, 8, 10):
        shown = prompt_frames(frames[:count])
        answer = counted.answer(question, shown)
        assert counted.pairs == 1  # of 7 frames the last makes a pair with itself, of 8 with the new one
        assert counted.tokens < 30 + 80  # one pair and the words
        assert_same(answer, fresh(runtime, question, shown))


def test_a_window_that_slides_keeps_what_was_seen_only(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, question = clip(24, seed=2), QUESTIONS[1]
    recent = RecentFrames()
    for index, frame in enumerate(frames[:16]):
        recent.add(index, frame)
    runtime.language.answer(question, "video", recent.prompt_frames())
    for index in range(16, 24):
        recent.add(index, frames[index])
    counted = Counted(runtime, monkeypatch)
    answer = counted.answer(question, recent.prompt_frames())
    assert counted.pairs == 4  # eight frames on: half of the pairs are known
    assert counted.tokens > 8 * 30  # and all are read anew
    assert_same(answer, fresh(runtime, question, recent.prompt_frames()))


@pytest.mark.parametrize("changed", range(4))
def test_a_changed_frame_is_never_taken_for_the_old_one(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, changed: int
) -> None:
    frames = clip(4, seed=3)
    shown, question = prompt_frames(frames), QUESTIONS[0]
    before = runtime.language.answer(question, "video", shown)
    frames[changed][10:40, 20:50] = 255  # in place: the very same tensors are asked on again
    counted = Counted(runtime, monkeypatch)
    answer = counted.answer(question, shown)
    assert counted.pairs == 1
    assert_same(answer, fresh(runtime, question, shown))
    assert before.embeddings is not None
    assert answer.embeddings is not None
    assert not torch.allclose(answer.embeddings.seg, before.embeddings.seg)
    frames[changed][10:40, 20:50] = 0
    assert_same(runtime.language.answer(question, "video", shown), fresh(runtime, question, shown))


def test_images_and_videos_of_one_frame_are_told_apart(runtime: Runtime) -> None:
    frames = prompt_frames(clip(1, seed=4))
    as_video = runtime.language.answer(QUESTIONS[0], "video", frames)
    runtime.language.answer(QUESTIONS[0], "image", frames)
    assert_same(runtime.language.answer(QUESTIONS[0], "video", frames), as_video)


@pytest.mark.parametrize("chunk", [1, 40, 512])
def test_several_instructions_share_the_frames(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    frames = prompt_frames(clip(6, seed=5))
    wanted = [fresh(runtime, question, frames) for question in QUESTIONS]
    monkeypatch.setattr(runtime.language.encoder.language, "chunk", chunk)
    for found, expected in zip(runtime.language.answer_all(QUESTIONS, "video", frames), wanted, strict=True):
        assert_same(found, expected)
    assert_same(runtime.language.answer(QUESTIONS[3], "video", frames), wanted[3])


def test_ten_phrases_cost_the_frames_once(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = prompt_frames(clip(16, seed=6))
    phrases = [Instruction(phrases=(f"thing number {index}",)) for index in range(10)]
    counted = Counted(runtime, monkeypatch)
    counted.answer_all(phrases, frames)
    assert counted.pairs == 8
    assert counted.tokens < 8 * (30 + 20) + 10 * 60  # pairs with their counters, and ten times words


def test_generated_answers_are_written_together(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the context holds with their longest answers; known ones go along."""
    frames = prompt_frames(clip(4, seed=10))
    chats = [Instruction("chat", question=f"what is thing {index}?", max_new_tokens=9) for index in range(5)]
    asked = [*chats, QUESTIONS[0], Instruction("chat", question="and what is this?", max_new_tokens=4000)]
    wanted = [fresh(runtime, question, frames) for question in asked[:-1]]
    together, language = list[int](), runtime.language.encoder.language
    decode = language.decode_branches

    def counted(branches: Branches, owners: list[int], tokens: list[int]) -> Tensor:
        together.append(len(owners))
        return decode(branches, owners, tokens)

    monkeypatch.setattr(language, "decode_branches", counted)
    monkeypatch.setattr(language, "next_tokens", ends_after(300, language.next_tokens, runtime.language.tokenizer))
    for found, expected in zip(runtime.language.answer_all(asked, "video", frames), wanted, strict=False):
        assert_same(found, expected)
    assert together[:9] == [5] * 9
    assert set(together[9:]) == {1}  # the last one needs the context for itself


def ends_after(calls: int, choose: Callable[[Tensor], Tensor], tokenizer: Tokenizer) -> Callable[[Tensor], Tensor]:
    """The same choices, but for a stop token after so many."""
    count = itertools.count(1)
    return lambda states: choose(states) if next(count) < calls else torch.full(states.shape[:-1], tokenizer.im_end)


@pytest.mark.parametrize("piece", [1, 4, 8, 40, 100, 160, 400])
def test_an_answer_nobody_wants_ends_between_two_pieces(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """Among the frames' pixels, inside the visual tower and the layers, not only between tokens; what was done may be
    used again."""
    frames, given_up, pieces = prompt_frames(clip(6, seed=20 + piece)), threading.Event(), itertools.count(1)
    monkeypatch.setattr(runtime.language.encoder.language, "chunk", 40)

    def stand_back() -> None:
        if next(pieces) == piece:
            given_up.set()

    monkeypatch.setattr(runtime.language.frames_first, "stand_back", stand_back)
    with pytest.raises(SessionError, match="given up"):
        runtime.language.answer(QUESTIONS[0], "video", frames, given_up=given_up)
    assert next(pieces) == piece + 1  # it ended at once
    vision = runtime.language.vision
    new = [pair for pair in vision.show(frames, "video").pairs if pair.digest not in vision._seen._seen]
    counted = Counted(runtime, monkeypatch)
    counted.answer(QUESTIONS[0], frames)
    assert counted.pairs == len(new)
    assert_same(runtime.language.answer(QUESTIONS[0], "video", frames), fresh(runtime, QUESTIONS[0], frames))


def test_beside_a_stream_the_models_are_divided(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pair of frames in the visual tower, or a region's frame in the mask encoder, takes a good part of a frame."""
    language, pieces, inside = runtime.language, [0], dict[str, int]()
    frames = prompt_frames(clip(2, seed=40))

    def stand_back() -> None:
        pieces[0] += 1

    def measured(name: str, model: Callable[..., object]) -> Callable[..., object]:
        def run(*inputs: Tensor) -> object:
            before = pieces[0]
            try:
                return model(*inputs)
            finally:
                inside[name] = pieces[0] - before

        return run

    monkeypatch.setattr(language.frames_first, "stand_back", stand_back)
    monkeypatch.setattr(language.encoder, "_tower", measured("tower", language.encoder._tower))
    monkeypatch.setattr(language.vision, "_region_source", measured("mask encoder", language.vision._region_source))
    question = Instruction("object", regions=(Prompt.box(5, 5, 30, 30, frame=1),))
    beside = language.answer(question, "video", frames, given_up=threading.Event())
    assert min(inside["tower"], inside["mask encoder"]) > 50
    assert_same(beside, fresh(runtime, question, frames))


@pytest.mark.parametrize("failing", [NoMasksError, PromptError])
def test_after_an_error_the_next_answer_is_right(runtime: Runtime, failing: type[Exception]) -> None:
    frames = prompt_frames(clip(3, seed=7))
    wrong = {
        NoMasksError: Instruction("gcg", max_new_tokens=5),
        PromptError: Instruction("object", regions=(Prompt.point(3, 3, frame=9),)),
    }[failing]
    with pytest.raises(failing):
        runtime.language.answer(wrong, "video", frames)
    assert_same(runtime.language.answer(QUESTIONS[0], "video", frames), fresh(runtime, QUESTIONS[0], frames))


def test_a_stop_text_ends_the_answer_and_is_not_shown(runtime: Runtime) -> None:
    frames = prompt_frames(clip(2, seed=8))
    pieces: list[str] = []
    chat = Instruction("chat", question="what is it?", max_new_tokens=30)
    whole = runtime.language.answer(chat, "video", frames, on_text=pieces.append)
    spoken = "".join(pieces)
    found = re.search(r"[a-z]{2} ?[a-z]", spoken[4:])
    assert found is not None
    stop = found[0]
    pieces.clear()
    stopping = Instruction("chat", question="what is it?", max_new_tokens=30, stop=("never said", stop))
    ended = runtime.language.answer(stopping, "video", frames, on_text=pieces.append)
    assert "".join(pieces) == spoken[: spoken.index(stop)]
    assert ended.text.text == whole.text.text[: len(ended.text.text)]
    assert stop not in ended.text.text


def test_asking_from_within_on_text_is_refused(runtime: Runtime) -> None:
    frames = prompt_frames(clip(1, seed=9))
    chat = Instruction("chat", question="what is it?", max_new_tokens=3)
    with pytest.raises(SessionError, match="within on_text"):
        runtime.language.answer(
            chat, "video", frames, on_text=lambda text: runtime.language.answer(chat, "video", frames)
        )
    assert runtime.language.answer(chat, "video", frames).text.text


def test_sessions_that_ask_at_once_get_their_own_answers(runtime: Runtime) -> None:
    clips = [prompt_frames(clip(1 + seed % 4, seed=seed)) for seed in range(8)]
    asked = [(QUESTIONS[seed % 5], clips[seed]) for seed in range(8)]
    wanted = [fresh(runtime, question, shown) for question, shown in asked]

    def ask(number: int) -> Answer:
        question, shown = asked[number % 8]
        with runtime.stream(question, frames=shown) as session:
            assert session.answer is not None
            return session.answer

    with ThreadPoolExecutor(8) as pool:
        for number, answer in enumerate(pool.map(ask, range(64))):
            assert_same(answer, wanted[number % 8])


def test_memory_is_taken_at_load_and_stays(runtime: Runtime, torch_bundle: Path) -> None:
    stated = runtime.language.cache_bytes
    cache = runtime.language._prefix.cache
    places = cache.keys.data_ptr(), cache.values.data_ptr()
    for seed in range(20):
        runtime.language.answer_all(QUESTIONS[:4], "video", prompt_frames(clip(16, seed=seed)))
        assert runtime.language.vision.seen_bytes <= runtime.language.vision.largest_seen_bytes
    assert (cache.keys.data_ptr(), cache.values.data_ptr(), runtime.language.cache_bytes) == (*places, stated)
    config = runtime.manifest.model
    assert runtime.language.context == default_context(config) == 4096  # what the toy was made for
    with Runtime.load(torch_bundle, context=512) as small:
        assert small.language.cache_bytes * 8 == stated


def test_seen_pairs_give_way_to_newer_ones(torch_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Runtime.load(torch_bundle, context=200) as small:
        counted = Counted(small, monkeypatch)
        first = prompt_frames(clip(4, seed=0))
        for seed in range(12):
            small.language.answer(QUESTIONS[0], "video", prompt_frames(clip(4, seed=seed)))
        assert small.language.vision.seen_bytes <= small.language.vision.largest_seen_bytes
        counted.answer(QUESTIONS[0], first)
        assert counted.pairs == 2


def test_a_context_that_does_not_fit_is_refused_before_anything_runs(
    torch_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for context in (0, 5000):
        with pytest.raises(ConfigError, match=f"context is {context} tokens; this model takes 1 to 4096"):
            Runtime.load(torch_bundle, context=context)
    with Runtime.load(torch_bundle, context=140) as small:
        counted = Counted(small, monkeypatch)
        with pytest.raises(PromptError, match=r"the context holds 140.*larger context="):
            counted.answer(QUESTIONS[0], prompt_frames(clip(16)))
        assert (counted.tokens, counted.pairs) == (0, 0)
        small.language.answer(QUESTIONS[0], "video", prompt_frames(clip(2)))
