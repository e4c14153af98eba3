"""Visual prompts as tokens: points inside a region, sampled from the mask encoder's third stage."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.errors import PromptError

REGION_POINTS = 256
REGION_TOKENS = 64


def region_map(region_source: Tensor, projector: nn.Module) -> Tensor:
    """region_source: (1, h, w, C), channels last. Returns (1, (h/2)·(w/2), language dim).

    A 2×2 pixel shuffle (channel = row parity · 2C + column parity · C + c), then the projector.
    """
    _, height, width, channels = region_source.shape
    blocks = region_source.view(1, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
    out: Tensor = projector(blocks.reshape(1, (height // 2) * (width // 2), 4 * channels))
    return out


def region_points(mask: Tensor) -> Tensor:
    """The points a region is sampled at: 256 of its pixels, evenly spread in row-major order.

    mask: (S, S), non-zero inside, in the segmentor's input grid. Returns (256, 2) int64, row then column. The choice
    is deterministic: point i is pixel number floor(i · (n − 1) / 255). Raises PromptError for an empty mask.
    """
    pixels = mask.nonzero()
    if len(pixels) == 0:
        raise PromptError("The region prompt covers no pixel of the frame; draw it larger or inside the frame.")
    steps = torch.arange(REGION_POINTS, device=mask.device) * (len(pixels) - 1) // (REGION_POINTS - 1)
    return pixels[steps]


def region_tokens(projected_map: Tensor, masks: Tensor) -> Tensor:
    """projected_map: (1, cells, language dim), a square grid. masks: (R, S, S). Returns (R, 64, language dim).

    Each region's 256 points are read bilinearly (align_corners) and averaged in runs of 4.
    """
    side = int(projected_map.shape[1] ** 0.5)
    cells = projected_map.float().transpose(1, 2).reshape(1, -1, side, side)
    points = torch.stack([region_points(mask) for mask in masks]).float()
    extent = torch.tensor(masks.shape[-2:], dtype=points.dtype, device=points.device)
    grid = (2 * points / extent - 1).flip(-1)[None]  # x before y
    sampled = F.grid_sample(cells, grid, mode="bilinear", align_corners=True)[0]  # (dim, R, 256)
    tokens = sampled.view(sampled.shape[0], len(masks), REGION_TOKENS, -1).mean(-1).permute(1, 2, 0)
    return tokens.to(projected_map.dtype)
