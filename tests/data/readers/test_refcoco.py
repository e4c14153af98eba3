"""RefCOCO, RefCOCO+ and RefCOCOg, tiny; pickles are not opened."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import SIZE, packed, rectangle, write_frame, write_json

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.readers import read_dataset
from x2sam_rt.errors import DataError

SQUARE = [2, 1, 8, 1, 8, 6, 2, 6]
REFS = [
    {
        "ref_id": 4,
        "ann_id": 11,
        "image_id": 1,
        "split": "testA",
        "sentences": [{"sent_id": 0, "sent": "left square"}, {"sent_id": 1, "sent": " the square "}],
    },
    {"ref_id": 5, "ann_id": 12, "image_id": 1, "split": "val", "sentences": [{"sent_id": 2, "sent": "mask"}]},
]
INSTANCES = {
    "images": [{"id": 1, "file_name": "COCO_train2014_000000000001.jpg"}],
    "annotations": [
        {"id": 11, "image_id": 1, "segmentation": [SQUARE]},
        {"id": 12, "image_id": 1, "segmentation": packed(rectangle(3, 3, 8, 5))},
    ],
}
IMAGE = Path("images", "mscoco", "images", "train2014", "COCO_train2014_000000000001.jpg")


def write(root: Path, name: str, refs: Any = REFS, instances: Any = INSTANCES) -> None:
    write_json(root / name / "refs(unc).json", refs)
    write_json(root / name / "instances.json", instances)
    write_frame(root / IMAGE, 3)


def read(root: Path, split: str = "testA") -> Dataset:
    return read_dataset("refcoco", root, split)


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_each_sentence_is_an_example(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    dataset = read_dataset(name, tmp_path, "testA")
    assert (dataset.name, dataset.metric, len(dataset)) == (name, "giou", 2)
    first, second = dataset
    assert (first.name, first.media, first.instruction.task) == (f"{name}/testA/4/0", "image", "referring")
    assert (first.instruction.phrases, second.instruction.phrases) == (("left square",), ("the square",))
    np.testing.assert_array_equal(first.targets[0].masks[0], rectangle(1, 2, 6, 8))
    (masked,) = read_dataset(name, tmp_path, "val")
    np.testing.assert_array_equal(masked.targets[0].masks[0], rectangle(3, 3, 8, 5))
    assert masked.frames.shape == (1, *SIZE, 3)


class Explosive:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_pickles_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "refcoco")
    (tmp_path / "refcoco" / "refs(unc).json").unlink()
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([Explosive()]))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: is a pickle.*json\.dump\(pickle\.load\(open\("):
        read(tmp_path)
    assert not (tmp_path / "exploded").exists()


def test_the_advised_conversion_gives_what_is_read(tmp_path: Path) -> None:
    write(tmp_path, "refcoco")
    path = tmp_path / "refcoco" / "refs(unc)"
    path.with_suffix(".json").unlink()
    path.with_suffix(".p").write_bytes(pickle.dumps(REFS, protocol=2))
    with pytest.raises(DataError) as refused:
        read(tmp_path)
    exec(str(refused.value).split('-c "')[1].rstrip('"'))
    assert len(read(tmp_path)) == 2


def test_two_lists_of_refs(tmp_path: Path) -> None:
    write(tmp_path, "refcoco")
    write_json(tmp_path / "refcoco" / "refs(google).json", REFS)
    with pytest.raises(DataError, match=r"several lists of refs \(refs\(google\)\.json, refs\(unc\)\.json\)"):
        read(tmp_path)


def test_images_may_lie_beside(tmp_path: Path) -> None:
    write(tmp_path, "refcoco")
    (tmp_path / IMAGE).parent.rename(tmp_path / "train2014")
    assert read(tmp_path)[0].frames.shape == (1, *SIZE, 3)
    (tmp_path / "train2014").rename(tmp_path / "val2014")
    with pytest.raises(DataError, match="COCO's images are in none of"):
        read(tmp_path)


def test_unknown_splits(tmp_path: Path) -> None:
    write(tmp_path, "refcoco")
    with pytest.raises(DataError, match=r"no split 'test'; there are \['testA', 'val'\]"):
        read(tmp_path, "test")


@pytest.mark.parametrize(
    ("refs", "instances", "message"),
    [
        ([{**REFS[0], "ann_id": 99}], INSTANCES, r"instances\.json: has no entry 99"),
        (REFS, {**INSTANCES, "images": []}, "has no entry 1"),
        (REFS, {"images": []}, "layout of COCO instances.*'annotations'"),
        ([{"ref_id": 4}], INSTANCES, "layout of the refs of RefCOCO.*'split'"),
        ([{**REFS[0], "sentences": [{"sent_id": 0, "sent": "  "}]}], INSTANCES, "testA/4/0: its sentence is empty"),
        ([REFS[0], REFS[0]], INSTANCES, "two examples are called refcoco/testA/4/0"),
        ([{**REFS[0], "sentences": []}], INSTANCES, "no examples"),
    ],
)
def test_other_documents(tmp_path: Path, refs: Any, instances: Any, message: str) -> None:
    write(tmp_path, "refcoco", refs, instances)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("wrong", [[[1, 2, 3]], packed(rectangle(0, 0, 1, 1, (9, 14))), {"size": [9, 13]}], ids=str)
def test_wrong_masks_name_example_and_annotation(tmp_path: Path, wrong: Any) -> None:
    annotations = [{"id": 11, "image_id": 1, "segmentation": wrong}]
    write(tmp_path, "refcoco", REFS[:1], {**INSTANCES, "annotations": annotations})
    with pytest.raises(DataError, match=r"Example refcoco/testA/4/0: .*instances\.json, annotation 11: "):
        read(tmp_path)[0]
