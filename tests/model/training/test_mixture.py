from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tiny

from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers import AnnotatedExample
from x2sam_rt.errors import ConfigError, DataError
from x2sam_rt.model.training.mixture import Mixture, Source, random_window, select_frames, window_indices
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import PointPrompt
from x2sam_rt.tasks.table import Media

LENGTHS = (3, 5, 3, 3, 5)


def example(name: str, media: Media, frames: int) -> Example:
    pixels = np.zeros((frames, 2, 3, 3), dtype=np.uint8)
    return Example(name, media, pixels, Instruction(phrases=("a cat",)), conditions=1, targets=())


def images(name: str, size: int) -> Source:
    return Source(name, "image", size, lambda index: example(f"{name}-{index}", "image", 1))


def clips(name: str = "clips") -> Source:
    return Source(name, "video", 5, lambda index: example(f"{name}-{index}", "video", LENGTHS[index]), LENGTHS)


def mixture(*sources: Source, video_share: float = 0.25, temperature: float = 0.1) -> Mixture:
    return Mixture(sources, image_batch=4, video_batch=2, video_share=video_share, temperature=temperature, seed=11)


def names(batch: tuple[Example, ...]) -> list[str]:
    return [one.name for one in batch]


def test_batches_depend_on_seed_and_step_alone() -> None:
    both = mixture(images("a", 50), clips())
    run = [names(both.batch(step)) for step in range(12)]
    resumed = mixture(images("a", 50), clips())
    assert [names(resumed.batch(step)) for step in range(7, 12)] == run[7:]
    assert [names(replace(both, seed=12).batch(step)) for step in range(12)] != run


def test_parts_of_a_step_learn_from_other_examples_of_the_same_medium() -> None:
    both = mixture(images("a", 10**6), clips(), video_share=0.5)
    for step in range(8):
        first, second = both.batch(step), both.batch(step, part=1)
        assert {one.media for one in first + second} == {both.media(step)}
    assert names(both.batch(0, part=1)) == names(both.batch(0, part=1))
    assert not set(names(both.batch(0))) & set(names(both.batch(0, part=1)))


def test_a_batch_is_of_one_medium_and_one_length() -> None:
    both = mixture(images("a", 3), clips("b"), clips("c"), video_share=0.5)
    lengths = set()
    for step in range(40):
        batch = both.batch(step)
        assert {one.media for one in batch} == {both.media(step)}
        assert len(batch) == (2 if both.media(step) == "video" else 4)
        assert len({len(one.frames) for one in batch}) == 1
        lengths.add(len(batch[0].frames))
    assert lengths == {1, 3, 5}


@pytest.mark.parametrize(
    ("share", "videos"),
    [(0.0, 0), (0.25, 5), (0.3, 6), (1.0, 20)],
)
def test_clips_take_their_share_of_the_steps_evenly(share: float, videos: int) -> None:
    both = mixture(images("a", 3), clips(), video_share=share)
    media = [both.media(step) for step in range(20)]
    assert media.count("video") == videos
    halves = media[:10].count("video"), media[10:].count("video")
    assert abs(halves[0] - halves[1]) <= 1


def drawn(both: Mixture, steps: int) -> Counter[str]:
    return Counter(draw.source.name for step in range(steps) for draw in both.draws(step))


@pytest.mark.parametrize("temperature", [0.0, 0.1, 1.0])
def test_sources_are_drawn_by_their_size_to_the_temperature(temperature: float) -> None:
    both = mixture(images("small", 10), images("large", 1000), video_share=0, temperature=temperature)
    found = drawn(both, 1000)
    right = 1 / (1 + 100**temperature)
    # Four standard deviations of 4000 draws.
    assert found["small"] / 4000 == pytest.approx(right, abs=4 * (right * (1 - right) / 4000) ** 0.5)


def test_a_source_may_weigh_more() -> None:
    both = mixture(images("plain", 10), replace(images("heavy", 10), weight=3.0), video_share=0)
    assert drawn(both, 1000)["heavy"] / 4000 == pytest.approx(0.75, abs=4 * (0.75 * 0.25 / 4000) ** 0.5)


def test_examples_of_a_source_are_equally_likely_whatever_their_length() -> None:
    both = mixture(clips(), video_share=1)
    found = Counter(draw.index for step in range(1500) for draw in both.draws(step))
    # Two draws share a length, so the 3000 draws count as no fewer than 1500: four standard deviations of those.
    for index in range(5):
        assert found[index] / 3000 == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 1500) ** 0.5)


