"""Visual prompts: their pixels, their syntax and what they refuse."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from x2sam_rt.errors import PromptError
from x2sam_rt.tasks.regions import Prompt, RegionPrompt, parse_region


def test_point_is_a_disc() -> None:
    mask = Prompt.point(20, 15, radius=10).mask(40, 50)
    y, x = np.ogrid[:40, :50]
    assert np.array_equal(mask, (x - 20) ** 2 + (y - 15) ** 2 <= 100)


def test_point_of_radius_zero_is_one_pixel() -> None:
    mask = Prompt.point(3.6, 2.4, radius=0).mask(5, 7)
    assert np.argwhere(mask).tolist() == [[2, 3]]


def test_point_at_the_corner_is_cut_off() -> None:
    mask = Prompt.point(0, 0, radius=2).mask(9, 9)
    assert mask.sum() == 6  # a quarter of the disc, axes included
    assert mask[0, 2]
    assert mask[2, 0]
    assert not mask[2, 1]


def test_scribble_holds_what_is_near_its_line() -> None:
    mask = Prompt.scribble([(5, 5), (25, 20), (40, 8)], radius=5).mask(30, 50)
    y, x = np.mgrid[:30, :50]

    def distance(ax: float, ay: float, bx: float, by: float) -> npt.NDArray[np.float64]:
        share = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2), 0, 1)
        return np.asarray(np.hypot(x - ax - share * (bx - ax), y - ay - share * (by - ay)))

    nearest = np.minimum(distance(5, 5, 25, 20), distance(25, 20, 40, 8))
    certain = abs(nearest - 5) > 1e-9
    assert np.array_equal(mask[certain], nearest[certain] <= 5)


def test_a_scribble_of_many_strokes_is_the_union_of_their_discs_and_lines() -> None:
    """Steep, flat, upright, level and no strokes at all, along the edges too, against the distance of every pixel."""
    random, (height, width) = np.random.default_rng(0), (37, 53)
    y, x = np.mgrid[:height, :width]
    for radius, grid in ((1, 0.0), (5, 0.0), (6, 1.0), (13, 0.25)):
        vertices = random.uniform(0, 1, (9, 2)) * (width, height)
        vertices = vertices if not grid else np.floor(vertices / grid) * grid
        vertices[3], vertices[5, 0], vertices[7, 1], vertices[8] = vertices[2], vertices[4, 0], vertices[6, 1], (0, 0)
        (ax, ay), (dx, dy) = vertices[:-1].T[..., None, None], np.diff(vertices, axis=0).T[..., None, None]
        share = np.clip(((x - ax) * dx + (y - ay) * dy) / np.maximum(dx**2 + dy**2, 1e-30), 0, 1)
        nearest = np.hypot(x - ax - share * dx, y - ay - share * dy).min(0)
        certain = abs(nearest - radius) > 1e-9
        mask = Prompt.scribble([(px, py) for px, py in vertices.tolist()], radius=radius).mask(height, width)
        assert np.array_equal(mask[certain], nearest[certain] <= radius)


def test_as_many_strokes_across_a_frame_of_8k_as_are_taken() -> None:
    """Whose boxes hold a hundred billion pixels: row by row they are seconds, pixel by pixel minutes."""
    places = np.random.default_rng(0).uniform(0, 1, (4096, 2)) * (7680, 4320)
    mask = Prompt.scribble([(x, y) for x, y in places.tolist()]).mask(4320, 7680)
    assert mask.mean() > 0.8
    for (ax, ay), (bx, by) in zip(places[:-1:99], places[1::99], strict=False):
        assert mask[int((ay + by) / 2), int((ax + bx) / 2)]


def test_box_fills_its_pixels() -> None:
    mask = Prompt.box(2, 1, 5, 4).mask(6, 8)
    assert mask.sum() == 9
    assert mask[1:4, 2:5].all()


def test_thin_box_has_a_pixel() -> None:
    assert Prompt.box(2.2, 1.2, 2.4, 1.4).mask(6, 8).sum() == 1


def test_box_over_the_edge_is_cut_off() -> None:
    assert Prompt.box(-3, -3, 2, 100).mask(6, 8).sum() == 12


def test_mask_from_array() -> None:
    pixels = np.zeros((4, 5), dtype=np.uint8)
    pixels[1, 2] = 255
    assert Prompt.mask(pixels, frame=3).frame == 3
    assert np.array_equal(Prompt.mask(pixels).mask(4, 5), pixels > 0)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "1"])
def test_mask_from_file(tmp_path: Path, mode: str) -> None:
    wanted = np.zeros((4, 5), dtype=np.bool_)
    wanted[1:3, 2:] = True
    Image.fromarray(wanted.astype(np.uint8) * 255).convert(mode).save(tmp_path / "mask.png")
    assert np.array_equal(Prompt.mask(tmp_path / "mask.png").mask(4, 5), wanted)


def test_mask_of_palette_indices_counts_every_index(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0] * 256)  # black in black, as annotation files may be
    image.putdata([0, 1, 2])
    image.save(tmp_path / "mask.png")
    assert Prompt.mask(tmp_path / "mask.png").mask(1, 3).tolist() == [[False, True, True]]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("point:12,8@4", Prompt.point(12, 8, frame=4)),
        ("point: 12.5, 8", Prompt.point(12.5, 8)),
        ("box:1,2,9,10", Prompt.box(1, 2, 9, 10)),
        ("scribble:1,1;9,4;12,3@2", Prompt.scribble([(1, 1), (9, 4), (12, 3)], frame=2)),
    ],
)
def test_parse(text: str, wanted: RegionPrompt) -> None:
    parsed = parse_region(text)
    assert (parsed.kind, parsed.frame) == (wanted.kind, wanted.frame)
    assert np.array_equal(parsed.mask(20, 20), wanted.mask(20, 20))


def test_parse_mask_keeps_signs_in_the_file_name(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 3), 255, dtype=np.uint8)).save(tmp_path / "a@1.png")
    parsed = parse_region(f"mask:{tmp_path}/a@1.png@7")
    assert parsed.frame == 7
    assert parsed.mask(2, 3).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "point",
        "point:",
        "point:1",
        "point:1,2,3",
        "point:a,b",
        "box:1,2,3",
        "circle:1,2",
        "scribble:1,2;3",
        "point:1_0,2",
        "point:\u0663,\u0664",
        "point:nan,1",
    ],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(PromptError, match="point:x,y"):
        parse_region(text)


@pytest.mark.parametrize("position", [(-1, 5), (50, 5), (5, 40), (5, float("nan"))])
def test_point_outside_the_image(position: tuple[float, float]) -> None:
    with pytest.raises(PromptError, match=r"outside the 50×40 frame|finite numbers"):
        Prompt.point(*position).mask(40, 50)


def test_scribble_outside_the_image() -> None:
    with pytest.raises(PromptError, match="outside"):
        Prompt.scribble([(5, 5), (60, 5)]).mask(40, 50)


@pytest.mark.parametrize("corners", [(5, 5, 5, 9), (5, 9, 8, 9), (9, 5, 2, 8), (1, 1, float("nan"), 4)])
def test_box_without_area(corners: tuple[float, float, float, float]) -> None:
    with pytest.raises(PromptError, match=r"no area|finite numbers"):
        Prompt.box(*corners)


def test_box_outside_the_image() -> None:
    with pytest.raises(PromptError, match="outside"):
        Prompt.box(50, 0, 60, 9).mask(40, 50)


def test_empty_mask() -> None:
    with pytest.raises(PromptError, match="empty"):
        Prompt.mask(np.zeros((4, 5)))


def test_mask_of_another_size() -> None:
    with pytest.raises(PromptError, match="5×4, the frame 4×5"):
        Prompt.mask(np.ones((4, 5))).mask(5, 4)


def test_mask_of_another_rank() -> None:
    with pytest.raises(PromptError, match=r"\(4, 5, 3\)"):
        Prompt.mask(np.ones((4, 5, 3)))


def test_unreadable_mask(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(PromptError, match="Cannot use"):
        Prompt.mask(tmp_path / "text.png")
    with pytest.raises(PromptError, match="no such file"):
        Prompt.mask(tmp_path / "missing.png")


def test_jpeg_mask(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 255).save(tmp_path / "mask.jpg")
    with pytest.raises(PromptError, match="PNG"):
        Prompt.mask(tmp_path / "mask.jpg")


def test_empty_scribble() -> None:
    with pytest.raises(PromptError, match="with 0 positions"):
        Prompt.scribble([])


def test_frame_outside_the_stream() -> None:
    with pytest.raises(PromptError, match="from 0"):
        Prompt.point(1, 1, frame=-1)
    with pytest.raises(PromptError, match="frames 2 to 4"):
        Prompt.point(1, 1, frame=5).require_frame(range(2, 5))
    with pytest.raises(PromptError, match="no frame"):
        Prompt.point(1, 1).require_frame(range(0))
    Prompt.point(1, 1, frame=4).require_frame(range(2, 5))
