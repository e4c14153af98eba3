from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from recordings import FIXTURES
from safetensors.torch import load_file

from x2sam_rt.config import PixelBudget
from x2sam_rt.model.preprocess import region_input, segmentor_input, vision_input, vision_size

RECORDED = load_file(FIXTURES / "preprocess.safetensors")
CASES = json.loads((FIXTURES / "preprocess.json").read_text())["cases"]
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
ONE_LEVEL = 1.001  # of 255, with fp32 rounding


@pytest.mark.parametrize("mode", ["stretch", "longest_side"])
def test_segmentor_input_is_within_one_level(mode: str) -> None:
    ours = segmentor_input(RECORDED["frame"], 128, mode)  # type: ignore[arg-type]
    levels = ((ours.pixels[0] - RECORDED[f"segmentor.{mode}.pixel_values"]) * STD * 255).abs()
    assert levels.max() <= ONE_LEVEL
    assert levels.gt(0.5).float().mean() < 0.01
    assert list(ours.scaled_size) == CASES[f"segmentor.{mode}"]["scaled_size"]
    assert ours.original_size == tuple(RECORDED["frame"].shape[:2])


@pytest.mark.parametrize("mode", ["stretch", "longest_side"])
def test_region_input_is_exact(mode: str) -> None:
    mask = RECORDED["region_mask"].numpy() > 0
    assert torch.equal(region_input(mask, 128, mode), RECORDED[f"segmentor.{mode}.region_mask"])  # type: ignore[arg-type]


def test_region_of_one_pixel_survives_the_resize() -> None:
    mask = np.zeros((1080, 1920), dtype=np.bool_)
    mask[701, 1333] = True
    resized = region_input(mask, 64, "stretch")
    assert resized.nonzero().tolist() == [[701 * 64 // 1080, 1333 * 64 // 1920]]


@pytest.mark.parametrize("case", ["vision.image", "vision.image_small_budget"])
def test_image_patches_are_within_one_level(case: str) -> None:
    budget = PixelBudget(CASES[case]["min_pixels"], CASES[case]["max_pixels"])
    ours = vision_input([RECORDED["frame"]], budget, video=False)
    assert [[1, ours.height, ours.width]] == CASES[case]["grid_thw"]
    levels = ((ours.patches.flatten(0, 1) - RECORDED[f"{case}.patches"]) * 127.5).abs()
    assert levels.max() <= ONE_LEVEL


def test_odd_clip_repeats_its_last_frame() -> None:
    ours = vision_input(list(RECORDED["clip"]), PixelBudget(4096, 25165824), video=True)
    assert [[len(ours.patches), ours.height, ours.width]] == CASES["vision.clip"]["grid_thw"]
    torch.testing.assert_close(ours.patches.flatten(0, 1), RECORDED["vision.clip.patches"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("size", "frames", "budget"),
    [
        ((540, 960), 16, PixelBudget(4096, 4194304)),
        ((7, 1080), 1, PixelBudget(65536, 16777216)),
        ((33, 31), 3, PixelBudget(1024, 4096)),
    ],
    ids=["long clip", "thin image", "tiny budget"],
)
def test_vision_size_keeps_the_budget(size: tuple[int, int], frames: int, budget: PixelBudget) -> None:
    rows, columns = vision_size(*size, frames, budget)
    assert rows % 32 == columns % 32 == 0
    assert frames * rows * columns <= max(budget.max_pixels, (frames + 1) * 32 * 32)
