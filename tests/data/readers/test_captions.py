"""Grounded captions of images and videos, tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import packed, rectangle, write_frame, write_indices, write_json

from x2sam_rt.data.readers import CaptionedExample, read_dataset
from x2sam_rt.errors import DataError

MAN, DOG = rectangle(0, 0, 4, 4), rectangle(3, 5, 8, 11)
FRAMES = ["00000", "00001"]


def write_image(root: Path, caption: str, labels: list[str], masks: list[Any], home: str = "images/") -> None:
    images = [{"id": "im1", "height": 9, "width": 13}]
    annotations = [
        {"id": number, "image_id": "im1", "category_id": 1, "segmentation": packed(mask)}
        for number, mask in enumerate(masks)
    ]
    place = root / "annotations" / "val_test"
    write_json(place / "val_gcg_coco_mask_gt.json", {"images": images, "annotations": annotations})
    entry = {"id": 0, "image_id": "im1", "caption": caption, "labels": labels}
    write_json(place / "val_gcg_coco_caption_gt.json", {"images": [{"id": "im1"}], "annotations": [entry]})
    write_frame(root / f"{home}GranDf_HA_images" / "val_test" / "im1.jpg", 1)


@pytest.mark.parametrize("home", ["", "images/"])
def test_an_image(tmp_path: Path, home: str) -> None:
    write_image(tmp_path / "img_gcgseg" / "grand_f", "A man walks a dog.", ["A man", "dog"], [MAN, DOG], home)
    dataset = read_dataset("gcg-image", tmp_path, "val")
    assert dataset.metric == "gcg_image"
    (example,) = dataset
    assert isinstance(example, CaptionedExample)
    assert (example.name, example.media, example.instruction.task) == ("gcg-image/val/im1", "image", "gcg")
    assert (example.caption, example.labels) == ("A man walks a dog.", ("A man", "dog"))
    assert example.answer == "<p>A man</p> walks a <p>dog</p>. <SEG>"
    assert [target.condition for target in example.targets] == [0, 1]
    for target, mask in zip(example.targets, (MAN, DOG), strict=True):
        np.testing.assert_array_equal(target.masks[0], mask)


def test_phrases_are_looked_for_one_after_another(tmp_path: Path) -> None:
    """The second dog is the second one in the text; in file's order; what the text lacks stands behind it."""
    write_image(tmp_path, "A dog and a Dog", ["dog", "dog", "the sky"], [DOG, MAN, MAN])
    (example,) = read_dataset("gcg-image", tmp_path, "val")
    assert isinstance(example, CaptionedExample)
    assert example.labels == ("dog", "Dog", "the sky")
    assert example.answer == "A <p>dog</p> and a <p>Dog</p> <p>the sky</p> <SEG>"
    np.testing.assert_array_equal(example.targets[1].masks[0], MAN)


def test_masks_and_phrases_must_be_as_many(tmp_path: Path) -> None:
    write_image(tmp_path, "A dog", ["dog"], [DOG, MAN])
    with pytest.raises(DataError, match=r"caption_gt\.json: image im1 has 1 phrases and 2 masks"):
        read_dataset("gcg-image", tmp_path, "val")


def write_dense(root: Path, dense: dict[str, Any], split: str = "yt19") -> None:
    video = {
        "id": 4,
        "dataset_split": split,
        "file_names": [f"v/{frame}.jpg" for frame in FRAMES],
        "height": 9,
        "width": 13,
        "length": 2,
        "dense_cap": dense,
    }
    annotations = [
        {"id": 11, "segmentations": [packed(MAN), None]},
        {"id": 12, "segmentations": [packed(DOG), packed(MAN)]},
    ]
    path = root / "video_gcg" / "instruction_data" / "test.json"
    write_json(path, {"videos": [video], "annotations": annotations})
    place = root / "video_gcg" / split / ("train/JPEGImages" if split == "yt19" else "val")
    for number, frame in enumerate(FRAMES):
        write_frame(place / "v" / f"{frame}.jpg", number)


@pytest.mark.parametrize("split", ["yt19", "other"])
def test_videos_whose_phrases_are_told_by_letters(tmp_path: Path, split: str) -> None:
    write_dense(
        tmp_path, {"caption": "men walk a dog", "token_pos": [[11, 14], [0, 3]], "mask_id": [12, [11, 12]]}, split
    )
    (example,) = read_dataset("gcg-video", tmp_path, "test")
    assert isinstance(example, CaptionedExample)
    assert (example.name, example.labels) == ("gcg-video/test/video_gcg/4", ("dog", "men"))
    assert example.answer == "<p>men</p> walk a <p>dog</p> <SEG>"
    np.testing.assert_array_equal(example.targets[0].masks, [DOG, MAN])
    np.testing.assert_array_equal(example.targets[1].masks, [MAN | DOG, MAN])


@pytest.mark.parametrize(
    ("dense", "message"),
    [
        ({"caption": "a dog", "token_pos": [[2, 9]], "mask_id": [12]}, "a phrase from letter 2 to 9 of a caption of 5"),
        ({"caption": "a dog", "token_pos": [[2, 5]], "mask_id": [13]}, "has no annotation 13"),
        ({"caption": "a dog", "token_pos": [], "mask_id": [12]}, "0 phrases and 1 masks"),
        ({"caption": "a dog"}, "KeyError: 'token_pos'"),
    ],
)
def test_other_captions(tmp_path: Path, dense: dict[str, Any], message: str) -> None:
    write_dense(tmp_path, dense)
    with pytest.raises(DataError, match=message):
        read_dataset("gcg-video", tmp_path, "test")


def test_videos_whose_phrases_are_in_brackets(tmp_path: Path) -> None:
    write_json(tmp_path / "mevis_gcg" / "valid_u" / "v1.json", {"caption": "A [man](0) and [two dogs](1, 2) run."})
    expressions = {
        "0": {"exp": "x", "obj_id": [0, 1], "anno_id": [70, 71]},
        "1": {"exp": "y", "obj_id": [2], "anno_id": [9]},
    }
    meta = {"videos": {"v1": {"frames": FRAMES, "expressions": expressions}}}
    write_json(tmp_path / "mevis" / "valid_u" / "meta_expressions.json", meta)
    tracks = {"70": [packed(MAN), None], "71": [packed(DOG), None], "9": [None, packed(DOG)]}
    write_json(tmp_path / "mevis" / "valid_u" / "mask_dict.json", tracks)
    write_json(tmp_path / "vidstg_gcg" / "val_captions" / "v2.json", {"caption": "[a dog](3) sits"})
    for number, frame in enumerate(FRAMES):
        write_frame(tmp_path / "mevis" / "valid_u" / "JPEGImages" / "v1" / f"{frame}.jpg", number)
        write_frame(tmp_path / "vidstg_gcg" / "val" / "v2" / "frames" / f"{frame}.png", number)
    write_indices(tmp_path / "vidstg_gcg" / "val" / "v2" / "masks" / "003" / "00001.png", np.where(DOG, 255, 0))
    mevis, vidstg = read_dataset("gcg-video", tmp_path, "test")
    assert isinstance(mevis, CaptionedExample)
    assert (mevis.caption, mevis.labels) == ("A man and two dogs run.", ("man", "two dogs"))
    np.testing.assert_array_equal(mevis.targets[1].masks, [DOG, DOG])
    assert isinstance(vidstg, CaptionedExample)
    assert vidstg.answer == "<p>a dog</p> sits <SEG>"
    np.testing.assert_array_equal(vidstg.targets[0].masks, [DOG & False, DOG])
