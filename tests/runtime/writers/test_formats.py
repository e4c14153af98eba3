"""COCO, DAVIS and panoptic output: exact round trips, and nothing half-written under the output's name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from x2sam_rt.errors import VideoError
from x2sam_rt.media.colors import color_of
from x2sam_rt.media.image import decode_ids, encode_ids
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation
from x2sam_rt.runtime.writers import (
    CocoRleWriter,
    DavisWriter,
    PanopticWriter,
    ResultWriter,
    read_coco_rle,
    read_davis,
    read_panoptic,
)
from x2sam_rt.tasks.marks import TextSpan

SIZES = [(1, 1), (7, 13), (64, 33)]
OPENERS: list[Callable[[Path], ResultWriter]] = [
    lambda path: CocoRleWriter(path),
    lambda path: DavisWriter(path.parent, path.name),
    lambda path: PanopticWriter(path),
]


def result(size: tuple[int, int], *, index: int = 0, ids: tuple[int, ...] = (0, 4), empty: int = -1) -> FrameResult:
    """Overlapping blobs of noise, later ones on top."""
    random = np.random.default_rng((index, *size))
    map = np.full(size, empty, dtype=np.int32)
    segments = []
    for place, id in enumerate(ids):
        mask = random.random(size) < 0.5
        map[mask] = id
        segments.append(Segment(mask, f"Ding {id} ä", place, 1 / (3 + place), id, is_thing=place % 2 == 0))
    return FrameResult(index, Segmentation(tuple(segments), map, empty), f"a text “{index}”", (TextSpan(2, 6, index),))


def pixels(size: tuple[int, int]) -> np.ndarray:  # type: ignore[type-arg]
    return np.zeros((*size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_coco_round_trip(tmp_path: Path, size: tuple[int, int]) -> None:
    results = [result(size, index=index) for index in range(3)]
    with CocoRleWriter(tmp_path / "out.jsonl") as writer:
        for one, timestamp in zip(results, (0.0, 0.1, None), strict=True):
            writer.write(pixels(size), one, timestamp)
    frames = list(read_coco_rle(tmp_path / "out.jsonl"))
    assert [(frame.index, frame.timestamp, frame.size) for frame in frames] == [
        (0, 0.0, size),
        (1, 0.1, size),
        (2, None, size),
    ]
    for frame, one in zip(frames, results, strict=True):
        assert (frame.text, frame.spans) == (one.text, one.spans)
        for got, wanted in zip(frame.segments, one.segments, strict=True):
            np.testing.assert_array_equal(got.mask, wanted.mask)
            assert (got.id, got.label, got.label_id, got.score, got.is_thing) == (
                wanted.id,
                wanted.label,
                wanted.label_id,
                wanted.score,
                wanted.is_thing,
            )


def test_coco_lines_are_what_pycocotools_understands(tmp_path: Path) -> None:
    one = result((31, 17))
    with CocoRleWriter(tmp_path / "out.jsonl") as writer:
        writer.write(pixels((31, 17)), one, 0.5)
    record = json.loads((tmp_path / "out.jsonl").read_text(encoding="utf-8"))
    assert sorted(record) == ["frame", "segments", "size", "spans", "text", "timestamp"]
    for entry, segment in zip(record["segments"], one.segments, strict=True):
        rle = entry["rle"]
        np.testing.assert_array_equal(coco_mask.decode(rle), segment.mask)
        assert entry["area"] == coco_mask.area(rle) == segment.area
        assert entry["bbox"] == coco_mask.toBbox(rle).tolist()


def test_coco_takes_numpy_numbers_and_empty_masks(tmp_path: Path) -> None:
    empty = np.zeros((4, 5), dtype=np.bool_)
    segment = Segment(empty, "nothing", np.int64(1), np.float32(0.5), np.int32(2), np.bool_(True))  # type: ignore[arg-type]
    one = FrameResult(0, Segmentation((segment,), np.full((4, 5), -1, np.int32), -1), "")
    with CocoRleWriter(tmp_path / "out.jsonl") as writer:
        writer.write(pixels((4, 5)), one)
    (frame,) = read_coco_rle(tmp_path / "out.jsonl")
    assert frame.segments[0].area == 0
    assert frame.segments[0].score == 0.5


@pytest.mark.parametrize(
    "damage",
    [lambda line: line[: len(line) // 2], lambda line: "{}", lambda line: line.replace('"counts"', '"count"')],
    ids=["cut", "empty-object", "missing-key"],
)
def test_a_damaged_coco_line_is_named(tmp_path: Path, damage: Callable[[str], str]) -> None:
    path = tmp_path / "out.jsonl"
    with CocoRleWriter(path) as writer:
        for index in range(2):
            writer.write(pixels((5, 6)), result((5, 6), index=index))
    first, second = path.read_text(encoding="utf-8").splitlines()
    path.write_text(f"{first}\n{damage(second)}\n", encoding="utf-8")
    frames = read_coco_rle(path)
    assert next(frames).index == 0
    with pytest.raises(VideoError, match="line 2"):
        next(frames)


@pytest.mark.parametrize(("ids", "empty"), [((0, 4), -1), ((1, 2), 0), ((3, 253), 255)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_davis_round_trip(tmp_path: Path, size: tuple[int, int], ids: tuple[int, ...], empty: int) -> None:
    results = [result(size, index=index, ids=ids, empty=empty) for index in (0, 1, 7)]
    with DavisWriter(tmp_path, "clip") as writer:
        for one in results:
            writer.write(pixels(size), one)
    assert sorted(os.listdir(tmp_path / "clip")) == ["00000.png", "00001.png", "00007.png"]
    for labels, one in zip(read_davis(tmp_path / "clip"), results, strict=True):
        wanted = one.segmentation
        np.testing.assert_array_equal(labels, np.where(wanted.map == wanted.empty, -1, wanted.map))


def test_davis_files_are_indexed_with_the_overlays_colours(tmp_path: Path) -> None:
    with DavisWriter(tmp_path, "clip") as writer:
        writer.write(pixels((9, 9)), result((9, 9), ids=(5,)))
    with Image.open(tmp_path / "clip" / "00000.png") as image:
        assert image.mode == "P"
        palette = image.getpalette()
        assert set(np.unique(np.asarray(image))) == {0, 6}
    assert palette is not None
    assert palette[:3] == [0, 0, 0]
    assert tuple(palette[3 * 6 : 3 * 7]) == color_of(5)


@pytest.mark.parametrize("id", [254, 255, 70_000])
def test_davis_has_no_room_for_large_ids(tmp_path: Path, id: int) -> None:
    writer = DavisWriter(tmp_path, "clip")
    with pytest.raises(VideoError, match=f"id {id}.*up to 253"):
        writer.write(pixels((9, 9)), result((9, 9), ids=(id,)))
    writer.discard()


def test_davis_void_is_nothing(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 255]], dtype=np.uint8))
    image.putpalette(bytes(range(256)) * 3)
    image.save(tmp_path / "00000.png")
    np.testing.assert_array_equal(next(read_davis(tmp_path)), [[-1, 0, -1]])


def test_davis_refuses_other_pngs_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="holds no PNG"):
        next(read_davis(tmp_path))
    Image.fromarray(pixels((3, 3))).save(tmp_path / "00000.png")
    with pytest.raises(VideoError, match="RGB image"):
        next(read_davis(tmp_path))


@pytest.mark.parametrize("name", ["", "a/b", ".."])
def test_davis_sequences_are_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(VideoError, match="no name for a sequence"):
        DavisWriter(tmp_path, name)


@pytest.mark.parametrize(("ids", "empty"), [((0, 4), -1), ((1, 300), 0), ((70_000, 2), 255)], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_panoptic_round_trip(tmp_path: Path, size: tuple[int, int], ids: tuple[int, ...], empty: int) -> None:
    results = [result(size, index=index, ids=ids, empty=empty) for index in range(3)]
    with PanopticWriter(tmp_path / "out") as writer:
        for one in results:
            writer.write(pixels(size), one)
    assert sorted(os.listdir(tmp_path / "out")) == ["panoptic", "panoptic.json"]
    for frame, one in zip(read_panoptic(tmp_path / "out"), results, strict=True):
        wanted = one.segmentation
        np.testing.assert_array_equal(frame.ids, np.where(wanted.map == wanted.empty, 0, wanted.map + 1))
        visible = {segment.id: segment for segment in one.segments if (wanted.map == segment.id).any()}
        assert {info["id"] - 1 for info in frame.segments} == set(visible)
        for info in frame.segments:
            segment = visible[info["id"] - 1]
            category = frame.categories[info["category_id"]]
            assert (category["name"], category["isthing"]) == (segment.label, int(segment.is_thing))
            shown = np.asfortranarray(wanted.map == segment.id, dtype=np.uint8)
            rle = coco_mask.encode(shown)
            assert info["area"] == coco_mask.area(rle)
            assert info["bbox"] == coco_mask.toBbox(rle).tolist()
            assert info["score"] == segment.score


def test_panoptic_json_is_cocos(tmp_path: Path) -> None:
    with PanopticWriter(tmp_path / "out") as writer:
        for index in (3, 9):
            writer.write(pixels((4, 6)), result((4, 6), index=index))
    document = json.loads((tmp_path / "out" / "panoptic.json").read_text(encoding="utf-8"))
    assert document["images"] == [
        {"id": 3, "file_name": "00003.png", "height": 4, "width": 6},
        {"id": 9, "file_name": "00009.png", "height": 4, "width": 6},
    ]
    assert [annotation["image_id"] for annotation in document["annotations"]] == [3, 9]
    assert [category["id"] for category in document["categories"]] == [0, 1]


def test_panoptic_joins_stuff_of_one_id(tmp_path: Path) -> None:
    left, right = np.zeros((2, 4), np.bool_), np.zeros((2, 4), np.bool_)
    left[:, :1], right[:, 3:] = True, True
    map = np.where(left | right, 5, 0).astype(np.int32)
    pieces = tuple(Segment(mask, "sky", 2, score, 5, False) for mask, score in ((left, 0.9), (right, 0.6)))
    with PanopticWriter(tmp_path / "out") as writer:
        writer.write(pixels((2, 4)), FrameResult(0, Segmentation(pieces, map, 0), ""))
    (frame,) = read_panoptic(tmp_path / "out")
    assert frame.segments == ({"id": 6, "category_id": 2, "area": 4, "bbox": [0, 0, 4, 2], "iscrowd": 0, "score": 0.9},)


def test_panoptic_numbers_stay_apart_when_the_instruction_changes(tmp_path: Path) -> None:
    """label_id counts within an instruction, so 0 can be the dog first and the cat later."""
    mask = np.ones((2, 2), np.bool_)
    with PanopticWriter(tmp_path / "out") as writer:
        for index, label in enumerate(("dog", "cat", "dog")):
            segmentation = Segmentation((Segment(mask, label, 0, 0.5, 1),), np.ones((2, 2), np.int32), 0)
            writer.write(pixels((2, 2)), FrameResult(index, segmentation, ""))
    names = [frame.categories[frame.segments[0]["category_id"]]["name"] for frame in read_panoptic(tmp_path / "out")]
    assert names == ["dog", "cat", "dog"]


def test_panoptic_refuses_a_map_without_its_segment(tmp_path: Path) -> None:
    writer = PanopticWriter(tmp_path / "out")
    with pytest.raises(VideoError, match=r"ids \[8\]"):
        writer.write(pixels((2, 2)), FrameResult(0, Segmentation((), np.full((2, 2), 8, np.int32), 0), ""))
    writer.discard()


def test_a_damaged_panoptic_folder(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such file"):
        next(read_panoptic(tmp_path))
    (tmp_path / "panoptic.json").write_text('{"categories": [')
    with pytest.raises(VideoError, match="not panoptic JSON"):
        next(read_panoptic(tmp_path))


def test_ids_are_encoded_as_coco_does() -> None:
    ids = np.array([[0, 1, 255, 256, 65536, 256**3 - 1]], dtype=np.int32)
    np.testing.assert_array_equal(encode_ids(ids)[0, 3:], [[0, 1, 0], [0, 0, 1], [255, 255, 255]])
    np.testing.assert_array_equal(decode_ids(encode_ids(ids)), ids)
    with pytest.raises(VideoError, match="three bytes"):
        encode_ids(ids + 1)


@pytest.mark.parametrize("open_writer", OPENERS, ids=["coco", "davis", "panoptic"])
def test_output_appears_only_when_closed(tmp_path: Path, open_writer: Callable[[Path], ResultWriter]) -> None:
    writer = open_writer(tmp_path / "out")
    writer.write(pixels((5, 6)), result((5, 6)))
    assert not (tmp_path / "out").exists()
    writer.close()
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("open_writer", OPENERS, ids=["coco", "davis", "panoptic"])
def test_output_vanishes_with_an_error(tmp_path: Path, open_writer: Callable[[Path], ResultWriter]) -> None:
    def write_and_fail() -> None:
        with open_writer(tmp_path / "out") as writer:
            writer.write(pixels((5, 6)), result((5, 6)))
            raise KeyError("the body's own")

    with pytest.raises(KeyError):
        write_and_fail()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("open_writer", OPENERS, ids=["coco", "davis", "panoptic"])
def test_folders_are_not_written_over(tmp_path: Path, open_writer: Callable[[Path], ResultWriter]) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(VideoError, match="exists already"):
        open_writer(tmp_path / "out")
    with pytest.raises(VideoError, match="there is no folder"):
        open_writer(tmp_path / "missing" / "out")


@pytest.mark.parametrize("open_writer", OPENERS[1:], ids=["davis", "panoptic"])
def test_negative_ids_are_refused(tmp_path: Path, open_writer: Callable[[Path], ResultWriter]) -> None:
    writer = open_writer(tmp_path / "out")
    with pytest.raises(VideoError, match="the id -1"):
        writer.write(pixels((5, 6)), result((5, 6), ids=(-1,), empty=255))
    writer.discard()
