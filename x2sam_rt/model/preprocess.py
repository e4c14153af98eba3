"""From a frame of any size to the model's inputs: the segmentor's square and the visual tower's patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.config import PixelBudget, ResizeMode
from x2sam_rt.errors import FrameError
from x2sam_rt.media.types import BoolMask

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet
_PATCH, _TEMPORAL, _MERGE = 16, 2, 2
_CELL = _PATCH * _MERGE  # the visual tower takes sides that are multiples of this, and makes a token of each square


@dataclass(frozen=True, eq=False)
class SegmentorInput:
    """pixels: (1, 3, S, S) fp32, normalised. scaled_size: (height, width) the frame fills of it, from the top left.
    original_size: (height, width) of the frame itself.
    """

    pixels: Tensor
    scaled_size: tuple[int, int]
    original_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class VisionInput:
    """patches: (pairs, height · width, 3·2·16·16) fp32 in merge order; height, width: patches per pair."""

    patches: Tensor
    height: int
    width: int


def segmentor_input(frame: Tensor, size: int, mode: ResizeMode) -> SegmentorInput:
    """frame: (H, W, 3) uint8. Bilinear with antialiasing, /255, ImageNet mean and std; zeros pad right and bottom."""
    height, width = frame.shape[:2]
    scaled = scaled_size(height, width, size, mode)
    mean, std = _statistics(frame.device)
    pixels = (_resize(frame, scaled, "bilinear").float() / 255 - mean) / std
    padded = F.pad(pixels, (0, size - scaled[1], 0, size - scaled[0]))
    return SegmentorInput(padded[None], scaled, (height, width))


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, (3, 1, 1) each; kept, since bringing them to a GPU makes the host wait."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (_MEAN, _STD))
    return mean, std


def scaled_size(height: int, width: int, size: int, mode: ResizeMode) -> tuple[int, int]:
    """(height, width) that a frame fills of the S×S input."""
    if mode == "stretch":
        return size, size
    scale = size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def region_input(mask: BoolMask, size: int, mode: ResizeMode) -> Tensor:
    """A region of a frame in the segmentor's input grid. mask: (H, W) bool. Returns (S, S) uint8, nearest pixel.

    A region too small to survive the resize keeps the pixel nearest to its centre.
    """
    height, width = scaled_size(mask.shape[0], mask.shape[1], size, mode)
    rows, columns = _nearest(height, mask.shape[0]), _nearest(width, mask.shape[1])
    resized = np.zeros((size, size), dtype=np.uint8)
    resized[:height, :width] = mask[np.ix_(rows, columns)]
    if mask.any() and not resized.any():
        row, column = (int(axis.mean()) for axis in mask.nonzero())
        resized[row * height // mask.shape[0], column * width // mask.shape[1]] = 1
    return torch.from_numpy(resized)


def _nearest(target: int, source: int) -> Any:
    """Source index of each target index: the cell its centre falls in."""
    return np.minimum(((np.arange(target) + 0.5) * source / target).astype(np.int64), source - 1)


def vision_input(frames: Sequence[Tensor], budget: PixelBudget, *, video: bool) -> VisionInput:
    """Frames of one size, (H, W, 3) uint8 each; an odd last frame is repeated, a still image is a pair with itself.

    budget: pixels of the image, or of all frames of the video together. Bicubic with antialiasing, to [−1, 1].
    """
    height, width = frames[0].shape[:2]
    return vision_patches(frames, vision_size(height, width, len(frames) if video else 1, budget))


def vision_patches(frames: Sequence[Tensor], target: tuple[int, int]) -> VisionInput:
    """As `vision_input`; target: (height, width) that `vision_size` has chosen."""
    resized = [_resize(frame, target, "bicubic") for frame in frames]
    if len(resized) % _TEMPORAL:
        resized.append(resized[-1])
    clip = torch.stack(resized).float() / 127.5 - 1  # (frames, 3, H, W)
    rows, columns = target[0] // _PATCH, target[1] // _PATCH
    return VisionInput(_patchify(clip, rows, columns), rows, columns)


def shown_frame(frame: Tensor, frames: int, budget: PixelBudget) -> Tensor:
    """A frame of a video, (H, W, 3) uint8, no larger than the visual tower is shown it, so that it need not be held
    whole. Whole where it would be enlarged or resized once more: `vision_input` gives the same of both.

    frames: how many of the video are shown.
    """
    height, width = frame.shape[:2]
    target = vision_size(height, width, frames, budget)
    if target[0] * target[1] >= height * width or vision_size(*target, frames, budget) != target:
        return frame
    return _resize(frame, target, "bicubic").permute(1, 2, 0).contiguous()


def vision_size(height: int, width: int, frames: int, budget: PixelBudget) -> tuple[int, int]:
    """(height, width) that a frame is resized to: multiples of 32 within the budget, keeping the aspect."""
    if max(height, width) > 200 * min(height, width):
        raise FrameError(f"A frame is {width}×{height}; the language model takes aspect ratios up to 200.")
    rows, columns = max(_CELL, round(height / _CELL) * _CELL), max(_CELL, round(width / _CELL) * _CELL)
    shown = frames + frames % _TEMPORAL if frames > 1 else frames  # an odd last frame is repeated
    pixels = frames * height * width
    if shown * rows * columns > budget.max_pixels:
        shrink = math.sqrt(pixels / budget.max_pixels)
        rows, columns = (max(_CELL, math.floor(side / shrink / _CELL) * _CELL) for side in (height, width))
    elif shown * rows * columns < budget.min_pixels:
        grow = math.sqrt(budget.min_pixels / pixels)
        rows, columns = (math.ceil(side * grow / _CELL) * _CELL for side in (height, width))
    return rows, columns


def tokens_per_pair(target: tuple[int, int]) -> int:
    """Visual tokens of a pair of frames that are resized to `target`, (height, width)."""
    return (target[0] // _CELL) * (target[1] // _CELL)


def _patchify(clip: Tensor, rows: int, columns: int) -> Tensor:
    """(frames, 3, H, W) → (pairs, patches, 3·2·16·16), patches in merge order (2×2 blocks adjacent)."""
    blocks = clip.view(
        -1, _TEMPORAL, 3, rows // _MERGE, _MERGE, _PATCH, columns // _MERGE, _MERGE, _PATCH
    )  # pair, time, channel, block row, row, y, block column, column, x
    return blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(len(blocks), rows * columns, -1)


def _resize(frame: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(H, W, 3) uint8 → (3, h, w), 8-bit values as Pillow rounds them (within one level)."""
    channels = frame.permute(2, 0, 1)[None]
    if tuple(frame.shape[:2]) == size:
        return channels[0]
    if frame.is_cuda:  # no 8-bit kernel there
        across = _resize_rounded(channels.float(), (frame.shape[0], size[1]), mode)
        return _resize_rounded(across, size, mode)[0]
    return F.interpolate(channels, size=size, mode=mode, antialias=True, align_corners=False)[0]


def _resize_rounded(maps: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """One axis at a time: Pillow rounds and clamps between its two passes, which shows where bicubic overshoots."""
    return F.interpolate(maps, size=size, mode=mode, antialias=True, align_corners=False).round_().clamp_(0, 255)
