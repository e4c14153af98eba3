from __future__ import annotations

import numpy as np
import pytest

from x2sam_rt.data.synthetic import clip_seed, make_stream
from x2sam_rt.data.synthetic.streams import STREAM_FRAMES

SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_named_is_there_leaves_and_comes_back(seed: int) -> None:
    stream = make_stream(clip_seed("seen", seed))
    assert stream.frames.shape == (STREAM_FRAMES, 128, 128, 3)
    area = stream.masks.sum((1, 2))
    assert area[0] > 100
    assert (area[stream.leaves : stream.returns - 6] == 0).all()
    assert area[stream.returns] > 50
    assert 0 < stream.changes < stream.leaves < stream.returns < STREAM_FRAMES


@pytest.mark.parametrize("seed", SEEDS)
def test_its_colour_is_named_before_and_after_the_change(seed: int) -> None:
    """The pixels of the mask have the colour of the phrase in every frame, whichever object that is."""
    stream = make_stream(clip_seed("seen", seed))
    shown = [index for index in range(STREAM_FRAMES) if stream.masks[index].sum() > 50]
    means = np.stack([np.median(stream.frames[index][stream.masks[index]], axis=0) for index in shown])
    before = means[[index < stream.changes for index in shown]].mean(0)
    after = means[[index >= stream.changes for index in shown]].mean(0)
    assert np.abs(before - after).max() < 60
    old = np.median(stream.frames[stream.changes][stream.masks[stream.changes - 1]], axis=0)
    assert np.abs(old - before).max() > 60  # where it was is something else now


def test_the_same_seed_is_the_same_stream() -> None:
    one, other = make_stream((3, 4)), make_stream((3, 4))
    assert np.array_equal(one.frames, other.frames)
    assert np.array_equal(one.masks, other.masks)
    assert one.phrase == other.phrase
    assert not np.array_equal(one.frames, make_stream((3, 5)).frames)
