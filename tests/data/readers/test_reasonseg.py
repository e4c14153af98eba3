"""ReasonSeg, tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import rectangle, write_frame, write_json

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.readers import AnnotatedExample, read_dataset
from x2sam_rt.errors import DataError


def box(top: int, left: int, bottom: int, right: int) -> list[list[float]]:
    """The outline through the middle of a rectangle's outer pixels."""
    return [[left, top], [right - 1, top], [right - 1, bottom - 1], [left, bottom - 1.0]]


def shape(label: str, points: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": "polygon"}


DOCUMENT = {
    "text": ["Where could it sleep?", "Welches Möbel?"],
    "is_sentence": True,
    "shapes": [
        shape("target", box(3, 3, 5, 6)),
        shape("ignore", box(2, 2, 7, 9)),
        shape("flag", box(0, 0, 9, 13)),
        shape("target", box(0, 0, 9, 11)),
    ],
}


def write(root: Path, document: Any, name: str = "one", encoding: str = "utf-8") -> None:
    write_frame(root / "val" / f"{name}.jpg", 2)
    write_json(root / "val" / f"{name}.json", document, encoding)


def read(root: Path) -> Dataset:
    return read_dataset("reasonseg", root, "val")


def test_sentences(tmp_path: Path) -> None:
    write(tmp_path, DOCUMENT)
    dataset = read(tmp_path)
    assert (dataset.name, dataset.metric, len(dataset)) == ("reasonseg", "giou", 2)
    first, second = dataset
    assert (first.name, first.media, first.instruction.task) == ("reasonseg/val/one/0", "image", "reasoning")
    assert (first.instruction.question, second.instruction.question) == ("Where could it sleep?", "Welches Möbel?")
    assert first.tags == {"long query"}
    assert len(first.targets) == 1


def test_smaller_shapes_lie_on_larger_ones(tmp_path: Path) -> None:
    write(tmp_path, DOCUMENT)
    example = read(tmp_path)[0]
    hole = rectangle(2, 2, 7, 9) & ~rectangle(3, 3, 5, 6)
    np.testing.assert_array_equal(example.targets[0].masks[0], rectangle(0, 0, 9, 11) & ~hole)
    assert isinstance(example, AnnotatedExample)
    assert example.ignored is not None
    np.testing.assert_array_equal(example.ignored[0], hole)


def test_phrases_become_questions(tmp_path: Path) -> None:
    write(tmp_path, {"text": ["the bed"], "is_sentence": False, "shapes": [shape("Bed", box(1, 1, 3, 3))]})
    (example,) = read(tmp_path)
    assert example.instruction.question == "What is the bed in this image?"
    assert example.tags == {"short query"}
    np.testing.assert_array_equal(example.targets[0].masks[0], rectangle(1, 1, 3, 3))
    assert isinstance(example, AnnotatedExample)
    assert example.ignored is None


def test_files_in_the_encoding_of_windows(tmp_path: Path) -> None:
    write(tmp_path, DOCUMENT, encoding="cp1252")
    assert read(tmp_path)[1].instruction.question == "Welches Möbel?"


def test_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path, {**DOCUMENT, "text": [name]}, name)
    assert [sample.name for sample in read(tmp_path).samples] == ["reasonseg/val/a/0", "reasonseg/val/b/0"]


def test_an_image_without_json(tmp_path: Path) -> None:
    write(tmp_path, DOCUMENT)
    write_frame(tmp_path / "val" / "two.jpg", 2)
    with pytest.raises(DataError, match=r"two\.json: cannot be read .*each image has one"):
        read(tmp_path)


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
def test_other_documents(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write(tmp_path, {**DOCUMENT, **change})
    with pytest.raises(DataError, match=rf"one\.json: is not in the layout of ReasonSeg .*{message}"):
        read(tmp_path)
