"""Prompts made from masks, against recordings of the published construction."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from x2sam_rt.data.visual_prompts import draw_prompts
from x2sam_rt.tasks.regions import PROMPT_KINDS

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures/evaluation/vgd_prompts.json").read_text())["cases"]


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: str(case["python_random_seed"]))
def test_prompts_are_pixel_for_pixel_the_published_ones(case: dict[str, Any]) -> None:
    mask = coco_mask.decode(case["mask"]).astype(np.bool_)
    prompts = draw_prompts(mask, random.Random(case["python_random_seed"]))
    for kind in PROMPT_KINDS:
        wanted = coco_mask.decode(case["mask_prompt" if kind == "mask" else kind])
        np.testing.assert_array_equal(prompts.of(kind), wanted, err_msg=kind)


def test_specks_get_no_point_scribble_or_box() -> None:
    speck = np.zeros((40, 50), dtype=np.bool_)
    speck[3, 3:8] = True
    prompts = draw_prompts(speck, random.Random(0))
    assert [kind for kind in PROMPT_KINDS if prompts.of(kind).any()] == ["mask"]
    nothing = draw_prompts(np.zeros((40, 50), dtype=np.bool_), random.Random(0))
    assert not any(nothing.of(kind).any() for kind in PROMPT_KINDS)


def test_prompts_at_the_edge_of_a_large_frame() -> None:
    """The blur is computed about the mask only; far away it must be what the whole frame would give."""
    from scipy import ndimage

    mask = np.zeros((180, 320), dtype=np.bool_)
    mask[170:, 300:] = True
    mask[20:40, 3:9] = True
    whole = ndimage.gaussian_filter(mask.astype(np.float64), 2.0)
    prompts = draw_prompts(mask, random.Random(1))
    np.testing.assert_array_equal(prompts.mask, whole > whole.mean())
    assert prompts.box[175, 310]
    assert prompts.box[30, 5]
    assert prompts.box.shape == mask.shape
