from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny

from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers import AnnotatedExample
from x2sam_rt.errors import DataError
from x2sam_rt.model.training.windows import cut, frames_from, random_window
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import PointPrompt

LENGTH = 7


def example(**changes: object) -> Example:
    """Every array of a frame holds the frame's number."""
    numbers = np.arange(LENGTH, dtype=np.uint8)
    frames = np.broadcast_to(numbers[:, None, None, None], (LENGTH, 5, 6, 3)).copy()
    masks = np.zeros((LENGTH, 5, 6), dtype=np.bool_)
    masks[3, 1, 2] = True
    plain = AnnotatedExample(
        "v",
        "video",
        frames,
        Instruction(phrases=("a cat",)),
        conditions=1,
        targets=(Target(0, masks, 9),),
        ignored=masks,
    )
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
    assert frames_from(start, count, length).tolist() == wanted


def test_all_arrays_are_cut_alike() -> None:
    labelled = np.array([True, False] * 3 + [True])
    numbers = np.arange(LENGTH)
    given = example(
        labelled=labelled,
        hidden=~labelled,
        attributes=np.broadcast_to(numbers[:, None, None, None], (LENGTH, 2, 5, 6)).astype(np.int8),
        shown=np.stack([labelled, ~labelled], axis=1),
        seen=5,
    )
    taken = cut(given, np.array([3, 4, 2]))
    assert type(taken) is Example
    assert taken.frames[:, 0, 0, 0].tolist() == [3, 4, 2]
    assert taken.targets[0].masks.any((1, 2)).tolist() == [True, False, False]
    assert taken.targets[0].id == 9
    assert taken.labelled is not None
    assert taken.hidden is not None
    assert taken.attributes is not None
    assert taken.shown is not None
    assert taken.labelled.tolist() == [False, True, True]
    assert taken.hidden.tolist() == [True, False, False]
    assert taken.attributes[:, 1, 2, 3].tolist() == [3, 4, 2]
    assert taken.shown[:, 0].tolist() == [False, True, True]
    assert taken.seen == 3


def test_windows_begin_anywhere_and_lie_within() -> None:
    starts = set()
    for seed in range(60):
        frames = random_window(example(), 3, np.random.default_rng(seed)).frames[:, 0, 0, 0].tolist()
        assert frames == list(range(frames[0], frames[0] + 3))
        starts.add(frames[0])
    assert starts == {0, 1, 2, 3, 4}


def prompted(*frames: int) -> Example:
    regions = tuple(PointPrompt(frame, ((2.0, 3.0),), 1) for frame in frames)
    return example(instruction=Instruction("vgd", regions=regions), conditions=len(frames), targets=())


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
