"""Points at which masks are compared instead of at every pixel (PointRend; Mask2Former)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_points(rows: int, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """(rows, count, 2) float32, x and y uniform in 0…1. Drawn where the generator lives, so that a run on another
    device with a CPU generator sees the same points.
    """
    return torch.rand(rows, count, 2, generator=generator, device=generator.device).to(device)


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps at points.

    maps: (N, H, W) float. points: (N, P, 2) or, shared by all maps, (1, P, 2): x, y in 0…1, where 0 and 1 are the
    outer edges of the first and the last pixel (align_corners=False). Beyond the outermost pixel centres their values
    go on, as they do where masks are resized. Returns (N, P), differentiable in maps.
    """
    if not len(maps):  # grid_sample refuses an empty batch
        return maps[:, 0, :1].expand(0, points.shape[1])
    grid = (2 * points - 1)[:, None].to(maps.dtype)
    # Maps that share their points are the channels of one image: the weights are then computed once.
    image = maps[None] if len(points) == 1 else maps[:, None]
    sampled = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[0, :, 0] if len(points) == 1 else sampled[:, 0, 0]


@torch.no_grad()
def uncertain_points(
    logits: Tensor, count: int, generator: torch.Generator, *, oversample: float = 3.0, importance: float = 0.75
) -> Tensor:
    """Points near the border of each predicted mask, and some anywhere.

    logits: (N, H, W). Of count × oversample random points, the count × importance whose logit is nearest to zero are
    kept; the rest are fresh random ones. Returns (N, count, 2), x and y in 0…1.
    """
    kept = round(count * importance)
    drawn = random_points(len(logits), max(kept, round(count * oversample)), generator, logits.device)
    if not len(logits):
        return drawn[:, :count]
    nearest = sample_points(logits.float(), drawn).abs().topk(kept, dim=1, largest=False).indices
    near = drawn.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([near, random_points(len(logits), count - kept, generator, logits.device)], dim=1)
