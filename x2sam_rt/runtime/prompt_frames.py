"""The frames an instruction is answered on."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import torch
from torch import Tensor

from x2sam_rt.config import PixelBudget
from x2sam_rt.errors import PromptError, SnapshotError
from x2sam_rt.media.source import FrameSource
from x2sam_rt.media.types import Pixels
from x2sam_rt.model.language import Between
from x2sam_rt.model.preprocess import shown_frame
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import RegionPrompt

# Frames the language model sees of a video: the published number.
PROMPT_FRAMES = 16
# Of a stream's last frames: 16 whole ones of 4K. Of larger frames the newest that fit are kept whole.
_WHOLE_BYTES = 2**29


@dataclass(frozen=True, eq=False)
class PromptFrames:
    """frames: what the language model sees, in order, (H, W, 3) uint8 each. by_index: the frames regions may be drawn
    on, whole, by their number in the stream. own: the same frames as a stream keeps them, whose pixels nobody can
    change; those of others are read anew each time."""

    frames: tuple[Tensor, ...]
    by_index: Mapping[int, Tensor]
    own: tuple[RecentFrame, ...] = ()

    def pixel_digests(self, between: Between | None = None) -> tuple[bytes, ...]:
        """What tells frames of different pixels apart. between: called before each."""

        def digest(frame: RecentFrame | Tensor) -> bytes:
            if between is not None:
                between()
            return frame.digest if isinstance(frame, RecentFrame) else pixel_digest(frame)

        return tuple(map(digest, self.own or self.frames))

    def frame_of(self, region: RegionPrompt) -> Tensor:
        """Raises PromptError when the region's frame is not at hand."""
        if region.frame not in self.by_index:
            have = sorted(self.by_index)
            raise PromptError(
                f"{region.kind} prompt on frame {region.frame}, but only frames {have} are at hand. "
                "Prompt on one of them, or on a frame of the file."
            )
        return self.by_index[region.frame]


@dataclass(frozen=True, eq=False)
class RecentFrame:
    """A stream's copy of a frame, never written to. index: its number in the stream. pixels: (H, W, 3) uint8. size:
    (height, width) it came in, where it is kept smaller; None = whole."""

    index: int
    pixels: Tensor
    size: tuple[int, int] | None = None

    @property
    def original_size(self) -> tuple[int, int]:
        return self.size or (self.pixels.shape[0], self.pixels.shape[1])

    @cached_property
    def digest(self) -> bytes:
        return pixel_digest(self.pixels)


class RecentFrames:
    """The last frames of a stream, copied, so that an instruction can be answered at any moment.

    Beyond 512 MiB the older ones are kept as they are shown among 16 frames. An answer on 16 frames is the same to the
    last bit; one on fewer sees them no larger than that, as how many there will be is not known when they come.
    """

    def __init__(
        self, budget: PixelBudget | None = None, shown: int = PROMPT_FRAMES, whole: int = _WHOLE_BYTES
    ) -> None:
        """budget: the language side's; None = all are kept whole. shown: how many frames it is for. whole: bytes up to
        which all are kept whole."""
        self._budget, self._shown, self._whole = budget, shown, whole
        self._frames: deque[RecentFrame] = deque(maxlen=PROMPT_FRAMES)

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, index: int, frame: Tensor) -> None:
        if self._frames and self._frames[-1].index == index:  # its step failed, and it is tried again
            self._frames.pop()
        self._frames.append(RecentFrame(index, frame.clone()))
        self._shrink()

    @property
    def num_bytes(self) -> int:
        return sum(frame.pixels.nbytes for frame in self._frames)

    def _shrink(self) -> None:
        """The oldest first, until they fit; never the newest."""
        for place, frame in enumerate(tuple(self._frames)[:-1]):
            if self._budget is None or self.num_bytes <= self._whole:
                return
            if frame.size is None:
                smaller = shown_frame(frame.pixels, self._shown, self._budget)
                if smaller is not frame.pixels:
                    self._frames[place] = RecentFrame(frame.index, smaller, frame.original_size)

    def state(self) -> tuple[RecentFrame, ...]:
        return tuple(self._frames)

    def restore(self, frames: tuple[RecentFrame, ...], next_frame: int) -> None:
        """next_frame: what a stream saw last may be it, if its step failed. Raises SnapshotError for what no stream
        saw."""
        numbers = [frame.index for frame in frames]
        in_order = numbers == sorted(set(numbers)) and all(0 <= number <= next_frame for number in numbers)
        if len(frames) > PROMPT_FRAMES or not in_order:
            raise SnapshotError(f"Frames {numbers} were seen last before {next_frame}; wanted up to {PROMPT_FRAMES}.")
        for frame in frames:
            require_pixels(frame.pixels)
            if min(frame.original_size) < 1:
                raise SnapshotError(f"Frame {frame.index} came in the size {frame.size}; no frame has it.")
        self._frames.extend(frames)

    def prompt_frames(self) -> PromptFrames:
        """Frames of one size: the newest, and those before it that share its size (a stream may change it)."""
        shown = [frame for frame in self._frames if frame.original_size == self._frames[-1].original_size]
        return PromptFrames(
            tuple(frame.pixels for frame in shown),
            {frame.index: frame.pixels for frame in self._frames if frame.size is None},
            tuple(shown),
        )


