"""COCO's instances and YouTube-VIS, tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import packed, rectangle, unpacked, write_frame, write_json

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.readers import AnnotatedExample, read_dataset
from x2sam_rt.errors import DataError

MASKS = [rectangle(0, 0, 3, 3), rectangle(2, 4, 6, 9), rectangle(5, 1, 9, 5)]
TRIANGLE = [1, 1, 8, 1, 1, 8]


def document() -> dict[str, Any]:
    return {
        "videos": [
            {"id": 7, "file_names": ["a/00000.jpg", "a/00005.jpg"], "height": 9, "width": 13},
            {"id": 8, "file_names": ["b/00000.jpg"], "height": 9, "width": 13},
        ],
        "categories": [{"id": 3, "name": "dog"}, {"id": 1, "name": "cat"}],
        "annotations": [
            {
                "id": 1,
                "video_id": 7,
                "category_id": 1,
                "iscrowd": 0,
                "segmentations": [unpacked(MASKS[0]), packed(MASKS[1])],
            },
            {"id": 2, "video_id": 7, "category_id": 3, "iscrowd": 0, "segmentations": [None, [TRIANGLE]]},
            {"id": 3, "video_id": 7, "category_id": 3, "iscrowd": 1, "segmentations": [packed(MASKS[2]), None]},
        ],
    }


def write(root: Path, given: dict[str, Any]) -> None:
    write_json(root / "train" / "instances.json", given)
    for number, file in enumerate(("a/00000", "a/00005", "b/00000")):
        write_frame(root / "train" / "JPEGImages" / f"{file}.jpg", number)


def read(root: Path) -> Dataset:
    return read_dataset("youtube-vis19", root, "train")


def test_each_video_is_an_example(tmp_path: Path) -> None:
    write(tmp_path, document())
    dataset = read(tmp_path)
    assert (dataset.metric, dataset.things, dataset.stuff) == ("ap_video", ("cat", "dog"), ())
    full, bare = dataset
    assert (full.name, full.instruction.task, full.instruction.things) == (
        "youtube-vis19/train/7",
        "instance",
        ("cat", "dog"),
    )
    assert [(target.id, target.condition) for target in full.targets] == [(1, 0), (2, 1)]
    np.testing.assert_array_equal(full.targets[0].masks, MASKS[:2])
    assert not full.targets[1].masks[0].any()
    assert full.targets[1].masks[1, 2, 2]
    assert isinstance(full, AnnotatedExample)
    assert [(crowd.id, crowd.condition) for crowd in full.crowds] == [(3, 1)]
    np.testing.assert_array_equal(full.crowds[0].masks[0], MASKS[2])
    assert bare.frames.shape == (1, 9, 13, 3)
    assert bare.targets == ()


def test_the_first_edition_has_its_json_beside_the_folder(tmp_path: Path) -> None:
    write(tmp_path, document())
    (tmp_path / "train" / "instances.json").rename(tmp_path / "train.json")
    assert len(read(tmp_path)) == 2


@pytest.mark.parametrize("annotations", [None, []], ids=str)
def test_a_split_without_masks(tmp_path: Path, annotations: object) -> None:
    write(tmp_path, {**document(), "annotations": annotations})
    with pytest.raises(DataError, match="'train' has no ground truth"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 2}, r"annotation 1: category 2 is not among the 2 listed \(1, 3\)"),
        ({"video_id": 9}, "annotation 1: belongs to video 9, which is not listed"),
        ({"segmentations": [None]}, "annotation 1: has masks for 1 frames; wanted 2"),
        ({"segmentations": None}, "TypeError"),
    ],
)
def test_wrong_annotations_are_found_at_once(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    given = document()
    given["annotations"][0].update(change)
    write(tmp_path, given)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (packed(rectangle(0, 0, 1, 1, (9, 12))), r"size \[9, 12\]; wanted \[9, 13\]"),
        ({"size": [9, 13], "counts": "0"}, "cover 0 pixels"),
        ({"size": [9, 13]}, "'counts'"),
        ("mask", "indices"),
    ],
)
def test_wrong_masks_name_example_file_and_annotation(tmp_path: Path, segmentation: Any, message: str) -> None:
    given = document()
    given["annotations"][0]["segmentations"][1] = segmentation
    write(tmp_path, given)
    with pytest.raises(
        DataError, match=rf"Example youtube-vis19/train/7: .*instances\.json, annotation 1: .*{message}"
    ):
        read(tmp_path)[0]


def test_two_categories_of_one_id(tmp_path: Path) -> None:
    given = document()
    given["categories"][0]["id"] = 1
    write(tmp_path, given)
    with pytest.raises(DataError, match="two categories of one id"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "home", "file"),
    [
        ("youtube-vis19", "vid_genseg/ytvis19", "valid/valid.json"),
        ("youtube-vis19", "vid_genseg/ytvis19", "valid/instances_val_sub.json"),
        ("youtube-vis21", "vid_ovseg/ytvis21", "valid/gt.json"),
    ],
)
def test_x2sam_s_folders_have_the_truth_of_valid(tmp_path: Path, name: str, home: str, file: str) -> None:
    root = tmp_path / home
    write(root, document())
    (root / "train").rename(root / "valid")
    (root / "valid" / "instances.json").rename(root / file)
    assert [example.name for example in read_dataset(name, tmp_path, "valid")] == [f"{name}/valid/7", f"{name}/valid/8"]


COCO = {
    "images": [{"id": 5, "file_name": "5.jpg"}, {"id": 6, "file_name": "6.jpg"}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 5, "category_id": 18, "iscrowd": 0, "segmentation": [TRIANGLE]},
        {"id": 2, "image_id": 5, "category_id": 17, "iscrowd": 1, "segmentation": unpacked(MASKS[0])},
    ],
}


@pytest.mark.parametrize("home", ["", "img_genseg/coco2017"])
def test_each_image_is_an_example(tmp_path: Path, home: str) -> None:
    root = tmp_path / home
    write_json(root / "annotations" / "instances_val2017.json", COCO)
    for number in (5, 6):
        write_frame(root / "val2017" / f"{number}.jpg", number)
    dataset = read_dataset("coco-instance", tmp_path, "val2017")
    assert (dataset.metric, dataset.things) == ("ap_image", ("cat", "dog"))
    full, bare = dataset
    assert (full.name, full.media, full.instruction.things) == ("coco-instance/val2017/5", "image", ("cat", "dog"))
    assert [(target.id, target.condition) for target in full.targets] == [(1, 1)]
    assert isinstance(full, AnnotatedExample)
    np.testing.assert_array_equal(full.crowds[0].masks[0], MASKS[0])
    assert bare.targets == ()


def test_annotations_of_images_that_are_not_listed(tmp_path: Path) -> None:
    write_json(tmp_path / "annotations" / "instances_val2017.json", {**COCO, "images": []})
    (tmp_path / "val2017").mkdir()
    with pytest.raises(DataError, match="annotation 1: belongs to image 5, which is not listed"):
        read_dataset("coco-instance", tmp_path, "val2017")
