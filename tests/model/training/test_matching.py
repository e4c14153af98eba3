from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.errors import ConfigError, TrainingError
from x2sam_rt.model.training.matching import (
    LossWeights,
    MaskTargets,
    match,
    match_batch,
    matching_costs,
    random_points,
    resize_masks,
    sample_points,
    uncertain_points,
)

LAYERS, FRAMES, QUERIES, CONDITIONS, TARGETS = 2, 3, 4, 3, 3
WEIGHTS = LossWeights(mask_bce=5, dice=3, classification=2)


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predictions() -> tuple[Tensor, Tensor]:
    masks = 3 * torch.randn(LAYERS, FRAMES, QUERIES, 5, 6, generator=drawing())
    return masks, 2 * torch.randn(LAYERS, FRAMES, QUERIES, CONDITIONS + 1, generator=drawing(1))


def wanted() -> MaskTargets:
    """Three targets in the first frame, none in the second, one (not the first) in the third."""
    return MaskTargets(
        masks=torch.rand(FRAMES, TARGETS, 10, 12, generator=drawing(2)) > 0.6,
        conditions=torch.tensor([[2, 0, 2], [0, 0, 0], [9, 1, -7]]),
        valid=torch.tensor([[True, True, True], [False, False, False], [False, True, False]]),
    )


def price(logits: Tensor, classes: Tensor, mask: Tensor, condition: int) -> float:
    """One query for one target, from the definitions."""
    chance = logits.double().sigmoid()
    bce = -(mask * chance.log() + (1 - mask) * (1 - chance).log()).mean()
    dice = 1 - (2 * (chance * mask).sum() + 1) / (chance.sum() + mask.sum() + 1)
    probability = classes.double().exp()[condition] / classes.double().exp().sum()
    return float(5 * bce + 3 * dice - 2 * probability)


def compared(maps: Tensor, points: Tensor | None) -> Tensor:
    return maps.flatten(1) if points is None else sample_points(maps, points)


@pytest.mark.parametrize("count", [None, 11], ids=["all-pixels", "points"])
def test_costs_are_those_of_each_pair(count: int | None) -> None:
    logits, classes = predictions()
    masks = torch.rand(FRAMES, TARGETS, 5, 6, generator=drawing(5))
    points = None if count is None else random_points(1, count, drawing(3))
    at_places = torch.stack([torch.stack([compared(frame, points) for frame in layer]) for layer in logits])
    masks_at = torch.stack([compared(frame, points) for frame in masks])
    conditions = wanted().conditions.clamp(0, CONDITIONS)
    costs = matching_costs(at_places, classes, masks_at, conditions, WEIGHTS)
    assert costs.shape == (LAYERS, FRAMES, QUERIES, TARGETS)
    for layer, frame, query, target in torch.cartesian_prod(*map(torch.arange, costs.shape)).tolist():
        one = price(
            at_places[layer, frame, query],
            classes[layer, frame, query],
            masks_at[frame, target],
            int(conditions[frame, target]),
        )
        assert costs[layer, frame, query, target].item() == pytest.approx(one, abs=1e-5)


def cheapest(logits: Tensor, classes: Tensor, masks: Tensor, conditions: Tensor) -> tuple[int, ...]:
    """The queries of the targets, by trying every way."""

    def total(queries: tuple[int, ...]) -> float:
        pairs = enumerate(queries)
        return sum(price(logits[q], classes[q], masks[n], int(conditions[n])) for n, q in pairs)

    return min(permutations(range(len(logits)), len(masks)), key=total)


@pytest.mark.parametrize("count", [None, 17], ids=["all-pixels", "points"])
def test_assignment_is_the_cheapest_of_all(count: int | None) -> None:
    logits, classes = predictions()
    targets = wanted()
    points = None if count is None else random_points(1, count, drawing(3))
    matches = match_batch(logits, classes, targets, points, WEIGHTS, ["a", "b", "c"])
    assert torch.equal(matches.matched, targets.valid.expand(LAYERS, -1, -1))
    for layer in range(LAYERS):
        for frame in (0, 2):
            real = targets.valid[frame]
            masks = targets.masks[frame].float() if count else resize_masks(targets.masks, (5, 6))[frame]
            best = cheapest(
                compared(logits[layer, frame], points),
                classes[layer, frame],
                compared(masks[real], points),
                targets.conditions[frame, real],
            )
            assert tuple(matches.queries[layer, frame, real].tolist()) == best


def test_one_frame_is_matched_as_in_a_batch() -> None:
    logits, classes = predictions()
    targets = wanted()
    points = random_points(1, 17, drawing(3))
    matches = match_batch(logits, classes, targets, points, WEIGHTS, ["a", "b", "c"])
    queries, chosen = match(logits[1, 0], classes[1, 0], targets.masks[0], targets.conditions[0], points, WEIGHTS)
    assert chosen.tolist() == [0, 1, 2]
    assert torch.equal(queries, matches.queries[1, 0])