def test_large_sources_are_not_listed() -> None:
    both = mixture(images("generated", 10**15), video_share=0)
    indices = [draw.index for draw in both.draws(0)]
    assert max(indices) > 10**12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_batch": 0}, "image_batch: found 0"),
        ({"video_batch": 0}, "video_batch: found 0"),
        ({"video_share": 1.5}, "video_share: found 1.5"),
        ({"temperature": -0.1}, "temperature: found -0.1"),
        ({"sources": (images("a", 2), clips("a"))}, "source names"),
        ({"sources": (images("a", 2),)}, "0 without clips"),
        ({"sources": (clips(),)}, "1 without images"),
    ],
)
def test_impossible_mixtures_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(mixture(images("a", 2), clips()), **changes)


def test_empty_and_miscounted_sources_are_refused() -> None:
    with pytest.raises(DataError, match="data set a is empty"):
        images("a", 0)
    with pytest.raises(DataError, match="has 6 examples, but 5 clip lengths"):
        replace(clips(), size=6)


def test_a_source_that_makes_something_else_is_named() -> None:
    wrong = Source("still", "video", 2, lambda index: example(f"still-{index}", "image", 1), frames=8)
    both = mixture(wrong, video_share=1)
    with pytest.raises(
        DataError, match=r"Example still-\d: found image of 1 frames; its data set still promised video"
    ):
        both.batch(0)


LENGTH = 7


def numbered(**changes: object) -> Example:
    """Every array of a frame holds the frame's number."""
    numbers = np.arange(LENGTH, dtype=np.uint8)
    frames = np.broadcast_to(numbers[:, None, None, None], (LENGTH, 5, 6, 3)).copy()
    masks = np.zeros((LENGTH, 5, 6), dtype=np.bool_)
    masks[3, 1, 2] = True
    instruction, targets = Instruction(phrases=("a cat",)), (Target(0, masks, 9),)
    plain = AnnotatedExample("v", "video", frames, instruction, conditions=1, targets=targets, ignored=masks)
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("start", "count", "length", "wanted"),
    [
        (0, 3, 7, [0, 1, 2]),
        (4, 3, 7, [4, 5, 6]),
        (5, 4, 7, [5, 6, 5, 4]),
        (0, 8, 3, [0, 1, 2, 1, 0, 1, 2, 1]),
        (0, 4, 1, [0, 0, 0, 0]),
        (1, 4, 2, [1, 0, 1, 0]),
    ],
)
def test_short_clips_are_played_back_and_forth(start: int, count: int, length: int, wanted: list[int]) -> None:
    assert window_indices(start, count, length).tolist() == wanted


def test_all_arrays_are_cut_alike() -> None:
    labelled = np.array([True, False] * 3 + [True])
    given = numbered(
        labelled=labelled,
        hidden=~labelled,
        seen=5,
    )
    taken = select_frames(given, np.array([3, 4, 2]))
    assert type(taken) is Example
    assert taken.frames[:, 0, 0, 0].tolist() == [3, 4, 2]
    assert taken.targets[0].masks.any((1, 2)).tolist() == [True, False, False]
    assert taken.targets[0].id == 9
    assert taken.labelled is not None
    assert taken.hidden is not None
    assert taken.labelled.tolist() == [False, True, True]
    assert taken.hidden.tolist() == [True, False, False]
    assert taken.seen == 3


def test_windows_begin_anywhere_and_lie_within() -> None:
    starts = set()
    for seed in range(60):
        frames = random_window(numbered(), 3, np.random.default_rng(seed)).frames[:, 0, 0, 0].tolist()
        assert frames == list(range(frames[0], frames[0] + 3))
        starts.add(frames[0])
    assert starts == {0, 1, 2, 3, 4}


def prompted(*frames: int) -> Example:
    regions = tuple(PointPrompt(frame, ((2.0, 3.0),), 1) for frame in frames)
    return numbered(instruction=Instruction("vgd", regions=regions), conditions=len(frames), targets=())


def test_windows_begin_at_the_first_prompt() -> None:
    taken = random_window(prompted(4, 2), 4, np.random.default_rng(0))
    assert taken.frames[:, 0, 0, 0].tolist() == [2, 3, 4, 5]
    assert [region.frame for region in taken.instruction.regions] == [2, 0]


def test_a_prompt_outside_the_window_is_named() -> None:
    with pytest.raises(
        DataError, match="Example v: its point prompt lies on frame 6, outside the clip of frames 1 to 3"
    ):
        random_window(prompted(1, 6), 3, np.random.default_rng(0))


def test_an_image_is_its_own_window() -> None:
    image = tiny.image(3)
    taken = random_window(image, 1, np.random.default_rng(0))
    assert np.array_equal(taken.frames, image.frames)
    assert taken.media == "image"
