from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from x2sam_rt.media.rle import decode_mask, encode_mask, unpack


@pytest.mark.parametrize("shape", [(17, 11), (1, 1), (3, 700)])
def test_what_is_encoded_is_decoded(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(5).random(shape) < 0.3
    rle = encode_mask(mask)
    np.testing.assert_array_equal(decode_mask(rle, *shape), mask)
    np.testing.assert_array_equal(coco_mask.decode({**rle, "counts": rle["counts"].encode()}), mask)


def test_too_few_runs_are_no_mask() -> None:
    rle = encode_mask(np.eye(6, dtype=np.bool_))
    with pytest.raises(ValueError, match=r"cover \d+ pixels; wanted 36"):
        decode_mask({**rle, "counts": rle["counts"][:3]}, 6, 6)
    with pytest.raises(ValueError, match=r"size \[6, 6\]; wanted \[6, 5\]"):
        decode_mask(rle, 6, 5)


def test_unpacking_takes_differences_from_the_fourth_run_on() -> None:
    mask = np.zeros((1, 40), dtype=np.bool_)
    mask[0, [2, 3, 9, 20, 21, 22]] = True
    assert unpack(encode_mask(mask)["counts"]) == [2, 2, 5, 1, 10, 3, 17]
