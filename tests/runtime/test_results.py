"""A result in the forms that others want: boxes, polygons, run lengths, JSON, tables, detections, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from x2sam_rt.errors import VideoError
from x2sam_rt.media.image import read_image
from x2sam_rt.media.rle import decode_mask
from x2sam_rt.media.shapes import polygons
from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation

H, W = 37, 53


def ring() -> BoolMask:
    """Two pieces, one with a hole, one at the border."""
    mask = np.zeros((H, W), dtype=np.bool_)
    mask[3:20, 5:30] = True
    mask[8:12, 10:20] = False
    mask[30:, 48:] = True
    return mask


def a_result(*masks: BoolMask) -> FrameResult:
    segments = tuple(Segment(mask, f"thing {n}", n, 0.5 + n / 10, n + 1) for n, mask in enumerate(masks))
    map = np.zeros((H, W), dtype=np.int32)
    for segment in segments:
        map[segment.mask] = segment.id
    return FrameResult(4, Segmentation(segments, map, 0), "", timestamp=0.25)


def test_boxes_are_edges() -> None:
    low = np.zeros((H, W), dtype=np.bool_)
    low[36, 0] = True
    result = a_result(ring(), low)
    np.testing.assert_array_equal(result.boxes, [[5, 3, 53, 37], [0, 36, 1, 37]])
    assert a_result().boxes.shape == (0, 4)


def filled(rings: tuple[np.ndarray, ...]) -> BoolMask:
    """Even-odd, drawn four times as large so that rounding to pixels does not matter."""
    inside = np.zeros((H, W), dtype=np.bool_)
    for one in rings:
        picture = Image.new("1", (4 * W, 4 * H))
        ImageDraw.Draw(picture).polygon([(4 * x, 4 * y) for x, y in one], fill=1)
        inside ^= np.asarray(picture)[2::4, 2::4]
    return inside


def test_polygons_filled_give_the_mask_back() -> None:
    assert len(polygons(ring())) == 3
    np.testing.assert_array_equal(filled(polygons(ring())), ring())
    rough = np.random.default_rng(0).random((H, W)) > 0.6
    np.testing.assert_array_equal(filled(polygons(rough)), rough)
    assert polygons(np.zeros((H, W), dtype=np.bool_)) == ()


def test_json_holds_the_masks() -> None:
    result = a_result(ring())
    record = json.loads(result.to_json())
    assert (record["frame"], record["timestamp"], record["size"]) == (4, 0.25, [H, W])
    (segment,) = record["segments"]
    assert (segment["id"], segment["area"], segment["bbox"]) == (1, int(ring().sum()), [5, 3, 48, 34])
    np.testing.assert_array_equal(decode_mask(segment["rle"], H, W), ring())
    np.testing.assert_array_equal(decode_mask(result.rle()[0], H, W), ring())


def test_a_table_has_a_row_per_segment() -> None:
    pytest.importorskip("pandas", reason="needs the extra results")
    table = a_result(ring(), ~ring()).to_dataframe()
    assert table["id"].tolist() == [1, 2]
    assert table.loc[0, ["frame", "timestamp", "area", "x0", "y1"]].tolist() == [4, 0.25, int(ring().sum()), 5, 37]
    assert list(a_result().to_dataframe().columns) == list(table.columns)


def test_detections_of_supervision() -> None:
    pytest.importorskip("supervision", reason="needs the extra results")
    result = a_result(ring(), ~ring())
    detections = result.to_supervision()
    np.testing.assert_array_equal(detections.mask, result.masks)
    np.testing.assert_array_equal(detections.tracker_id, [1, 2])
    assert detections.data["class_name"].tolist() == ["thing 0", "thing 1"]
    assert len(a_result().to_supervision()) == 0


def test_a_result_says_in_a_line_what_it_is() -> None:
    assert repr(a_result(ring())) == f"<FrameResult 4, 53×37: <thing 0 #1 0.50, {int(ring().sum())} px>>"
    assert repr(a_result()) == "<FrameResult 4, 53×37: no segments>"


def test_saved_as_a_picture_or_as_json(tmp_path: Path) -> None:
    result, frame = a_result(ring()), np.full((H, W, 3), 90, dtype=np.uint8)
    result.save(tmp_path / "one.png", frame)
    np.testing.assert_array_equal(read_image(tmp_path / "one.png"), result.plot(frame))
    result.save(tmp_path / "one.json")
    assert json.loads((tmp_path / "one.json").read_text()) == json.loads(result.to_json())
    with pytest.raises(VideoError, match="pass the frame"):
        result.save(tmp_path / "two.png")
    with pytest.raises(VideoError, match="not an image format"):
        result.save(tmp_path / "two.xyz", frame)
