"""RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO and ReasonSeg, tiny; nothing in a pickle is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import SIZE, packed, rectangle, write_frame, write_json

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.readers import AnnotatedExample, read_dataset
from x2sam_rt.errors import DataError

SQUARE = [2, 1, 8, 1, 8, 6, 2, 6]
REFS = [
    {
        "ref_id": 4,
        "ann_id": 11,
        "image_id": 1,
        "split": "testA",
        "sentences": [{"sent_id": 0, "sent": "The square"}, {"sent_id": 1, "sent": " left square "}],
    },
    {"ref_id": 6, "ann_id": 11, "image_id": 1, "split": "testA", "sentences": [{"sent_id": 3, "sent": "the square"}]},
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
    write_json(root / name / ("refs(umd).json" if name == "refcocog" else "refs(unc).json"), refs)
    write_json(root / name / "instances.json", instances)
    write_frame(root / IMAGE, 3)


def read(root: Path, split: str = "testA") -> Dataset:
    return read_dataset("refcoco", root, split)


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog"])
def test_each_different_sentence_about_an_annotation_is_an_example(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    dataset = read_dataset(name, tmp_path, "testA")
    assert (dataset.name, dataset.metric, len(dataset)) == (name, "giou", 2)
    first, second = dataset
    assert (first.name, first.media, first.instruction.task) == (f"{name}/testA/11/0", "image", "referring")
    assert (first.instruction.phrases, second.instruction.phrases) == (("left square",), ("the square",))
    np.testing.assert_array_equal(first.targets[0].masks[0], rectangle(1, 2, 6, 8))
    (masked,) = read_dataset(name, tmp_path, "val")
    np.testing.assert_array_equal(masked.targets[0].masks[0], rectangle(3, 3, 8, 5))
    assert masked.frames.shape == (1, *SIZE, 3)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_x2sam_s_layout_with_its_pickles(tmp_path: Path, protocol: int) -> None:
    home = tmp_path / "img_refseg" / "refcocos"
    write(home, "refcoco+")
    (home / "refcoco+" / "refs(unc).json").unlink()
    (home / "refcoco+" / "refs(unc).p").write_bytes(pickle.dumps(REFS, protocol=protocol))
    (home / "refcoco+" / "refs(google).p").write_bytes(b"never opened")
    (home / "refcoco+").rename(home / "refcocop")
    (home / "images" / "mscoco" / "images" / "train2014").rename(home / "images" / "train2014")
    for root in (tmp_path, home):
        assert [one.instruction.phrases for one in read_dataset("refcoco+", root, "testA")] == [
            ("left square",),
            ("the square",),
        ]


class Explosive:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_nothing_in_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "refcoco")
    (tmp_path / "refcoco" / "refs(unc).json").unlink()
    path = tmp_path / "refcoco" / "refs(unc).p"
    path.write_bytes(pickle.dumps([*REFS, Explosive()]))
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: is no pickle of plain .*asks for posix\.mkdir"):
        read(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"no pickle", pickle.dumps(REFS)[:-30], b"(lp0\nI1\na"], ids=repr)
def test_damaged_pickles(tmp_path: Path, content: bytes) -> None:
    write(tmp_path, "refcoco")
    (tmp_path / "refcoco" / "refs(unc).json").unlink()
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(content)
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: "):
        read(tmp_path)


def test_refcocog_is_split_as_the_paper_splits_it(tmp_path: Path) -> None:
    write(tmp_path, "refcocog")
    (tmp_path / "refcocog" / "refs(umd).json").rename(tmp_path / "refcocog" / "refs(google).json")
    with pytest.raises(DataError, match=r"no refs of refcocog.*looked for refs\(umd\)\.json or refs\(umd\)\.p"):
        read_dataset("refcocog", tmp_path, "val")


def test_images_may_lie_beside(tmp_path: Path) -> None:
    write(tmp_path, "refcoco")
    (tmp_path / IMAGE).parent.rename(tmp_path / "train2014")
    assert read(tmp_path)[0].frames.shape == (1, *SIZE, 3)
    (tmp_path / "train2014").rename(tmp_path / "val2014")
    with pytest.raises(DataError, match=r"no COCO images of refcoco.*It holds images/, refcoco/, val2014/"):
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
        ([{**REFS[0], "sentences": [{"sent_id": 0, "sent": "  "}]}], INSTANCES, "ref 4: a sentence is empty"),
        ([{**REFS[0], "sentences": []}], INSTANCES, "holds no examples"),
    ],
)
def test_other_refs(tmp_path: Path, refs: Any, instances: Any, message: str) -> None:
    write(tmp_path, "refcoco", refs, instances)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("wrong", [[[1, 2, 3]], packed(rectangle(0, 0, 1, 1, (9, 14))), {"size": [9, 13]}], ids=str)
def test_wrong_masks_name_example_and_annotation(tmp_path: Path, wrong: Any) -> None:
    annotations = [{"id": 11, "image_id": 1, "segmentation": wrong}]
    write(tmp_path, "refcoco", REFS[:1], {**INSTANCES, "annotations": annotations})
    with pytest.raises(DataError, match=r"Example refcoco/testA/11/0: .*instances\.json, annotation 11: "):
        read(tmp_path)[0]


GREFS = [
    {"ref_id": 1, "ann_id": [11, 12], "image_id": 1, "split": "val", "sentences": [{"sent": "Both"}, {"sent": "both"}]},
    {"ref_id": 2, "ann_id": [-1], "image_id": 1, "split": "val", "sentences": [{"sent": "the zebra"}]},
]


@pytest.mark.parametrize("file", ["grefs(unc).json", "refs(unc).json"])
def test_phrases_that_mean_several_things_or_nothing(tmp_path: Path, file: str) -> None:
    write(tmp_path, "grefcoco", GREFS)
    (tmp_path / "grefcoco" / "refs(unc).json").rename(tmp_path / "grefcoco" / file)
    both, nothing = read_dataset("grefcoco", tmp_path, "val")
    assert (both.name, both.instruction.phrases, both.tags) == ("grefcoco/val/1/0", ("both",), frozenset())
    assert [target.id for target in both.targets] == [11, 12]
    np.testing.assert_array_equal(both.masks_of(0)[0], rectangle(1, 2, 6, 8) | rectangle(3, 3, 8, 5))
    assert (nothing.instruction.phrases, nothing.targets, nothing.tags) == (("the zebra",), (), {"no target"})


def box(top: int, left: int, bottom: int, right: int) -> list[list[float]]:
    """The outline through the middle of a rectangle's outer pixels."""
    return [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1.0]]


