"""Frames as people have them: what is said is converted, what would be a guess is refused."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from x2sam_rt.errors import FrameError, VideoError
from x2sam_rt.model.frame_layout import RGB, Axes, Colors, Layout, as_frame

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
REPEATED = np.repeat(GREY[..., None], 3, axis=2)


@pytest.mark.parametrize("tensor", [False, True], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("frame", "layout", "wanted"),
    [
        (PIXELS, RGB, PIXELS),
        (PIXELS[..., ::-1], Layout(colors="BGR"), PIXELS),
        (PIXELS.transpose(2, 0, 1), Layout("CHW"), PIXELS),
        (PIXELS[..., ::-1].transpose(2, 0, 1), Layout("CHW", "BGR"), PIXELS),
        (GREY, Layout("HW"), REPEATED),
        (PIXELS / 255, Layout(white=1.0), PIXELS),
        ((PIXELS / 255).astype(np.float32).transpose(2, 0, 1), Layout("CHW", white=1.0), PIXELS),
        ((PIXELS / 255 * 0.998).astype(np.float32), Layout(white=0.998), PIXELS),
        (PIXELS.astype(np.int32) * 257, Layout(white=65535), PIXELS),
        (GREY.astype(np.uint16) * 257, Layout("HW", white=65535), REPEATED),
        (PIXELS.astype(np.int64), Layout(white=255), PIXELS),
    ],
    ids=["rgb", "bgr", "chw", "chw bgr", "grey", "unit", "unit chw", "dimmed", "16 bits", "16 bits grey", "int64"],
)
def test_what_is_said_is_converted(frame: np.ndarray, layout: Layout, wanted: np.ndarray, tensor: bool) -> None:
    given = torch.from_numpy(frame.copy()) if tensor else frame
    found = as_frame(given, layout)
    assert (found.dtype, found.is_contiguous()) == (torch.uint8, True)
    np.testing.assert_array_equal(found.numpy(), wanted)


def test_values_between_levels_are_rounded() -> None:
    np.testing.assert_array_equal(as_frame(np.full((1, 2, 3), 0.499), Layout(white=1)).numpy(), 127)


def test_images_say_it_themselves(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.open(tmp_path / "a.png")):
        np.testing.assert_array_equal(as_frame(image).numpy(), PIXELS)
        with pytest.raises(FrameError, match="says itself"):
            as_frame(image, Layout(colors="BGR"))
    np.testing.assert_array_equal(as_frame(Image.fromarray(GREY)).numpy(), REPEATED)
    clear = Image.fromarray(np.zeros((4, 4, 4), np.uint8), "RGBA")
    np.testing.assert_array_equal(as_frame(clear).numpy(), 255)
    with pytest.raises(VideoError, match="no such file"):
        as_frame(tmp_path / "b.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with Image.open(tmp_path / "cut.png") as cut, pytest.raises(VideoError, match="damaged"):
        as_frame(cut)


@pytest.mark.parametrize(
    ("frame", "layout", "found"),
    [
        (GREY, RGB, r'shape \(5, 7\).*Layout\(axes="HW"\)'),
        (PIXELS.transpose(2, 0, 1), RGB, r'shape \(3, 5, 7\).*Layout\(axes="CHW"\)'),
        (np.zeros((5, 7, 4), np.uint8), RGB, r"shape \(5, 7, 4\).*alpha"),
        (np.zeros((0, 7, 3), np.uint8), RGB, r"shape \(0, 7, 3\)"),
        (PIXELS, Layout("CHW"), r"wanted \(3, height, width\)"),
        (PIXELS, Layout("HW"), r"wanted \(height, width\)"),
        (PIXELS / 255, RGB, r"float64; wanted uint8.*Layout\(white=1.0\)"),
        (torch.zeros(5, 7, 3, dtype=torch.int64), RGB, "int64"),
        (PIXELS.astype(np.float32), Layout(white=1.0), "from 0 to 248; its layout says 0 to 1"),
        (-PIXELS.astype(np.float32), Layout(white=1.0), "values from -248 to"),
        (np.full((5, 7, 3), np.nan), Layout(white=1.0), "NaN"),
        (np.full((5, 7, 3), np.inf), Layout(white=1.0), "inf"),
        (PIXELS > 3, Layout(white=1.0), "bool; wanted numbers"),
        (PIXELS.astype(complex), Layout(white=1.0), "complex128; wanted numbers"),
        (3, RGB, "A frame is int"),
        (np.broadcast_to(np.uint8(3), (200_000, 200_000, 3)), RGB, "at most 178956970 pixels"),
        (torch.zeros(1, dtype=torch.uint8).expand(200_000, 200_000, 3), RGB, "at most 178956970 pixels"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8, device="meta"), RGB, "meta; wanted a tensor that holds its pixels"),
        (torch.zeros(5, 7, 3, dtype=torch.uint8).to_sparse(), RGB, "sparse.*; wanted a tensor that holds its pixels"),
    ],
)
def test_guesses_are_refused(frame: object, layout: Layout, found: str) -> None:
    with pytest.raises(FrameError, match=found):
        as_frame(frame, layout)  # type: ignore[arg-type]


@pytest.mark.parametrize("white", [0, -1.0, float("inf"), float("nan")])
def test_what_is_no_layout(white: float) -> None:
    with pytest.raises(FrameError, match="white="):
        Layout(white=white)
    axes: Axes = "WHC"  # type: ignore[assignment]
    with pytest.raises(FrameError, match=r"axes='WHC'.*HWC, CHW, HW"):
        Layout(axes)
    colors: Colors = "BRG"  # type: ignore[assignment]
    with pytest.raises(FrameError, match="colors='BRG'"):
        Layout(colors=colors)


def test_no_copy_unless_needed() -> None:
    base = PIXELS.copy()
    assert as_frame(base).data_ptr() == base.ctypes.data
    tensor = torch.from_numpy(base)
    assert as_frame(tensor) is tensor
    np.testing.assert_array_equal(as_frame(base[::-1, ::2]).numpy(), base[::-1, ::2])


def test_frames_that_may_not_be_written_to_say_nothing() -> None:
    frozen = PIXELS.copy()
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(as_frame(frozen).numpy(), PIXELS)
        spread = np.broadcast_to(frozen[:1, :1], (4, 6, 3))
        np.testing.assert_array_equal(as_frame(spread).numpy(), spread)
