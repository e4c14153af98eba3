"""Images of every kind Pillow opens, as 8-bit RGB, and files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from x2sam_rt.errors import VideoError
from x2sam_rt.media.image import read_image, read_mask, write_image

RGB = np.random.default_rng(1).integers(0, 256, (7, 11, 3), dtype=np.uint8)
EXIF_ORIENTATION = 0x0112


def saved(folder: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = read_image(saved(tmp_path, Image.fromarray(RGB)))
    np.testing.assert_array_equal(pixels, RGB)
    assert pixels.flags.writeable


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    pixels = read_image(saved(tmp_path, image, "image.tif"))
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)], ids=str)
def test_transparency_shows_the_background(tmp_path: Path, background: tuple[int, int, int]) -> None:
    rgba = np.full((2, 3, 4), 200, dtype=np.uint8)
    rgba[..., 3] = [[0, 255, 0], [255, 0, 255]]
    pixels = read_image(saved(tmp_path, Image.fromarray(rgba)), background=background)
    np.testing.assert_array_equal(pixels, np.where(rgba[..., 3:] == 0, np.array(background, np.uint8), 200))


def test_half_transparency_is_mixed(tmp_path: Path) -> None:
    grey = np.array([[[100, 51]]], dtype=np.uint8)  # grey 100 at a fifth
    assert read_image(saved(tmp_path, Image.fromarray(grey)))[0, 0] == pytest.approx([224] * 3, abs=1)


def test_a_palettes_transparent_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([255, 0, 0, 0, 0, 255])
    pixels = read_image(saved(tmp_path, image, transparency=0))
    np.testing.assert_array_equal(pixels, [[[255, 255, 255], [0, 0, 255]]])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    levels = np.array([[0, 128, 129], [257 * 100, 65534, 65535]], dtype=np.uint16)
    pixels = read_image(saved(tmp_path, Image.fromarray(levels), f"deep.{suffix}"))
    np.testing.assert_array_equal(pixels[..., 0], [[0, 0, 1], [100, 255, 255]])
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_numbers_without_a_known_white_are_refused(tmp_path: Path, dtype: type) -> None:
    path = saved(tmp_path, Image.fromarray(np.array([[-1, 70000]], dtype=dtype)), "raw.tif")
    with pytest.raises(VideoError, match=r"from -1 to 70000"):
        read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    """The eight orientations of EXIF: 1 as it is, 2 mirrored, 3 half turn, 4 upside down, 5-8 on their side."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    upright = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: np.rot90(RGB, -1),
        7: RGB.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(RGB, 1),
    }[orientation]
    path = saved(tmp_path, Image.fromarray(RGB), exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)
    np.testing.assert_array_equal(read_mask(path), upright.any(-1))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"empty \(0 bytes\)"), (b"no picture", "not an image"), (b"\x89PNG\r\n\x1a\n", "damaged|not an image")],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(VideoError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_cut_image(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, Image.fromarray(RGB.repeat(20, 0).repeat(20, 1)), f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VideoError, match=r"damaged|not an image"):
        read_image(path)


def test_a_missing_image(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        read_image(tmp_path / "missing.png")


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(VideoError, match="too many pixels"):
        read_image(path)


MASK = np.array([[0, 1, 0], [255, 0, 7]], dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(Image.fromarray(MASK), id="grey"),
        pytest.param(Image.fromarray(MASK > 0), id="bilevel"),
        pytest.param(Image.fromarray(MASK.astype(np.uint16) * 200), id="16-bit"),
        pytest.param(Image.fromarray(np.stack([MASK * 0, MASK, MASK * 0], -1)), id="one-channel-of-three"),
        pytest.param(Image.fromarray(np.stack([MASK, MASK * 0 + 255], -1)), id="opaque"),
        pytest.param(Image.fromarray(np.stack([MASK * 0 + 255, MASK], -1)), id="cut-out"),
    ],
)
def test_a_masks_pixels_are_those_not_zero(tmp_path: Path, image: Image.Image) -> None:
    mask = read_mask(saved(tmp_path, image))
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, MASK > 0)


def test_an_indexed_masks_index_counts(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    image.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9])  # white background, black object
    np.testing.assert_array_equal(read_mask(saved(tmp_path, image)), [[False, True, True]])


def test_a_jpeg_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="save the mask as PNG"):
        read_mask(saved(tmp_path, Image.fromarray(MASK), "mask.jpg"))


def test_writing_round_trips_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"older")
    write_image(path, RGB[::-1])
    np.testing.assert_array_equal(read_image(path), RGB[::-1])
    assert os.listdir(tmp_path) == ["out.png"]


def test_a_failed_write_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"older")

    def full(image: Image.Image, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(VideoError, match="No space left on device"):
        write_image(path, RGB)
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["out.png"]


@pytest.mark.parametrize("name", ["out", "out.xyz", "out.psd"])
def test_a_suffix_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(VideoError, match="is not an image format"):
        write_image(tmp_path / name, RGB)


@pytest.mark.parametrize("pixels", [RGB[..., 0], RGB.astype(np.float32), RGB[:0]], ids=["grey", "float", "empty"])
def test_other_arrays_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:  # type: ignore[type-arg]
    with pytest.raises(VideoError, match=r"wanted \(H, W, 3\) uint8"):
        write_image(tmp_path / "out.png", pixels)