def shape(label: str, points: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": "polygon"}


REASONING = {
    "text": ["Where could it sleep?", "Welches Möbel?"],
    "is_sentence": True,
    "shapes": [
        shape("target", box(3, 3, 5, 6)),
        shape("ignore", box(2, 2, 7, 9)),
        shape("flag", box(0, 0, 9, 13)),
        shape("target", box(0, 0, 9, 11)),
    ],
}


def write_reasonseg(root: Path, document: Any, name: str = "one", encoding: str = "utf-8") -> None:
    write_frame(root / "val" / f"{name}.jpg", 2)
    write_json(root / "val" / f"{name}.json", document, encoding)


def read_reasonseg(root: Path) -> Dataset:
    return read_dataset("reasonseg", root, "val")


def test_sentences(tmp_path: Path) -> None:
    write_reasonseg(tmp_path, REASONING)
    dataset = read_reasonseg(tmp_path)
    assert (dataset.name, dataset.metric, len(dataset)) == ("reasonseg", "giou", 2)
    first, second = dataset
    assert (first.name, first.media, first.instruction.task) == ("reasonseg/val/one/0", "image", "reasoning")
    assert (first.instruction.question, second.instruction.question) == ("Where could it sleep?", "Welches Möbel?")
    assert first.tags == {"long"}
    assert len(first.targets) == 1


def test_smaller_shapes_lie_on_larger_ones(tmp_path: Path) -> None:
    write_reasonseg(tmp_path, REASONING)
    example = read_reasonseg(tmp_path)[0]
    hole = rectangle(2, 2, 7, 9) & ~rectangle(3, 3, 5, 6)
    np.testing.assert_array_equal(example.targets[0].masks[0], rectangle(0, 0, 9, 11) & ~hole)
    assert isinstance(example, AnnotatedExample)
    assert example.ignored is not None
    np.testing.assert_array_equal(example.ignored[0], hole)


def test_phrases_are_asked_for_as_phrases(tmp_path: Path) -> None:
    write_reasonseg(tmp_path, {"text": ["the bed"], "is_sentence": False, "shapes": [shape("Bed", box(1, 1, 3, 3))]})
    (example,) = read_reasonseg(tmp_path)
    assert (example.instruction.phrases, example.instruction.question) == (("the bed",), None)
    assert example.tags == {"short"}
    np.testing.assert_array_equal(example.targets[0].masks[0], rectangle(1, 1, 3, 3))
    assert isinstance(example, AnnotatedExample)
    assert example.ignored is None


def test_files_in_the_encoding_of_windows(tmp_path: Path) -> None:
    write_reasonseg(tmp_path, REASONING, encoding="cp1252")
    assert read_reasonseg(tmp_path)[1].instruction.question == "Welches Möbel?"


def test_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_reasonseg(tmp_path, {**REASONING, "text": [name]}, name)
    assert [sample.name for sample in read_reasonseg(tmp_path).samples] == ["reasonseg/val/a/0", "reasonseg/val/b/0"]


def test_an_image_without_json(tmp_path: Path) -> None:
    write_reasonseg(tmp_path, REASONING)
    write_frame(tmp_path / "val" / "two.jpg", 2)
    with pytest.raises(DataError, match=r"two\.json: cannot be read .*each image has one"):
        read_reasonseg(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": []}, "no text, or an empty one"),
        ({"text": ["a", " "]}, "no text, or an empty one"),
        ({"shapes": [shape("target", [[1, 2], [3, 4]])]}, "a shape of 2 points"),
        ({"shapes": [shape("target", [[1, 2], [3, 4], [5]])]}, "ValueError"),
        ({"shapes": [shape("target", [[1, 2], [3, 4], [5, float("inf")]])]}, "OverflowError"),
        ({"shapes": [{"points": []}]}, "KeyError: 'label'"),
        ({"shapes": None}, "TypeError"),
    ],
)
def test_other_shapes(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_reasonseg(tmp_path, {**REASONING, **change})
    with pytest.raises(DataError, match=rf"one\.json: is not in the layout of ReasonSeg .*{message}"):
        read_reasonseg(tmp_path)


def test_parts_are_long_and_short_queries_and_nothing_marked_is_left_out(tmp_path: Path) -> None:
    write_reasonseg(tmp_path, {**REASONING, "is_sentence": False}, "phrases")
    write_reasonseg(tmp_path, REASONING, "sentences")
    write_reasonseg(tmp_path, {**REASONING, "shapes": [shape("ignore", box(2, 2, 7, 9))]}, "nothing")
    (tmp_path / "val" / "phrases.jpg").rename(tmp_path / "val" / "phrases.JPG")
    assert len(read_reasonseg(tmp_path)) == 4
    for part, name in (("short", "phrases"), ("long", "sentences")):
        names = [example.name for example in read_dataset("reasonseg", tmp_path, f"val/{part}")]
        assert names == [f"reasonseg/val/{name}/{number}" for number in range(2)]
    with pytest.raises(DataError, match="reasonseg has no split 'val/medium': the parts are short, long"):
        read_dataset("reasonseg", tmp_path, "val/medium")
