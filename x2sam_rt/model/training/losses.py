"""What training minimises: masks, their classification, and the next token (X2SAM, stage 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.errors import DataError
from x2sam_rt.model.training.matching import (
    LossWeights,
    MaskTargets,
    Matches,
    match_batch,
    random_points,
    resize_masks,
    sample_points,
    uncertain_points,
)

__all__ = ["LossWeights", "MaskTargets", "SetLosses", "next_token_loss", "set_loss"]


@dataclass(frozen=True, eq=False)
class SetLosses:
    """The unweighted losses of a batch, each a scalar: the mean over the decoder layers."""

    mask_bce: Tensor
    dice: Tensor
    classification: Tensor

    def weighted(self, weights: LossWeights) -> Tensor:
        """Their weighted sum."""
        masks = weights.mask_bce * self.mask_bce + weights.dice * self.dice
        return masks + weights.classification * self.classification


def set_loss(
    mask_logits: Tensor,
    class_logits: Tensor,
    targets: MaskTargets,
    background: Tensor,
    *,
    weights: LossWeights,
    points: int | None,
    generator: torch.Generator,
    names: Sequence[str],
    labelled: Tensor | None = None,
) -> SetLosses:
    """The losses of a batch of frames over all decoder layers, queries matched to targets at each layer.

    mask_logits: (L, B, Q, H, W). class_logits: (L, B, Q, C + 1), −1e6 where a frame has fewer conditions than the
    batch's widest. background: (B,) int64, each frame's background row: the one after its real conditions. points: at
    how many places masks are compared; None compares all H × W pixels (small maps: faster and less noisy). generator:
    draws the points. names: B, to complain about a frame with. labelled: (B,) bool; a frame that is not takes no part
    in any of these losses.

    Mask losses are divided by the number of targets in the batch. The classification is the mean cross-entropy, in
    which queries without a target weigh `weights.background`. A batch without targets has mask losses of zero.
    Raises DataError for a target whose condition its frame does not have; TrainingError for costs that are not finite.
    """
    labelled = torch.ones_like(background, dtype=torch.bool) if labelled is None else labelled
    targets = replace(targets, valid=targets.valid & labelled[:, None])
    _check_conditions(targets, background, names)
    if points is None:
        shared, targets = None, replace(targets, masks=resize_masks(targets.masks, _size(mask_logits)))
    else:
        shared = random_points(1, points, generator, mask_logits.device)
    matches = match_batch(mask_logits, class_logits, targets, shared, weights, names)
    logits, masks = _compare_matched(mask_logits, targets, matches, points, generator)
    count = len(mask_logits) * targets.valid.sum().clamp(min=1)
    return SetLosses(
        mask_bce=F.binary_cross_entropy_with_logits(logits, masks, reduction="none").mean(1).sum() / count,
        dice=_dice(logits, masks).sum() / count,
        classification=_classification(class_logits, targets, matches, background, labelled, weights.background),
    )


def next_token_loss(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy of the tokens the model should have written.

    logits: (…, T, V), those after each token: logits[t] foretells ids[t + 1]. ids: (…, T) int64. mask: (…, T) bool,
    the tokens to be learnt (the answer's); the first token is never foretold. Zero when there are none.
    """
    wanted = mask[..., 1:]
    foretold, right = logits[..., :-1, :][wanted], ids[..., 1:][wanted]
    return F.cross_entropy(foretold.float(), right, reduction="sum") / max(1, len(right))


def _compare_matched(
    mask_logits: Tensor, targets: MaskTargets, matches: Matches, points: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Logits and target masks of the M matched pairs of all layers and frames, (M, P) each."""
    layer, frame, target = matches.matched.nonzero(as_tuple=True)
    logits = mask_logits[layer, frame, matches.queries[layer, frame, target]].float()
    if points is None:
        return logits.flatten(1), targets.masks[frame, target].flatten(1)
    chosen = uncertain_points(logits, points, generator)
    return sample_points(logits, chosen), _sample_targets(targets.masks, matches.matched, chosen)


def _sample_targets(masks: Tensor, matched: Tensor, chosen: Tensor) -> Tensor:
    """Target masks at their pairs' points, (M, P); without a copy of every mask for every layer."""
    layers, frames, number = matched.shape
    points = chosen.new_zeros(layers, frames, number, *chosen.shape[1:])
    points[matched] = chosen
    by_target = points.permute(1, 2, 0, 3, 4).reshape(frames * number, layers * chosen.shape[1], 2)
    sampled = sample_points(masks.float().flatten(0, 1), by_target)
    return sampled.view(frames, number, layers, chosen.shape[1]).permute(2, 0, 1, 3)[matched]


def _size(maps: Tensor) -> tuple[int, int]:
    return int(maps.shape[-2]), int(maps.shape[-1])


def _dice(logits: Tensor, masks: Tensor) -> Tensor:
    chances = logits.sigmoid()
    return 1 - (2 * (chances * masks).sum(1) + 1) / (chances.sum(1) + masks.sum(1) + 1)


def _classification(
    class_logits: Tensor,
    targets: MaskTargets,
    matches: Matches,
    background: Tensor,
    labelled: Tensor,
    background_weight: float,
) -> Tensor:
    layer, frame, target = matches.matched.nonzero(as_tuple=True)
    query = matches.queries[layer, frame, target]
    right = background[None, :, None].repeat(len(class_logits), 1, class_logits.shape[2])
    right[layer, frame, query] = targets.conditions[frame, target]
    weight = torch.full(right.shape, background_weight, device=right.device)
    weight[layer, frame, query] = 1.0
    weight = weight * labelled[None, :, None]
    each = F.cross_entropy(class_logits.float().flatten(0, 2), right.flatten(), reduction="none").view_as(weight)
    by_layer = (weight * each).sum((1, 2)) / weight.sum((1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    return by_layer.mean()


def _check_conditions(targets: MaskTargets, background: Tensor, names: Sequence[str]) -> None:
    wrong = targets.valid & ((targets.conditions < 0) | (targets.conditions >= background[:, None]))
    if wrong.any():
        frame, target = wrong.nonzero()[0].tolist()
        raise DataError(
            f"{names[frame]}: target {target} belongs to condition {int(targets.conditions[frame, target])}; the frame "
            f"has {int(background[frame])}, numbered from 0. Correct the example."
        )
