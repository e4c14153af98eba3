"""Which query answers for which target: the cheapest one-to-one assignment (Mask2Former's Hungarian matching), of masks
compared everywhere or at points (PointRend)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from x2sam_rt.errors import ConfigError, TrainingError


@dataclass(frozen=True)
class LossWeights:
    """Weights of the losses, and, for the first three, of the matching cost (X2SAM, stage 2; Mask2Former).

    background: weight of a query without a target in the classification, against 1 for a query with one.
    """

    mask_bce: float = 5.0
    dice: float = 5.0
    classification: float = 2.0
    next_token: float = 1.0
    background: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ConfigError(f"The loss weight {field.name} is {getattr(self, field.name)}; it must be 0 or more.")


@dataclass(frozen=True, eq=False)
class MaskTargets:
    """What must be found in a batch of frames, padded to the same number of targets.

    masks: (B, N, h, w) float in 0…1, or bool. conditions: (B, N) int64, the row of the class logits each belongs to.
    valid: (B, N) bool, False where padded; the other two may then hold anything.
    """

    masks: Tensor
    conditions: Tensor
    valid: Tensor


@dataclass(frozen=True, eq=False)
class Matches:
    """For every decoder layer, frame and target: its query. queries: (L, B, N) int64, 0 where there is none.
    matched: (L, B, N) bool, False where padded, and for targets left over when there are more than queries.
    """

    queries: Tensor
    matched: Tensor


def match(
    mask_logits: Tensor,
    class_logits: Tensor,
    target_masks: Tensor,
    target_conditions: Tensor,
    points: Tensor | None,
    weights: LossWeights,
    name: str = "frame",
) -> tuple[Tensor, Tensor]:
    """Matches one frame. mask_logits: (Q, H, W). class_logits: (Q, C + 1). target_masks: (N, h, w).
    target_conditions: (N,) int64. points, name: as in `match_batch`. Returns indices of queries and of their targets,
    (M,) int64 each, M = min(Q, N), in the order of the targets.
    """
    valid = torch.ones_like(target_conditions, dtype=torch.bool)[None]
    targets = MaskTargets(target_masks[None], target_conditions[None], valid)
    found = match_batch(mask_logits[None, None], class_logits[None, None], targets, points, weights, [name])
    chosen = found.matched[0, 0].nonzero()[:, 0]
    return found.queries[0, 0, chosen], chosen


@torch.no_grad()
def match_batch(
    mask_logits: Tensor,
    class_logits: Tensor,
    targets: MaskTargets,
    points: Tensor | None,
    weights: LossWeights,
    names: Sequence[str],
) -> Matches:
    """Matches every frame at every decoder layer by itself.

    mask_logits: (L, B, Q, H, W). class_logits: (L, B, Q, C + 1). targets: B frames. points: (1, P, 2), x and y in
    0…1, at which masks are compared; None compares all H × W pixels, targets resized by averaging. names: B, to
    complain about a frame with. Raises TrainingError naming the frame whose costs are not finite.
    """
    logits, masks = _compared(mask_logits, targets.masks, points)
    costs = matching_costs(logits, class_logits, masks, targets.conditions.masked_fill(~targets.valid, 0), weights)
    _check_finite(costs, targets.valid, names)
    return _assign(costs, targets.valid)


def matching_costs(
    logits: Tensor, class_logits: Tensor, masks: Tensor, conditions: Tensor, weights: LossWeights
) -> Tensor:
    """The price of every query for every target.

    logits: (L, B, Q, P) mask logits at P places. class_logits: (L, B, Q, C + 1). masks: (B, N, P) in 0…1 at the same
    places. conditions: (B, N). Returns (L, B, Q, N): weighted mean binary cross-entropy + dice − class probability.
    """
    across, areas = masks.transpose(1, 2), masks.sum(-1)[:, None]
    # BCE(x, t) = softplus(x) − x·t, so one product does for all pairs, and no pair needs its P values at once.
    bce = (F.softplus(logits).sum(-1, keepdim=True) - logits @ across) / logits.shape[-1]
    chances = logits.sigmoid()
    dice = 1 - (2 * (chances @ across) + 1) / (chances.sum(-1, keepdim=True) + areas + 1)
    classes = class_logits.float().softmax(-1)
    probability = classes.gather(-1, conditions[None, :, None].expand(*classes.shape[:3], -1))
    return weights.mask_bce * bce + weights.dice * dice - weights.classification * probability


def _compared(mask_logits: Tensor, masks: Tensor, points: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits (L, B, Q, P) and target masks (B, N, P) at the places where they are compared."""
    logits = mask_logits.float()
    if points is None:
        size = (int(logits.shape[-2]), int(logits.shape[-1]))
        return logits.flatten(-2), resize_masks(masks, size).flatten(-2)
    return _at_points(logits, points), _at_points(masks.float(), points)


def _at_points(maps: Tensor, points: Tensor) -> Tensor:
    sampled = sample_points(maps.flatten(0, -3), points)
    return sampled.view(*maps.shape[:-2], points.shape[1])


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, N, h, w) bool or float to (B, N, *size) float: the share of each cell that a mask covers."""
    if not masks.shape[1] or masks.shape[-2:] == size:
        return masks.float().reshape(*masks.shape[:2], *size)
    return F.interpolate(masks.float(), size=size, mode="area")


def _check_finite(costs: Tensor, valid: Tensor, names: Sequence[str]) -> None:
    wrong = ~costs.isfinite() & valid[None, :, None]
    if wrong.any():
        layer, frame = wrong.nonzero()[0, :2].tolist()
        raise TrainingError(
            f"{names[frame]}: the cost of matching queries to targets is not finite at decoder layer {layer}; the "
            "predictions or target masks hold NaN or infinity. Lower the learning rate, or look at this example."
        )


def _assign(costs: Tensor, valid: Tensor) -> Matches:
    layers, frames, _, targets = costs.shape
    queries = torch.zeros(layers, frames, targets, dtype=torch.int64)
    matched = torch.zeros(layers, frames, targets, dtype=torch.bool)
    prices, real = costs.cpu().numpy(), valid.cpu().numpy()
    for frame in np.flatnonzero(real.any(axis=1)):
        columns = np.flatnonzero(real[frame])
        for layer in range(layers):
            rows, chosen = linear_sum_assignment(prices[layer, frame][:, columns])
            queries[layer, frame, columns[chosen]] = torch.from_numpy(rows)
            matched[layer, frame, columns[chosen]] = True
    return Matches(queries.to(costs.device), matched.to(costs.device))


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
