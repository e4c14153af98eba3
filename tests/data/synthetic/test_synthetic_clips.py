"""Clips of the made-up world: what is labelled is what is drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from x2sam_rt.data.synthetic import HELD_OUT, ClipSettings, SyntheticClip, clip_seed, evaluation_settings, make_clip
from x2sam_rt.data.synthetic.clip import OCCLUDER
from x2sam_rt.data.synthetic.render import DESATURATED_OBJECT
from x2sam_rt.data.synthetic.settings import COLOURS, DIRECTION, RGB, SHAPES
from x2sam_rt.errors import ConfigError

CLEAR = ClipSettings(desaturated=0, occluder=0)


@pytest.fixture(scope="module")
def clear_clips() -> list[SyntheticClip]:
    return [make_clip((11, number), CLEAR) for number in range(60)]


def shown_objects(clip: SyntheticClip) -> list[tuple[int, int]]:
    """Frame and number of the objects that are seen nearly whole."""
    frames, numbers = np.nonzero(clip.occluded < 0.02)
    return list(zip(frames.tolist(), numbers.tolist(), strict=True))


def test_a_seed_gives_the_same_clip_again() -> None:
    first, again, other = (make_clip(seed, ClipSettings()) for seed in ((3, 5), (3, 5), (3, 6)))
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.ids, again.ids)
    assert first.objects == again.objects
    assert not np.array_equal(first.frames, other.frames)


def test_splits_show_different_clips() -> None:
    train, seen, unseen, by_hand = (
        make_clip(seed, CLEAR) for seed in (clip_seed("train", 4), clip_seed("seen", 4), clip_seed("unseen", 4), (0, 4))
    )
    pictures = {clip.frames.tobytes() for clip in (train, seen, unseen, by_hand)}
    assert len(pictures) == 4


def test_held_out_pairs_leave_every_word_common() -> None:
    assert len(HELD_OUT) == 6
    for position in (0, 1):
        assert max(Counter(pair[position] for pair in HELD_OUT).values()) <= 2


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_held_out_pairs_are_shown_where_they_should(split: str) -> None:
    settings = ClipSettings(side=32, frames=1, split=split)  # type: ignore[arg-type]
    for number in range(200):
        clip = make_clip((number, 2), settings)
        held_out = [thing for thing in clip.objects if thing.pair in HELD_OUT]
        assert held_out == ([clip.objects[clip.focus]] if split == "unseen" else [])


def test_a_mask_has_the_colour_of_its_object(clear_clips: list[SyntheticClip]) -> None:
    """Relative to the strongest channel, as textures and edges only darken."""
    named = np.array([RGB[colour] for colour in COLOURS]) / 255
    named = named / named.max(axis=1, keepdims=True)
    checked = 0
    for clip in clear_clips:
        for frame, number in shown_objects(clip):
            mean = clip.frames[frame][clip.mask(number)[frame]].mean(axis=0)
            nearest = np.abs(named - mean / mean.max()).sum(axis=1).argmin()
            assert COLOURS[nearest] == clip.objects[number].colour
            checked += 1
    assert checked > 500


def test_labels_are_where_the_colours_are(clear_clips: list[SyntheticClip]) -> None:
    """Objects are the only thing with much colour: the coloured pixels are the labelled ones."""
    labelled = np.stack([clip.ids for clip in clear_clips]) >= 2
    pictures = np.stack([clip.frames for clip in clear_clips]).astype(np.float32)
    strongest = pictures.max(axis=-1)
    coloured = (strongest - pictures.min(axis=-1)) / strongest > 0.5
    wrong = (labelled != coloured).sum() / labelled.sum()
    assert wrong < 0.04  # pixels on the soft edges


def test_stuff_lies_above_and_below(clear_clips: list[SyntheticClip]) -> None:
    for clip in clear_clips:
        rows = np.arange(clip.ids.shape[1])[None, :, None]
        upper, lower = clip.stuff_mask(0), clip.stuff_mask(1)
        assert (upper * rows).sum() / upper.sum() < (lower * rows).sum() / lower.sum()
        assert clip.stuff[0] in ("sky", "wall")
        assert clip.stuff[1] in ("grass", "water", "sand")


def test_counts_agree_with_the_labels(clear_clips: list[SyntheticClip]) -> None:
    for clip in clear_clips:
        for number in range(len(clip.objects)):
            assert np.array_equal(clip.visible[:, number], clip.mask(number).sum(axis=(1, 2)))
        assert (clip.occluded >= 0).all()
        assert (clip.occluded[0] <= 0.5).all()


def test_centres_are_the_middle_of_the_masks(clear_clips: list[SyntheticClip]) -> None:
    for clip in clear_clips:
        for frame, number in shown_objects(clip):
            x, y = clip.centres[frame, number]
            reach = 1.4 * clip.objects[number].radius
            if min(x, y, 127 - x, 127 - y) > reach:
                rows, columns = np.nonzero(clip.mask(number)[frame])
                assert abs(columns.mean() - x) < 1
                assert abs(rows.mean() - y) < 1


def test_objects_move_as_they_are_said_to(clear_clips: list[SyntheticClip]) -> None:
    for clip in clear_clips:
        for number, thing in enumerate(clip.objects):
            steps = np.diff(clip.centres[:, number], axis=0)
            speed = np.linalg.norm(steps, axis=1)
            assert np.allclose(steps, np.array(DIRECTION[thing.motion]) * speed[:, None], atol=1e-4)
            assert (speed < 1e-6).all() if thing.motion == "still" else (speed > 0.99).all()
            assert (clip.centres[:, number] > 0).all()
            assert (clip.centres[:, number] < 128).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_large_ones_are_clearly_larger(clear_clips: list[SyntheticClip], shape: str) -> None:
    areas: dict[str, list[int]] = {"small": [], "large": []}
    for clip in clear_clips:
        for frame, number in shown_objects(clip):
            if clip.objects[number].shape == shape:
                areas[clip.objects[number].size].append(int(clip.visible[frame, number]))
    assert min(areas["large"]) > 1.1 * max(areas["small"])


def test_desaturated_frames_carry_no_colour() -> None:
    for number in range(40):
        clip = make_clip(number, evaluation_settings("desaturated"))
        spread = np.ptp(clip.frames, axis=-1).max(axis=(1, 2))
        assert clip.desaturated.sum() == 3
        assert not clip.desaturated[0]
        assert (spread[clip.desaturated] == 0).all()
        assert (spread[~clip.desaturated] > 100).all()
        for frame, shown in shown_objects(clip):
            if clip.desaturated[frame] and clip.objects[shown].texture == "plain":
                brightest = np.median(clip.frames[frame][clip.mask(shown)[frame]])
                assert brightest == DESATURATED_OBJECT


def test_where_colours_go_another_object_looks_like_the_focus() -> None:
    for number in range(40):
        clip = make_clip(number, evaluation_settings("desaturated"))
        focus = clip.objects[clip.focus]
        looks = [(thing.shape, thing.texture, thing.size) for thing in clip.objects]
        assert looks.count((focus.shape, focus.texture, focus.size)) >= 2


def test_the_occluder_passes_over_the_focus() -> None:
    occluded = []
    for number in range(40):
        clip = make_clip(number, evaluation_settings("occluded"))
        under = clip.ids == OCCLUDER
        assert under.any()
        assert clip.frames[under].max() < 150  # the soft edge of the bar over bright stuff
        assert np.median(clip.frames[under]) < 40
        occluded.append((clip.occluded[:, clip.focus] > 0.4).any())
    assert np.mean(occluded) > 0.9


def test_nothing_is_hidden_where_nothing_should(clear_clips: list[SyntheticClip]) -> None:
    assert not any((clip.ids == OCCLUDER).any() or clip.desaturated.any() for clip in clear_clips)


@pytest.mark.parametrize(("side", "frames"), [(97, 1), (32, 2), (200, 3), (64, 40)])
def test_other_sizes(side: int, frames: int) -> None:
    clip = make_clip(1, ClipSettings(side=side, frames=frames, desaturated=1, occluder=1))
    assert clip.frames.shape == (frames, side, side, 3)
    assert clip.ids.shape == (frames, side, side)
    assert clip.desaturated.any() == (frames >= 3)


def test_six_large_objects_find_room() -> None:
    for number in range(20):
        clip = make_clip(number, ClipSettings(min_objects=6, max_objects=6))
        assert len({thing.pair for thing in clip.objects}) >= 5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"side": 31}, "31 pixels"),
        ({"frames": 0}, "0 frames"),
        ({"min_objects": 5}, "5 to 4 objects"),
        ({"same_shape": 1.5}, "same_shape is 1.5"),
        ({"desaturated_frames": 8}, "8 desaturated frames of 8"),
        ({"split": "train"}, "'train'"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ClipSettings(**wrong)  # type: ignore[arg-type]


def test_a_split_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="'test'"):
        clip_seed("test", 0)  # type: ignore[arg-type]
