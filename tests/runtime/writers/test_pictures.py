"""Mattes and cut-outs, as images, folders and videos."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from x2sam_rt.errors import VideoError
from x2sam_rt.media.encoding import Encoding
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation
from x2sam_rt.runtime.writers import (
    PictureFolderWriter,
    PictureImageWriter,
    PictureVideoWriter,
    ResultWriter,
    cutout,
    matte,
)


def result(index: int = 0, empty: int = 255) -> FrameResult:
    """Two segments that touch; the id of one is where others have none."""
    map = np.full((30, 41), empty, np.int32)
    map[5:20, 4:20], map[10:25, 20:30] = 0, 7
    segments = [Segment(map == id, label="it", label_id=0, score=0.5, id=id) for id in (0, 7)]
    return FrameResult(index, Segmentation(tuple(segments), map, empty), "")


FRAME = np.random.default_rng(0).integers(1, 256, (30, 41, 3)).astype(np.uint8)


@pytest.mark.parametrize("empty", [255, -1])
def test_a_matte_is_white_where_any_segment_is(empty: int) -> None:
    picture = matte(FRAME, result(empty=empty))
    inside = result(empty=empty).segmentation.map != empty
    assert picture.shape == (30, 41, 3)
    np.testing.assert_array_equal(picture, np.where(inside, 255, 0)[..., None].repeat(3, 2))


def test_a_cut_out_keeps_nothing_of_what_is_around() -> None:
    picture = cutout(FRAME, result())
    inside = result().segmentation.map != 255
    np.testing.assert_array_equal(picture[..., 3], np.where(inside, 255, 0))
    np.testing.assert_array_equal(picture[inside][:, :3], FRAME[inside])
    assert not picture[~inside].any()


def test_an_image(tmp_path: Path) -> None:
    with PictureImageWriter(tmp_path / "cut.png", cutout) as writer:
        writer.write(FRAME, result())
        with pytest.raises(VideoError, match="holds one image"):
            writer.write(FRAME, result())
    image = Image.open(tmp_path / "cut.png")
    assert image.mode == "RGBA"
    np.testing.assert_array_equal(np.array(image), cutout(FRAME, result()))


def test_a_folder(tmp_path: Path) -> None:
    for overwrite in (False, True):
        with PictureFolderWriter(tmp_path / "cut", cutout, overwrite=overwrite) as writer:
            for index in range(3):
                writer.write(FRAME, result(index))
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "cut/00002.png")), cutout(FRAME, result()))
    (tmp_path / "cut/diary.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(VideoError, match="exists already"):
            PictureFolderWriter(tmp_path / "cut", cutout, overwrite=overwrite)


@pytest.mark.parametrize(("suffix", "codec"), [(".mov", "prores"), (".webm", "vp9")])
def test_a_video(tmp_path: Path, suffix: str, codec: str) -> None:
    path = tmp_path / f"cut{suffix}"
    with PictureVideoWriter(path, 10, cutout, encoding=Encoding(alpha=True)) as writer:
        for index in range(3):
            writer.write(FRAME, result(index))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == (codec, 42, 30)


def test_nothing_is_left_where_it_ends_early(tmp_path: Path) -> None:
    writers: list[ResultWriter] = [
        PictureVideoWriter(tmp_path / "cut.mov", 10, cutout, encoding=Encoding(alpha=True)),
        PictureFolderWriter(tmp_path / "cut", cutout),
        PictureImageWriter(tmp_path / "cut.png", cutout),
    ]
    for writer in writers:
        writer.write(FRAME, result())
        with pytest.raises(KeyError), writer:
            raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_container_without_transparency_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="holds no transparency"):
        PictureVideoWriter(tmp_path / "cut.mp4", 10, cutout, encoding=Encoding(alpha=True))
    assert list(tmp_path.iterdir()) == []