def require_pixels(pixels: Tensor) -> None:
    """Raises SnapshotError for a saved frame that is none, (H, W, 3) uint8."""
    if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.numel():
        raise SnapshotError(f"A saved frame is {pixels.dtype} {tuple(pixels.shape)}; wanted (H, W, 3) uint8.")


def pixel_digest(frame: Tensor) -> bytes:
    """Of a frame's shape and pixels, (H, W, 3) uint8."""
    digest = blake2b(repr(tuple(frame.shape)).encode(), digest_size=16)
    digest.update(frame.cpu().contiguous().numpy().data)
    return digest.digest()


class _Shown:
    """Holds frames no larger than they are shown; whole those of another size than the first."""

    def __init__(self, budget: PixelBudget) -> None:
        self._budget = budget
        self._size: tuple[int, ...] | None = None

    def __call__(self, pixels: Pixels, frames: int) -> Pixels:
        self._size = self._size or pixels.shape
        if pixels.shape != self._size:
            return pixels
        held: Pixels = shown_frame(torch.from_numpy(pixels), frames, self._budget).numpy()
        return held


def read_prompt_frames(
    source: FrameSource, instruction: Instruction, budget: PixelBudget | None = None
) -> PromptFrames | None:
    """A source's prompt: evenly spaced frames for the language model, and the frames its regions are drawn on. None of
    a source that is not looked ahead in: its stream answers on its first frame. budget: the language side's, for
    videos: no frame is held larger than it is shown within it, but for those that regions are drawn on; None = all
    whole.

    Raises VideoError; PromptError when a region's frame lies outside the source.
    """
    wanted = {region.frame for region in instruction.regions}
    picked = source.pick(PROMPT_FRAMES, wanted, None if budget is None else _Shown(budget))
    if picked is None:
        return None
    _require_frames(source, wanted, picked.total)
    return PromptFrames(
        frames=tuple(torch.from_numpy(frame.pixels) for frame in picked.spread),
        by_index={index: torch.from_numpy(frame.pixels) for index, frame in picked.chosen.items()},
    )


def require_regions(source: FrameSource, instruction: Instruction) -> None:
    """Refuses, before anything is loaded or computed, what a source's length and the size of its frames refuse, as far
    as they are known beforehand. Raises VideoError; PromptError for a region outside its frame, or on none."""
    if source.num_frames is not None:
        _require_frames(source, {region.frame for region in instruction.regions}, source.num_frames)
    for region in instruction.regions:
        size = source.frame_size(region.frame)
        if size is not None:
            region.mask(*size)


def _require_frames(source: FrameSource, wanted: Collection[int], total: int) -> None:
    outside = sorted(number for number in wanted if number >= total)
    if outside:
        raise PromptError(f"Prompt on frames {outside}, but {source.name} has frames 0 to {total - 1} only.")
