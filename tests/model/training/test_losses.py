from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.errors import DataError, TrainingError
from x2sam_rt.model.training.losses import LossWeights, MaskTargets, SetLosses, next_token_loss, set_loss
from x2sam_rt.model.training.matching import match_batch, random_points, resize_masks, sample_points, uncertain_points

LAYERS, FRAMES, QUERIES, TARGETS = 2, 3, 4, 3
# The widest frame has three conditions; the second has one, so its rows 2 and 3 are padding.
BACKGROUND = torch.tensor([3, 1, 2])
NAMES = ["a", "b", "c"]
WEIGHTS = LossWeights()
Pairs = dict[tuple[int, int, int], tuple[Tensor, Tensor]]
MODES = pytest.mark.parametrize("points", [None, 13], ids=["all-pixels", "points"])


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictions() -> tuple[Tensor, Tensor]:
    masks = 3 * torch.randn(LAYERS, FRAMES, QUERIES, 5, 6, generator=drawing())
    classes = 2 * torch.randn(LAYERS, FRAMES, QUERIES, 4, generator=drawing(1))
    padded = torch.arange(4) > BACKGROUND[:, None]
    classes = classes.masked_fill(padded[None, :, None], -1e6)
    return masks.requires_grad_(), classes.requires_grad_()


def wanted(valid: Tensor | None = None) -> MaskTargets:
    return MaskTargets(
        masks=torch.rand(FRAMES, TARGETS, 10, 12, generator=drawing(2)) > 0.6,
        conditions=torch.tensor([[2, 0, 2], [0, 5, 5], [-3, 1, 8]]),
        valid=torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.bool) if valid is None else valid,
    )


def losses(
    masks: Tensor,
    classes: Tensor,
    targets: MaskTargets,
    points: int | None = None,
    weights: LossWeights = WEIGHTS,
    labelled: Tensor | None = None,
) -> SetLosses:
    return set_loss(
        masks,
        classes,
        targets,
        BACKGROUND,
        weights=weights,
        points=points,
        generator=drawing(7),
        names=NAMES,
        labelled=labelled,
    )


def compared(masks: Tensor, targets: MaskTargets, queries: Tensor, points: int | None, draw: torch.Generator) -> Pairs:
    """Logits and target values of every pair, (P,) each, by (layer, frame, target)."""
    keys = [(k, b, n) for k in range(LAYERS) for b, n in targets.valid.nonzero().tolist()]
    logits = torch.stack([masks[layer, frame, queries[layer, frame, n]] for layer, frame, n in keys])
    if points is None:
        small = resize_masks(targets.masks, (5, 6))
        return {key: (x.flatten(), small[key[1], key[2]].flatten()) for key, x in zip(keys, logits, strict=True)}
    places = uncertain_points(logits, points, draw)
    pairs: Pairs = {}
    for key, x, where in zip(keys, logits, places, strict=True):
        whole = targets.masks[key[1], key[2]].float()
        pairs[key] = (sample_points(x[None], where[None])[0], sample_points(whole[None], where[None])[0])
    return pairs


def by_hand(
    masks: Tensor, classes: Tensor, targets: MaskTargets, points: int | None, background_weight: float
) -> tuple[float, float, float]:
    """The losses from their definitions, one query at a time."""
    draw = drawing(7)
    shared = None if points is None else random_points(1, points, draw)
    queries = match_batch(masks, classes, targets, shared, WEIGHTS, NAMES).queries
    bce = dice = classification = 0.0
    right = BACKGROUND[None, :, None].repeat(LAYERS, 1, QUERIES)
    for (layer, frame, n), (logits, mask) in compared(masks, targets, queries, points, draw).items():
        chance = logits.double().sigmoid()
        bce -= float((mask * chance.log() + (1 - mask) * (1 - chance).log()).mean())
        dice += float(1 - (2 * (chance * mask).sum() + 1) / (chance.sum() + mask.sum() + 1))
        right[layer, frame, queries[layer, frame, n]] = targets.conditions[frame, n]
    for layer in range(LAYERS):
        weighted = weight = 0.0
        for frame in range(FRAMES):
            for query, row in enumerate(right[layer, frame].tolist()):
                one = background_weight if row == BACKGROUND[frame] else 1.0
                weighted -= one * float(classes[layer, frame, query].double().log_softmax(-1)[row])
                weight += one
        classification += weighted / weight
    count = int(targets.valid.sum()) * LAYERS
    return bce / count, dice / count, classification / LAYERS


@MODES
@pytest.mark.parametrize("background_weight", [0.1, 1.0, 0.0])
def test_losses_are_those_by_hand(points: int | None, background_weight: float) -> None:
    masks, classes = predictions()
    found = losses(masks, classes, wanted(), points, replace(WEIGHTS, background=background_weight))
    with torch.no_grad():
        right = by_hand(masks, classes, wanted(), points, background_weight)
    assert [found.mask_bce.item(), found.dice.item(), found.classification.item()] == pytest.approx(right, abs=1e-5)


