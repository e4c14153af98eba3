"""Frames and masks that lie turned, names whose case differs, and folders in one layout or the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made_files import SIZE, rectangle, write_frame, write_ids, write_indices, write_turned
from PIL import Image, ImageOps

from x2sam_rt.data.readers.files import frame_file, list_frames, read_frames, turned
from x2sam_rt.data.readers.folders import open_folder
from x2sam_rt.data.readers.masks import (
    read_colours,
    read_ids,
    read_indices,
    read_resized_indices,
    require_object,
    segmentation_mask,
)
from x2sam_rt.errors import DataError

ORIENTATIONS = range(1, 9)


def stored() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def labels() -> npt.NDArray[np.uint8]:
    """Of no symmetry."""
    return (rectangle(1, 2, 4, 7) + 2 * rectangle(6, 8, 8, 12)).astype(np.uint8)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turned_is_what_pillow_does(tmp_path: Path, orientation: int) -> None:
    write_turned(tmp_path / "one.png", labels(), orientation)
    with Image.open(tmp_path / "one.png") as image:
        wanted = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(turned(labels(), orientation), wanted)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_are_turned_as_their_frames_are(tmp_path: Path, orientation: int) -> None:
    write_turned(tmp_path / "frame.png", stored(), orientation)
    write_indices(tmp_path / "mask.png", labels())
    write_turned(tmp_path / "tagged.png", labels(), orientation)
    write_ids(tmp_path / "ids.png", labels().astype(np.int32) * 300)
    frames = read_frames("one", [tmp_path / "frame.png"])
    wanted = turned(labels(), orientation)
    np.testing.assert_array_equal(frames.pixels[0, ..., 1], turned(stored()[..., 1], orientation))
    for mask in ("mask.png", "tagged.png"):
        np.testing.assert_array_equal(read_indices(frames, 0, tmp_path / mask), wanted)
        np.testing.assert_array_equal(read_resized_indices(frames, 0, tmp_path / mask), wanted)
    np.testing.assert_array_equal(read_ids(frames, 0, tmp_path / "ids.png"), wanted.astype(np.int32) * 300)
    np.testing.assert_array_equal(
        read_colours(frames, 0, tmp_path / "ids.png")[..., 1], wanted.astype(np.int32) * 300 >> 8
    )
    square = segmentation_mask(frames, 0, [[2, 1, 7, 1, 7, 4, 2, 4]], "a polygon")
    np.testing.assert_array_equal(square, wanted == 1)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_that_were_drawn_on_the_upright_frame_stay(tmp_path: Path, orientation: int) -> None:
    write_turned(tmp_path / "frame.png", stored(), orientation)
    upright = turned(labels(), orientation)
    write_indices(tmp_path / "mask.png", upright)
    frames = read_frames("one", [tmp_path / "frame.png"])
    np.testing.assert_array_equal(read_indices(frames, 0, tmp_path / "mask.png"), upright)
    rle = {"size": list(upright.shape), "counts": _runs(upright == 1)}
    np.testing.assert_array_equal(segmentation_mask(frames, 0, rle, "run lengths"), upright == 1)


def _runs(mask: npt.NDArray[np.bool_]) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel()])
    return np.diff([0, *(np.flatnonzero(np.diff(flat))), mask.size]).tolist()


def test_other_sizes_and_kinds_are_named(tmp_path: Path) -> None:
    write_frame(tmp_path / "frame.png", 1)
    frames = read_frames("one", [tmp_path / "frame.png"])
    write_indices(tmp_path / "mask.png", labels()[1:])
    with pytest.raises(DataError, match=r"Example one: .*mask\.png is 13×8 pixels; wanted 13×9"):
        read_indices(frames, 0, tmp_path / "mask.png")
    np.testing.assert_array_equal(np.unique(read_resized_indices(frames, 0, tmp_path / "mask.png")), [0, 1, 2])
    write_turned(tmp_path / "mask.png", labels(), 6)
    with pytest.raises(DataError, match=r"turned as it says itself, is 9×13 pixels; wanted 13×9"):
        read_indices(frames, 0, tmp_path / "mask.png")
    Image.new("RGBA", SIZE[::-1]).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match="is a RGBA image; wanted a mask of grey levels"):
        read_resized_indices(frames, 0, tmp_path / "mask.png")


def test_a_mask_of_0_and_255_is_explained() -> None:
    mask = np.where(rectangle(1, 1, 3, 3), 255, 0).astype(np.uint8)[None]
    with pytest.raises(DataError, match=r"holds 0 and 255 only, and 255 means .* write 1 where there is 255"):
        require_object("one", mask, 1, Path("masks"))
    require_object("one", mask // 255, 1, Path("masks"))


def test_names_are_found_whatever_their_case(tmp_path: Path) -> None:
    for name in ("one.JPG", "two.png", "._one.jpg", "notes.txt"):
        write_frame(tmp_path / name, 1)
    assert [path.name for path in list_frames(tmp_path)] == ["one.JPG", "two.png"]
    assert frame_file(tmp_path, "one").name == frame_file(tmp_path, "one.jpg").name == "one.JPG"
    assert frame_file(tmp_path, "two").name == "two.png"
    assert frame_file(tmp_path, "1.5").name == "1.5.jpg"
    assert list_frames(tmp_path / "nowhere") == ()


def test_folders_in_either_layout(tmp_path: Path) -> None:
    (tmp_path / "home" / "valid").mkdir(parents=True)
    for root in (tmp_path, tmp_path / "home"):
        folder = open_folder("some", root, "home", "valid", ())
        assert folder.find("frames", "nowhere", "{split}") == tmp_path / "home" / "valid"
        assert folder.found == [tmp_path / "home" / "valid"]
    with pytest.raises(
        DataError, match=r"has no masks of some, split 'valid'; looked for a or b/valid\. It holds valid/"
    ):
        folder.find("masks", "a", "b/{split}")
    with pytest.raises(DataError, match="some has no split 'valid/half': its splits have no parts"):
        open_folder("some", tmp_path, "home", "valid/half", ())
