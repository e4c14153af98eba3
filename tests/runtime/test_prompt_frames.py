from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from x2sam_rt.config import PixelBudget
from x2sam_rt.errors import PromptError, SnapshotError
from x2sam_rt.media.image import write_image
from x2sam_rt.media.source import Part
from x2sam_rt.media.sources import open_source
from x2sam_rt.media.video import VideoWriter
from x2sam_rt.model.preprocess import vision_input
from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES, RecentFrame, RecentFrames, read_prompt_frames
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt


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


def test_large_frames_of_a_stream_are_kept_as_they_are_shown() -> None:
    """In bounded memory; 16 of them are seen the same to the last bit, and regions are drawn on whole ones alone."""
    budget, random = PixelBudget(min_pixels=64 * 64, max_pixels=16 * 96 * 128), torch.Generator().manual_seed(0)
    clip = [torch.randint(0, 256, (240, 320, 3), dtype=torch.uint8, generator=random) for _ in range(40)]
    size, shown = 240 * 320 * 3, 96 * 128 * 3
    recent, whole = RecentFrames(budget, whole=2 * size + PROMPT_FRAMES * shown), RecentFrames()
    for index, pixels in enumerate(clip):
        recent.add(index, pixels)
        whole.add(index, pixels)
        assert recent.num_bytes <= 2 * size + PROMPT_FRAMES * shown
        ours, theirs = recent.prompt_frames(), whole.prompt_frames()
        assert len(ours.frames) == len(theirs.frames)
        if index < 2 or index >= PROMPT_FRAMES - 1:
            seen, wanted = (vision_input(one.frames, budget, video=True) for one in (ours, theirs))
            assert torch.equal(seen.patches, wanted.patches)
    assert sorted(ours.by_index) == [38, 39]
    with pytest.raises(PromptError, match=r"only frames \[38, 39\] are at hand"):
        ours.frame_of(Prompt.point(9, 9, frame=30))


def test_large_frames_go_through_a_snapshot() -> None:
    recent, again = RecentFrames(PixelBudget(min_pixels=1024, max_pixels=16 * 1024), whole=0), RecentFrames()
    for index in range(3):
        recent.add(index, torch.zeros(64, 64, 3, dtype=torch.uint8))
    again.restore(recent.state(), 3)
    assert [one.shape for one in again.prompt_frames().frames] == [(32, 32, 3), (32, 32, 3), (64, 64, 3)]
    assert sorted(again.prompt_frames().by_index) == [2]
    with pytest.raises(SnapshotError, match="no frame has it"):
        RecentFrames().restore((RecentFrame(0, frame(0), (0, 7)),), 1)


@pytest.mark.parametrize("frames", [1, 3, 20], ids=["one", "an-odd-number", "more-than-are-shown"])
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "images"])
@pytest.mark.parametrize("part", [Part(), Part(start=0.0, stride=2)], ids=["whole", "part"])
def test_frames_are_held_as_they_are_shown(tmp_path: Path, name: str, frames: int, part: Part) -> None:
    """Large ones take no more than that, and the language model sees the same to the last bit."""
    random, budget = np.random.default_rng(0), PixelBudget(min_pixels=64 * 64, max_pixels=16 * 96 * 128)
    clip = [random.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(frames)]
    if name == "images":
        (tmp_path / name).mkdir()
        for index, pixels in enumerate(clip):
            write_image(tmp_path / name / f"{index}.png", pixels)
    else:
        with VideoWriter(tmp_path / name, 320, 240, 25) as video:
            for pixels in clip:
                video.write(pixels)
    drawn = Instruction("object", regions=(Prompt.point(9, 9),))
    with open_source(tmp_path / name, part) as source:
        picked = source.pick(PROMPT_FRAMES)
        held = read_prompt_frames(source, drawn, budget)
    assert picked is not None
    assert held is not None
    whole = [torch.from_numpy(one.pixels) for one in picked.spread]
    ours, theirs = (vision_input(shown, budget, video=True) for shown in (held.frames, whole))
    assert torch.equal(ours.patches, theirs.patches)
    assert held.by_index[0].shape == (240, 320, 3)
    if len(whole) == PROMPT_FRAMES:
        assert sum(one.numel() for one in held.frames[1:]) <= 3 * budget.max_pixels