@MODES
def test_gradients_are_finite_and_reach_every_layer(points: int | None) -> None:
    masks, classes = predictions()
    losses(masks, classes, wanted(), points).weighted(WEIGHTS).backward()
    assert masks.grad is not None
    assert classes.grad is not None
    assert masks.grad.isfinite().all()
    assert classes.grad.isfinite().all()
    assert (masks.grad.abs().sum((1, 2, 3, 4)) > 0).all()
    assert (classes.grad.abs().sum((-1, -3)) > 0).all()
    padded = (torch.arange(4) > BACKGROUND[:, None])[None, :, None].expand_as(classes)
    assert (classes.grad[padded] == 0).all()


@MODES
@pytest.mark.parametrize("targets", [0, 3], ids=["none", "all-padded"])
def test_without_targets_every_query_is_background(points: int | None, targets: int) -> None:
    masks, classes = predictions()
    none = wanted(torch.zeros(FRAMES, TARGETS, dtype=torch.bool))
    none = MaskTargets(none.masks[:, :targets], none.conditions[:, :targets], none.valid[:, :targets])
    found = losses(masks, classes, none, points)
    assert found.mask_bce.item() == found.dice.item() == 0
    each = classes.log_softmax(-1)[:, torch.arange(FRAMES), :, BACKGROUND]
    torch.testing.assert_close(found.classification, -each.mean())
    found.weighted(WEIGHTS).backward()
    assert masks.grad is not None
    assert (masks.grad == 0).all()


@MODES
def test_frames_without_labels_take_no_part(points: int | None) -> None:
    masks, classes = predictions()
    labelled = torch.tensor([True, False, True])
    found = losses(masks, classes, wanted(), points, labelled=labelled)
    found.weighted(WEIGHTS).backward()
    assert masks.grad is not None
    assert classes.grad is not None
    assert (masks.grad[:, 1] == 0).all()
    assert (classes.grad[:, 1] == 0).all()
    if points is None:  # points would be drawn anew
        kept = MaskTargets(wanted().masks[::2], wanted().conditions[::2], wanted().valid[::2])
        alone = set_loss(
            masks[:, ::2],
            classes[:, ::2],
            kept,
            BACKGROUND[::2],
            weights=WEIGHTS,
            points=None,
            generator=drawing(),
            names=["a", "c"],
        )
        for field in fields(SetLosses):
            torch.testing.assert_close(getattr(found, field.name), getattr(alone, field.name))


def test_no_labels_at_all_cost_nothing() -> None:
    masks, classes = predictions()
    found = losses(masks, classes, wanted(), labelled=torch.zeros(FRAMES, dtype=torch.bool))
    assert found.weighted(WEIGHTS).item() == 0


def test_sampled_losses_follow_the_generator() -> None:
    masks, classes = predictions()
    first, again = (losses(masks, classes, wanted(), 13) for _ in range(2))
    assert torch.equal(first.mask_bce, again.mask_bce)


def test_low_precision_predictions_are_compared_in_fp32() -> None:
    masks, classes = (tensor.detach().bfloat16() for tensor in predictions())
    low, high = losses(masks, classes, wanted()), losses(masks.float(), classes.float(), wanted())
    assert low.mask_bce.dtype == torch.float32
    assert torch.equal(low.weighted(WEIGHTS), high.weighted(WEIGHTS))


def test_weighted_sum() -> None:
    found = SetLosses(torch.tensor(1.0), torch.tensor(10.0), torch.tensor(100.0))
    assert found.weighted(LossWeights(mask_bce=2, dice=3, classification=4)).item() == 432


def test_a_condition_the_frame_does_not_have_is_named() -> None:
    masks, classes = predictions()
    targets = wanted()
    targets.conditions[1, 0] = 1
    with pytest.raises(DataError, match=r"^b: target 0 belongs to condition 1; the frame has 1, numbered"):
        losses(masks, classes, targets)


def test_predictions_that_are_not_finite_name_their_frame() -> None:
    masks, classes = predictions()
    with torch.no_grad():
        classes[0, 2] = float("nan")
    with pytest.raises(TrainingError, match=r"^c: "):
        losses(masks, classes, wanted())


def test_next_token_loss_foretells_the_masked_tokens() -> None:
    logits = torch.randn(5, 7, generator=drawing()).requires_grad_()
    ids = torch.tensor([3, 0, 6, 2, 2])
    mask = torch.tensor([True, False, True, False, True])
    found = next_token_loss(logits, ids, mask)
    right = -(logits[1].log_softmax(-1)[6] + logits[3].log_softmax(-1)[2]) / 2
    torch.testing.assert_close(found, right)
    torch.testing.assert_close(next_token_loss(logits[None], ids[None], mask[None]), right)
    torch.testing.assert_close(found, F.cross_entropy(logits[[1, 3]], ids[[2, 4]]))


def test_next_token_loss_without_answer_is_zero_with_a_gradient() -> None:
    logits = torch.randn(3, 7, generator=drawing()).requires_grad_()
    found = next_token_loss(logits, torch.tensor([1, 2, 3]), torch.tensor([True, False, False]))
    found.backward()
    assert found.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
