from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.model.training.points import random_points, sample_points, uncertain_points


def drawing(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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
