from __future__ import annotations

import torch

from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES, RecentFrames


def frame(value: int, width: int = 7) -> torch.Tensor:
    return torch.full((5, width, 3), value, dtype=torch.uint8)


def test_keeps_copies_of_the_last_frames() -> None:
    recent, buffer = RecentFrames(), frame(0)
    for index in range(PROMPT_FRAMES + 3):
        buffer.fill_(index)
        recent.add(index, buffer)
    clip = recent.prompt_frames()
    assert [int(seen[0, 0, 0]) for seen in clip.frames] == list(range(3, PROMPT_FRAMES + 3))
    assert sorted(clip.by_index) == list(range(3, PROMPT_FRAMES + 3))


def test_a_frame_tried_again_is_seen_once() -> None:
    recent = RecentFrames()
    for index, value in ((0, 1), (1, 2), (1, 3)):
        recent.add(index, frame(value))
    assert [int(seen[0, 0, 0]) for seen in recent.prompt_frames().frames] == [1, 3]


def test_a_clip_has_one_size_and_regions_any() -> None:
    recent = RecentFrames()
    for index, width in enumerate((7, 9, 9)):
        recent.add(index, frame(index, width))
    clip = recent.prompt_frames()
    assert [seen.shape[1] for seen in clip.frames] == [9, 9]
    assert clip.by_index[0].shape[1] == 7