def test_more_targets_than_queries_leave_some_over() -> None:
    logits, classes = predictions()
    masks = torch.rand(6, 5, 6, generator=drawing(4)).round()
    conditions = torch.zeros(6, dtype=torch.int64)
    queries, chosen = match(logits[0, 0], classes[0, 0], masks, conditions, None, WEIGHTS)
    assert sorted(queries.tolist()) == [0, 1, 2, 3]
    assert len(set(chosen.tolist())) == 4


@pytest.mark.parametrize("count", [None, 5], ids=["all-pixels", "points"])
def test_no_targets(count: int | None) -> None:
    logits, classes = predictions()
    points = None if count is None else random_points(1, count, drawing())
    queries, chosen = match(
        logits[0, 0], classes[0, 0], torch.zeros(0, 8, 8), torch.zeros(0, dtype=torch.int64), points, WEIGHTS
    )
    assert len(queries) == len(chosen) == 0


def test_a_target_finds_the_query_that_shows_it() -> None:
    masks = torch.zeros(2, 4, 4)
    masks[0, :2], masks[1, 2:, 2:] = 1, 1
    logits = torch.stack([torch.full((4, 4), -9.0), 18 * masks[1] - 9, 18 * masks[0] - 9])
    queries, _ = match(logits, torch.zeros(3, 2), masks, torch.tensor([0, 0]), None, WEIGHTS)
    assert queries.tolist() == [2, 1]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_name_their_frame(broken: float) -> None:
    logits, classes = predictions()
    logits[1, 2, 0, 0, 0] = broken
    with pytest.raises(TrainingError, match=r"^clip-7: .* decoder layer 1"):
        match_batch(logits, classes, wanted(), None, WEIGHTS, ["a", "b", "clip-7"])


def test_padding_may_hold_anything() -> None:
    logits, classes = predictions()
    targets = wanted()
    masks = targets.masks.float()
    filled = masks.masked_fill(~targets.valid[..., None, None], float("nan"))
    plain, odd = (
        match_batch(logits, classes, replace(targets, masks=m), None, WEIGHTS, ["a", "b", "c"]) for m in (masks, filled)
    )
    assert torch.equal(plain.queries, odd.queries)


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="dice is -1"):
        LossWeights(dice=-1)


def bilinear(image: Tensor, x: float, y: float) -> float:
    height, width = image.shape
    column, row = min(max(x * width - 0.5, 0), width - 1), min(max(y * height - 0.5, 0), height - 1)
    left, top = int(column), int(row)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    upper, lower = (torch.lerp(image[r, left], image[r, right], column - left) for r in (top, bottom))
    return float(torch.lerp(upper, lower, row - top))


@pytest.mark.parametrize("shared", [False, True], ids=["own-points", "shared-points"])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 2)], ids=str)
def test_samples_are_bilinear(shared: bool, size: tuple[int, int]) -> None:
    maps = torch.randn(4, *size, generator=drawing())
    points = random_points(1 if shared else 4, 9, drawing(1))
    points[0, 0], points[0, 1] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    sampled = sample_points(maps, points)
    rows = points.expand(4, -1, -1)
    wanted = [[bilinear(maps[i], float(x), float(y)) for x, y in rows[i]] for i in range(4)]
    torch.testing.assert_close(sampled, torch.tensor(wanted))


def test_samples_agree_with_resizing() -> None:
    """At the pixel centres of a larger grid: what a mask resized to it holds."""
    maps = torch.randn(2, 3, 4, generator=drawing())
    y, x = torch.meshgrid((torch.arange(9) + 0.5) / 9, (torch.arange(10) + 0.5) / 10, indexing="ij")
    sampled = sample_points(maps, torch.stack([x, y], dim=-1).view(1, -1, 2))
    resized = F.interpolate(maps[None], size=(9, 10), mode="bilinear", align_corners=False)
    torch.testing.assert_close(sampled, resized[0].flatten(1))


def test_no_maps_give_no_samples_and_a_gradient() -> None:
    maps = torch.zeros(0, 3, 4, requires_grad=True)
    sampled = sample_points(maps, random_points(0, 5, drawing()))
    assert sampled.shape == (0, 5)
    sampled.sum().backward()
    assert maps.grad is not None


def test_uncertain_points_gather_at_the_border() -> None:
    ramp = torch.linspace(-4, 4, 33).expand(2, 20, 33).clone().requires_grad_()
    points = uncertain_points(ramp, 200, drawing())
    assert points.shape == (2, 200, 2)
    assert not points.requires_grad
    assert (points >= 0).all()
    assert (points <= 1).all()
    distance = (points[..., 0] - 0.5).abs()
    # The nearest 150 of 600 lie within a quarter of the width; of the other 50, about a quarter do.
    assert (distance[:, :150] < 0.16).all()
    assert ((distance[:, 150:] > 0.16).sum(1) > 20).all()


@pytest.mark.parametrize(("rows", "count"), [(0, 4), (1, 1), (3, 7)])
def test_uncertain_points_of_awkward_counts(rows: int, count: int) -> None:
    assert uncertain_points(torch.zeros(rows, 2, 3), count, drawing()).shape == (rows, count, 2)


def test_points_follow_the_generator() -> None:
    logits = torch.randn(2, 5, 5, generator=drawing())
    first, again, other = (uncertain_points(logits, 6, drawing(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
