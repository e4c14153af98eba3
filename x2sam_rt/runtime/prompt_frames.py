"""The frames an instruction is answered on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from x2sam_rt.errors import PromptError
from x2sam_rt.media.video import VideoReader, evenly_spaced
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import RegionPrompt

# Frames the language model sees of a video: the published number.
PROMPT_FRAMES = 16


@dataclass(frozen=True, eq=False)
class PromptFrames:
    """frames: what the language model sees, in order, (H, W, 3) uint8 each. by_index: the frames regions may be drawn
    on, by their number in the stream."""

    frames: tuple[Tensor, ...]
    by_index: Mapping[int, Tensor]

    def frame_of(self, region: RegionPrompt) -> Tensor:
        """Raises PromptError when the region's frame is not at hand."""
        if region.frame not in self.by_index:
            have = sorted(self.by_index)
            raise PromptError(
                f"{region.kind} prompt on frame {region.frame}, but only frames {have} are at hand. "
                "Prompt on one of them, or on a frame of the file."
            )
        return self.by_index[region.frame]


class RecentFrames:
    """The last frames of a stream, copied, so that an instruction can be answered at any moment."""

    def __init__(self) -> None:
        self._frames: deque[tuple[int, Tensor]] = deque(maxlen=PROMPT_FRAMES)

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, index: int, frame: Tensor) -> None:
        if self._frames and self._frames[-1][0] == index:  # its step failed, and it is tried again
            self._frames.pop()
        self._frames.append((index, frame.clone()))

    def prompt_frames(self) -> PromptFrames:
        """Frames of one size: the newest, and those before it that share its size (a stream may change it)."""
        shape = self._frames[-1][1].shape
        return PromptFrames(tuple(f for _, f in self._frames if f.shape == shape), dict(self._frames))


def read_prompt_frames(path: Path, instruction: Instruction, *, allow_truncated: bool = False) -> PromptFrames:
    """A video file's prompt: evenly spaced frames for the language model, and the frames its regions are drawn on.

    Raises VideoError; PromptError when a region's frame lies outside the video.
    """
    frames = evenly_spaced(path, PROMPT_FRAMES, allow_truncated=allow_truncated)
    prompted = _frames_at(path, {region.frame for region in instruction.regions}, allow_truncated)
    return PromptFrames(tuple(torch.from_numpy(frame.pixels) for frame in frames), prompted)


def _frames_at(path: Path, indices: Iterable[int], allow_truncated: bool) -> dict[int, Tensor]:
    wanted = set(indices)
    if not wanted:
        return {}
    with VideoReader(path, allow_truncated=allow_truncated) as video:
        found, total = video.pick(wanted)
    outside = sorted(wanted - {frame.index for frame in found})
    if outside:
        raise PromptError(f"Prompt on frames {outside}, but {path} has frames 0 to {total - 1} only.")
    return {frame.index: torch.from_numpy(frame.pixels) for frame in found}
