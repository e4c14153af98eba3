"""COCO panoptic and VIPSeg, tiny; and our own panoptic output read as COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_files import SIZE, rectangle, write_frame, write_ids, write_indices, write_json

from x2sam_rt.data.readers import AnnotatedExample, read_dataset
from x2sam_rt.errors import DataError
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation
from x2sam_rt.runtime.writers import PanopticWriter

CATEGORIES = [
    {"id": 5, "name": "grass", "isthing": 0},
    {"id": 9, "name": "dog", "isthing": 1},
    {"id": 2, "name": "cat", "isthing": 1},
]
GRASS, DOG, CROWD = 70_000, 300, 4
SEGMENTS = [
    {"id": GRASS, "category_id": 5, "iscrowd": 0},
    {"id": DOG, "category_id": 9, "iscrowd": 0},
    {"id": CROWD, "category_id": 2, "iscrowd": 1},
]


def ids(shift: int = 0) -> npt.NDArray[np.int32]:
    painted = np.full(SIZE, GRASS, dtype=np.int32)
    painted[rectangle(1, 1 + shift, 5, 6 + shift)] = DOG
    painted[rectangle(6, 0, 9, 4)] = CROWD
    painted[0, 0] = 0
    return painted


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    write_frame(tmp_path / "val" / "one.jpg", 1)
    write_ids(tmp_path / "annotations" / "panoptic_val" / "one.png", ids())
    write_coco(tmp_path, SEGMENTS)
    return tmp_path


def write_coco(root: Path, segments: list[dict[str, Any]], **more: Any) -> None:
    document = {
        "images": [{"id": 17, "file_name": "one.jpg"}],
        "annotations": [{"image_id": 17, "file_name": "one.png", "segments_info": segments}],
        "categories": CATEGORIES,
    }
    write_json(root / "annotations" / "panoptic_val.json", {**document, **more})


@pytest.fixture
def vipseg(tmp_path: Path) -> Path:
    names = ("00001", "00003")
    for number, name in enumerate(names):
        write_frame(tmp_path / "images" / "v1" / f"{name}.jpg", number)
        write_ids(tmp_path / "panomasksRGB" / "v1" / f"{name}.png", ids(number))
    write_vipseg(tmp_path, [SEGMENTS, SEGMENTS])
    return tmp_path


def write_vipseg(root: Path, segments: list[list[dict[str, Any]]]) -> None:
    names = ("00001", "00003")
    annotations = [
        {"image_id": name, "file_name": f"{name}.png", "segments_info": infos}
        for name, infos in zip(names, segments, strict=False)
    ]
    document = {
        "videos": [{"video_id": "v1", "images": [{"id": name, "file_name": f"{name}.png"} for name in names]}],
        "annotations": [{"video_id": "v1", "annotations": annotations}],
        "categories": CATEGORIES,
    }
    write_json(root / "panoptic_gt_VIPSeg_val.json", document)


def test_an_image(coco: Path) -> None:
    dataset = read_dataset("coco-panoptic", coco, "val")
    assert (dataset.metric, dataset.things, dataset.stuff) == ("panoptic_image", ("dog", "cat"), ("grass",))
    (example,) = dataset
    assert (example.name, example.media, example.instruction.task) == ("coco-panoptic/val/17", "image", "panoptic")
    assert (example.instruction.things, example.instruction.stuff, example.conditions) == (
        ("dog", "cat"),
        ("grass",),
        3,
    )
    assert [(target.id, target.condition) for target in example.targets] == [(GRASS, 2), (DOG, 0)]
    for target in example.targets:
        np.testing.assert_array_equal(target.masks, ids()[None] == target.id)
    assert isinstance(example, AnnotatedExample)
    assert [(crowd.id, crowd.condition) for crowd in example.crowds] == [(CROWD, 1)]
    np.testing.assert_array_equal(example.frames[0], write_frame(coco / "again.png", 1))


def test_a_video(vipseg: Path) -> None:
    dataset = read_dataset("vipseg", vipseg, "val")
    assert (dataset.metric, dataset.things, dataset.stuff) == ("panoptic_video", ("dog", "cat"), ("grass",))
    (example,) = dataset
    assert (example.name, example.media, example.frames.shape) == ("vipseg/val/v1", "video", (2, *SIZE, 3))
    dog = next(target for target in example.targets if target.id == DOG)
    np.testing.assert_array_equal(dog.masks, [ids(0) == DOG, ids(1) == DOG])


def test_what_the_panoptic_writer_wrote_is_read_back(tmp_path: Path) -> None:
    map = np.where(rectangle(0, 0, 4, 13), 3, 1).astype(np.int32)
    map[8, 12] = 0
    segments = tuple(
        Segment(map == id, label, place, 0.5, id, is_thing)
        for place, (id, label, is_thing) in enumerate([(3, "Schaf", True), (1, "grass", False)])
    )
    pixels = write_frame(tmp_path / "val" / "00000.png", 5)
    with PanopticWriter(tmp_path / "out") as writer:
        writer.write(pixels, FrameResult(0, Segmentation(segments, map, 0), ""))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "out" / "panoptic").rename(tmp_path / "annotations" / "panoptic_val")
    (tmp_path / "out" / "panoptic.json").rename(tmp_path / "annotations" / "panoptic_val.json")
    (example,) = read_dataset("coco-panoptic", tmp_path, "val")
    labels = example.instruction.things + example.instruction.stuff
    read = {labels[target.condition]: target.masks[0] for target in example.targets}
    assert set(read) == {"Schaf", "grass"}
    np.testing.assert_array_equal(read["Schaf"], map == 3)
    np.testing.assert_array_equal(read["grass"], map == 1)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([*SEGMENTS, {"id": 8, "category_id": 6}], r"image 17: category 6 is not among the 3 listed \(2, 5, 9\)"),
        ([*SEGMENTS, SEGMENTS[0]], "segment id 70000; wanted ids from 1, each once"),
        ([*SEGMENTS, {"id": 0, "category_id": 5}], "segment id 0"),
        ([{"category_id": 5}], "KeyError: 'id'"),
    ],
)
def test_wrong_lists_are_found_at_once(coco: Path, segments: list[dict[str, Any]], message: str) -> None:
    write_coco(coco, segments)
    with pytest.raises(DataError, match=message):
        read_dataset("coco-panoptic", coco, "val")


def test_ids_and_list_must_agree(coco: Path) -> None:
    write_coco(coco, SEGMENTS[1:])
    with pytest.raises(DataError, match=r"val/17: .*one\.png: the ids \[70000\] are painted, but not in the list"):
        read_dataset("coco-panoptic", coco, "val")[0]
    write_coco(coco, [*SEGMENTS, {"id": 6, "category_id": 5}])
    with pytest.raises(DataError, match=r"the ids \[6\] are in the list of segments, but not painted"):
        read_dataset("coco-panoptic", coco, "val")[0]


def test_damaged_pngs(coco: Path) -> None:
    (dataset, path) = read_dataset("coco-panoptic", coco, "val"), coco / "annotations" / "panoptic_val" / "one.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"Example coco-panoptic/val/17: .*one\.png"):
        dataset[0]
    write_indices(path, ids() % 256)
    with pytest.raises(DataError, match="is a P image; wanted RGB"):
        dataset[0]
    write_ids(path, ids()[1:])
    with pytest.raises(DataError, match="is 13×8 pixels; wanted 13×9"):
        dataset[0]
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        dataset[0]


def test_annotations_of_images_that_are_not_listed(coco: Path) -> None:
    write_coco(coco, SEGMENTS, images=[])
    with pytest.raises(DataError, match="annotation of image 17, which is not listed"):
        read_dataset("coco-panoptic", coco, "val")
    write_coco(coco, SEGMENTS, annotations=[])
    with pytest.raises(DataError, match="no ground truth"):
        read_dataset("coco-panoptic", coco, "val")


def test_videos_whose_frames_lack_annotations(vipseg: Path) -> None:
    write_vipseg(vipseg, [SEGMENTS])
    with pytest.raises(DataError, match="v1 has 2 frames and annotations of 1"):
        read_dataset("vipseg", vipseg, "val")
    document = json.loads((vipseg / "panoptic_gt_VIPSeg_val.json").read_text())
    write_json(vipseg / "panoptic_gt_VIPSeg_val.json", {**document, "annotations": []})
    with pytest.raises(DataError, match="annotations of 0"):
        read_dataset("vipseg", vipseg, "val")


def test_a_segment_cannot_change_its_category(vipseg: Path) -> None:
    changed = [{**info, "category_id": 2 if info["id"] == DOG else info["category_id"]} for info in SEGMENTS]
    write_vipseg(vipseg, [SEGMENTS, changed])
    with pytest.raises(DataError, match=r"00003\.png: segment 300 was of another category before"):
        read_dataset("vipseg", vipseg, "val")[0]
