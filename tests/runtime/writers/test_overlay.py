"""What an overlay shows, pixel by pixel where it is defined, and that words appear where there is room."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from x2sam_rt.errors import VideoError
from x2sam_rt.media.colors import color_of, text_color_on
from x2sam_rt.media.image import read_image
from x2sam_rt.media.palette import Palette, slot_of, slots_of
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video import VideoReader
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation
from x2sam_rt.runtime.writers import Overlay, OverlayImageWriter, OverlayStyle, OverlayVideoWriter, draw_overlay
from x2sam_rt.runtime.writers.captions import inner_point
from x2sam_rt.runtime.writers.overlay import outline
from x2sam_rt.tasks.marks import TextSpan
from x2sam_rt.tasks.regions import Prompt, RegionPrompt


def grey(height: int, width: int, level: int = 100) -> Pixels:
    return np.full((height, width, 3), level, dtype=np.uint8)


def boxes(size: tuple[int, int], *corners: tuple[int, int, int, int, int], empty: int = -1) -> Segmentation:
    """Segments from (id, top, left, bottom, right); later ones on top."""
    map = np.full(size, empty, dtype=np.int32)
    segments = []
    for id, top, left, bottom, right in corners:
        mask = np.zeros(size, dtype=np.bool_)
        mask[top:bottom, left:right] = True
        map[mask] = id
        segments.append(Segment(mask, f"thing {id}", id, 0.875, id))
    return Segmentation(tuple(segments), map, empty)


def test_fills_and_outlines() -> None:
    frame = grey(30, 41)
    painted = draw_overlay(frame, boxes((30, 41), (5, 4, 6, 20, 30)), OverlayStyle(0.5))
    np.testing.assert_array_equal(painted[0], frame[0])
    np.testing.assert_array_equal(painted[4, 6], color_of(5))  # a corner of the outline
    assert painted[12, 15] == pytest.approx([50 + c / 2 for c in color_of(5)], abs=1)
    np.testing.assert_array_equal(frame, grey(30, 41))  # the caller's frame is left alone


@pytest.mark.parametrize("empty", [-1, 0, 255])
def test_the_topmost_segment_shows(empty: int) -> None:
    painted = draw_overlay(
        grey(30, 40), boxes((30, 40), (7, 2, 2, 28, 28), (3, 10, 10, 20, 20), empty=empty), OverlayStyle(1.0)
    )
    np.testing.assert_array_equal(painted[15, 15], color_of(3))
    np.testing.assert_array_equal(painted[5, 5], color_of(7))
    np.testing.assert_array_equal(painted[29, 39], [100, 100, 100])


@pytest.mark.parametrize("ids", [(0, 1), (254, 100_000), (2**31 - 2, 7)], ids=str)
def test_ids_of_any_size(ids: tuple[int, int]) -> None:
    painted = draw_overlay(
        grey(20, 20), boxes((20, 20), (ids[0], 0, 0, 9, 9), (ids[1], 10, 10, 20, 20)), OverlayStyle(1.0)
    )
    np.testing.assert_array_equal(painted[4, 4], color_of(ids[0]))
    np.testing.assert_array_equal(painted[15, 15], color_of(ids[1]))


def test_alpha_zero_leaves_only_outlines() -> None:
    painted = draw_overlay(grey(30, 30, 255), boxes((30, 30), (1, 5, 5, 25, 25)), OverlayStyle(0.0))
    np.testing.assert_array_equal(painted[15, 15], [255, 255, 255])
    np.testing.assert_array_equal(painted[5, 5], color_of(1))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (131, 257), (480, 121)], ids=str)
def test_nothing_found_changes_nothing(size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(draw_overlay(frame, boxes(size)), frame)


def test_outline_runs_inside_and_not_along_the_frame() -> None:
    slots = np.zeros((6, 8), dtype=np.uint8)
    slots[0:4, 2:8] = 1
    expected = np.array(
        [
            [0, 0, 1, 0, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0, 0, 0],
            [0, 0, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ],
        dtype=np.bool_,
    )
    np.testing.assert_array_equal(outline(slots, 1), expected)
    assert outline(slots, 2).sum() == 2 * 4 + 2 * 4  # two columns, and two rows of what is left of them


def test_words_stand_on_the_segment_and_in_the_legend() -> None:
    segmentation = boxes((240, 320), (1, 180, 220, 235, 315))
    plain = draw_overlay(grey(240, 320), segmentation, OverlayStyle(0.0, legend=False))
    listed = draw_overlay(grey(240, 320), segmentation, OverlayStyle(0.0, legend=True))
    chip = (plain != grey(240, 320)).any(-1)
    assert chip[190:230, 230:305].any()
    assert not chip[:180].any()
    corner = (listed != plain).any(-1)
    assert corner[:60, :160].any()
    assert not corner[100:].any()
    assert (listed[:60, :160] == color_of(1)).all(-1).any()  # the legend's swatch


def test_a_legend_comes_where_a_name_had_no_room() -> None:
    apart = boxes((240, 320), (1, 100, 0, 160, 150), (2, 170, 170, 235, 315))
    assert not (draw_overlay(grey(240, 320), apart, OverlayStyle(0.0)) != 100).any(-1)[:60].any()
    narrow = boxes((240, 320), *((id, 220 + id, 0, 221 + id, 320) for id in range(1, 19)))
    assert (draw_overlay(grey(240, 320), narrow, OverlayStyle(0.0)) != 100).any(-1)[:60, :160].any()


def test_a_colour_stands_off_its_object_and_stays() -> None:
    segmentation = boxes((60, 60), (3, 5, 5, 55, 55))
    red = np.broadcast_to(np.array(color_of(3), dtype=np.uint8), (60, 60, 3)).copy()
    overlay = Overlay(OverlayStyle(1.0))
    first = overlay.draw(red, FrameResult(0, segmentation, ""))[30, 30]
    assert np.linalg.norm(first - np.array(color_of(3), dtype=float)) >= 120
    later = overlay.draw(grey(60, 60), FrameResult(1, segmentation, ""))[30, 30]
    np.testing.assert_array_equal(first, later)


def test_ids_that_share_a_slot_share_a_colour() -> None:
    assert slot_of(3) == slot_of(258) != slot_of(4)
    map = np.array([[3, 258, -1], [4, 2**31 - 1, 0]], dtype=np.int32)
    np.testing.assert_array_equal(slots_of(map, -1), [[4, 4, 0], [5, 1 + (2**31 - 1) % 255, 1]])
    palette = Palette()
    palette.meet([3], grey(2, 3), slots_of(map, -1))
    np.testing.assert_array_equal(palette.table([3])[slot_of(3)], palette.of(3))


def test_the_answer_stands_below_in_its_segments_colours() -> None:
    segmentation = boxes((240, 320), (1, 10, 10, 60, 60))
    result = FrameResult(
        0, segmentation, "a thing and more words than one line of it holds, so it goes on", (TextSpan(0, 7, 1),)
    )
    painted = Overlay(OverlayStyle(0.0)).draw(grey(240, 320), result)
    assert (painted[200:] != 100).any()
    strongest = int(np.argmax(color_of(1)))
    tinted = painted[180:].astype(int) @ np.where(np.arange(3) == strongest, 2, -1)
    assert (tinted > 60).any()  # letters, thin as they are, have their segment's hue
    assert not (painted[70:180] != 100).any()


@pytest.mark.parametrize(
    "region",
    [Prompt.point(200, 100), Prompt.box(180, 80, 220, 120), Prompt.scribble([(180, 90), (220, 130)])],
    ids=["point", "box", "scribble"],
)
def test_a_visual_prompt_is_drawn_for_a_second(region: RegionPrompt) -> None:
    overlay, nothing = Overlay(regions=(region,), frame_rate=3), boxes((240, 320))
    drawn = [(overlay.draw(grey(240, 320), FrameResult(index, nothing, "")) != 100).any() for index in range(5)]
    assert drawn == [True, True, True, False, False]


def test_a_mask_prompt_is_numbered() -> None:
    pixels = np.zeros((240, 320), dtype=np.bool_)
    pixels[100:140, 100:160] = True
    painted = Overlay(regions=(Prompt.mask(pixels),)).draw(grey(240, 320), FrameResult(0, boxes((240, 320)), ""))
    assert (painted != 100).any()


def test_small_frames_get_no_words() -> None:
    painted = draw_overlay(grey(119, 300), boxes((119, 300), (1, 10, 10, 100, 290)), OverlayStyle(0.0))
    assert not (painted != 100).any(-1)[20:90, 20:280].any()


def test_more_segments_than_room() -> None:
    many = boxes((130, 200), *((id, id, 0, id + 1, 200) for id in range(1, 130)))
    painted = draw_overlay(grey(130, 200), many, OverlayStyle(1.0))
    assert painted.shape == (130, 200, 3)
    assert (painted[100:, 150:] != 100).any()


@pytest.mark.parametrize("label", ["", "한국어", "x" * 300, "two\nlines"], ids=["none", "korean", "long", "lines"])
def test_any_label(label: str) -> None:
    one = boxes((150, 200), (1, 20, 20, 140, 180)).segments[0]
    segmentation = Segmentation((Segment(one.mask, label, 0, 1.0, 1),), np.where(one.mask, 1, 0).astype(np.int32), 0)
    assert draw_overlay(grey(150, 200), segmentation).shape == (150, 200, 3)


def test_inner_point_lies_in_the_mask() -> None:
    ring = np.zeros((9, 9), dtype=np.bool_)
    ring[1:8, 1:8] = True
    ring[3:6, 3:6] = False
    assert ring[inner_point(ring)]
    assert inner_point(np.zeros((3, 4), dtype=np.bool_)) == (-1, -1)


@pytest.mark.parametrize(
    ("frame", "alpha"), [(grey(10, 11), 0.5), (grey(10, 10).astype(np.float32), 0.5), (grey(10, 10), 1.5)]
)
def test_refuses_what_does_not_fit(frame: Pixels, alpha: float) -> None:
    with pytest.raises(VideoError):
        draw_overlay(frame, boxes((10, 10)), OverlayStyle(alpha))


def test_colours_of_neighbours_differ() -> None:
    colors = np.array([color_of(id) for id in range(500)], dtype=float)
    for step in (1, 2):
        assert np.linalg.norm(colors[step:] - colors[:-step], axis=1).min() > 100
    assert len({color_of(id) for id in range(200)}) == 200
    assert color_of(3) == color_of(3)
    for color in map(color_of, range(100)):
        contrast = np.abs(np.array(text_color_on(color), float) - color) @ (0.299, 0.587, 0.114)
        assert contrast > 100


def test_video_of_overlays(tmp_path: Path) -> None:
    with OverlayVideoWriter(tmp_path / "out.mp4", 10, OverlayStyle(1.0)) as writer:
        for index in range(3):
            segmentation = boxes((66, 99), (1, 0, 0, 66, 33 * index))
            writer.write(grey(66, 99), FrameResult(index, segmentation, ""), index * 0.5)
    with VideoReader(tmp_path / "out.mp4") as reader:
        frames = list(reader)
    assert [frame.timestamp for frame in frames] == pytest.approx([0, 0.5, 1.0], abs=1e-3)
    assert frames[0].pixels.shape == (66, 100, 3)
    assert frames[0].pixels[30, 10] == pytest.approx([100] * 3, abs=6)
    assert frames[2].pixels[30, 10] == pytest.approx(color_of(1), abs=12)


def test_image_of_an_overlay(tmp_path: Path) -> None:
    segmentation = boxes((40, 50), (1, 5, 5, 30, 30))
    with OverlayImageWriter(tmp_path / "out.png", OverlayStyle(0.3)) as writer:
        writer.write(grey(40, 50), FrameResult(0, segmentation, ""))
        with pytest.raises(VideoError, match="one image"):
            writer.write(grey(40, 50), FrameResult(1, segmentation, ""))
    np.testing.assert_array_equal(
        read_image(tmp_path / "out.png"), draw_overlay(grey(40, 50), segmentation, OverlayStyle(0.3))
    )


def test_nothing_is_published_without_frames_or_after_an_error(tmp_path: Path) -> None:
    for writer in (OverlayVideoWriter(tmp_path / "out.mp4", 10), OverlayImageWriter(tmp_path / "out.png")):
        with pytest.raises(VideoError, match="no frame was written"):
            writer.close()
    for writer in (OverlayVideoWriter(tmp_path / "out.mp4", 10), OverlayImageWriter(tmp_path / "out.png")):
        writer.write(grey(40, 50), FrameResult(0, boxes((40, 50)), ""))
        writer.discard()
    assert not os.listdir(tmp_path)


def test_a_missing_folder_is_found_at_once(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="there is no folder"):
        OverlayVideoWriter(tmp_path / "missing" / "out.mp4", 10)
    with pytest.raises(VideoError, match="there is no folder"):
        OverlayImageWriter(tmp_path / "missing" / "out.png")
