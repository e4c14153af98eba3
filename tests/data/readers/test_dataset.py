"""The table of readers, and what a data set refuses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers import READERS, AnnotatedExample, read_dataset
from x2sam_rt.errors import DataError
from x2sam_rt.tasks.instruction import Instruction


@dataclass(frozen=True)
class Counted:
    name: str

    def load(self) -> Example:
        frames = np.full((1, 2, 3, 3), len(self.name), dtype=np.uint8)
        return Example(self.name, "image", frames, Instruction(phrases=("it",)), 1, ())


def annotated(**given: object) -> AnnotatedExample:
    frames = np.zeros((2, 3, 4, 3), dtype=np.uint8)
    return AnnotatedExample("one", "video", frames, Instruction(phrases=("it",)), 2, **{"targets": (), **given})  # type: ignore[arg-type]


def test_examples_are_loaded_by_number() -> None:
    dataset = Dataset("some", "giou", (Counted("a"), Counted("bc")))
    assert len(dataset) == 2
    assert dataset[1].frames[0, 0, 0, 0] == 2
    assert [example.name for example in dataset] == ["a", "bc"]


def test_a_data_set_needs_examples_of_different_names() -> None:
    with pytest.raises(DataError, match="no examples"):
        Dataset("some", "giou", ())
    with pytest.raises(DataError, match="two examples are called a"):
        Dataset("some", "giou", (Counted("a"), Counted("b"), Counted("a")))


def test_unknown_readers_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no reader for 'coco'.* There are coco-panoptic, "):
        read_dataset("coco", tmp_path, "val")
    with pytest.raises(DataError, match="no such folder"):
        read_dataset("vipseg", tmp_path / "nowhere", "val")


@pytest.mark.parametrize("name", READERS)
def test_an_empty_folder_is_reported_with_its_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        read_dataset(name, tmp_path, "val")


def test_what_an_annotated_example_refuses() -> None:
    assert annotated(ignored=np.zeros((2, 3, 4), dtype=np.bool_)).crowds == ()
    with pytest.raises(DataError, match=r"one: ignored is \(2, 3, 5\) bool"):
        annotated(ignored=np.zeros((2, 3, 5), dtype=np.bool_))
    with pytest.raises(DataError, match=r"one: ignored is .* uint8"):
        annotated(ignored=np.zeros((2, 3, 4), dtype=np.uint8))
    for crowd in (Target(2, np.zeros((2, 3, 4), dtype=np.bool_), 7), Target(0, np.zeros((1, 3, 4), dtype=np.bool_), 7)):
        with pytest.raises(DataError, match="one: crowd 7 has masks"):
            annotated(crowds=(crowd,))
    with pytest.raises(DataError, match="target 7 belongs to condition 3"):
        annotated(targets=(Target(3, np.zeros((2, 3, 4), dtype=np.bool_), 7),))
