"""Ref-DAVIS17 and Ref-YouTube-VOS, tiny."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made_files import SIZE, rectangle, write_frame, write_indices, write_json
from PIL import Image

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.readers import AnnotatedExample, read_dataset
from x2sam_rt.errors import DataError
from x2sam_rt.runtime.results import FrameResult, Segment, Segmentation
from x2sam_rt.runtime.writers import DavisWriter

FRAMES = ["00000", "00005", "00010"]
EXPRESSIONS = {"0": {"exp": " the dog ", "obj_id": "2"}, "1": {"exp": "ä box", "obj_id": "1"}}


def indices(frame: int) -> npt.NDArray[np.int32]:
    """Object 1 from the second frame on, object 2 always, void in the last."""
    painted = np.zeros(SIZE, dtype=np.int32)
    painted[rectangle(1, frame, 4, frame + 3)] = 2
    if frame:
        painted[rectangle(5, 5, 8, 9)] = 1
    if frame == 2:
        painted[0, 0] = 255
    return painted


@pytest.fixture
def root(tmp_path: Path) -> Path:
    videos = {"dogs": {"frames": FRAMES, "expressions": EXPRESSIONS}}
    for split in ("train", "valid"):
        write_json(tmp_path / "meta_expressions" / split / "meta_expressions.json", {"videos": videos})
        for number, frame in enumerate(FRAMES):
            write_frame(tmp_path / split / "JPEGImages" / "dogs" / f"{frame}.jpg", number)
            if split == "train":
                write_indices(tmp_path / split / "Annotations" / "dogs" / f"{frame}.png", indices(number))
    return tmp_path


def read(root: Path, split: str = "train") -> Dataset:
    return read_dataset("ref-youtube-vos", root, split)


@pytest.mark.parametrize("name", ["ref-youtube-vos", "ref-davis17"])
def test_each_expression_is_an_example(root: Path, name: str) -> None:
    dataset = read_dataset(name, root, "train")
    assert (dataset.name, dataset.metric, len(dataset)) == (name, "j_and_f", 2)
    first, second = dataset
    assert (first.name, first.media, first.instruction.phrases) == (f"{name}/train/dogs/0", "video", ("the dog",))
    assert (first.instruction.task, second.instruction.phrases, first.conditions) == ("referring", ("ä box",), 1)
    for number in range(3):
        np.testing.assert_array_equal(first.targets[0].masks[number], indices(number) == 2)
        np.testing.assert_array_equal(second.targets[0].masks[number], indices(number) == 1)
        wanted = write_frame(root / "again.png", number)
        np.testing.assert_array_equal(first.frames[number], wanted)
    assert isinstance(first, AnnotatedExample)
    assert first.ignored is not None
    assert np.argwhere(first.ignored).tolist() == [[2, 0, 0]]
    assert first.targets[0].id == 2


def test_what_the_davis_writer_wrote_is_read_back(root: Path) -> None:
    """Its object numbers are ids + 1."""
    (root / "train" / "Annotations" / "dogs").rename(root / "old")
    with DavisWriter(root / "train" / "Annotations", "dogs") as writer:
        for number in range(3):
            masks = {id: indices(number) == id + 1 for id in (0, 1)}
            map = np.where(masks[0], 0, np.where(masks[1], 1, -1)).astype(np.int32)
            segments = tuple(Segment(mask, "it", 0, 1.0, id) for id, mask in masks.items())
            result = FrameResult(int(FRAMES[number]), Segmentation(segments, map, -1), "")
            writer.write(np.zeros((*SIZE, 3), dtype=np.uint8), result)
    first, second = read(root)
    for number in range(3):
        np.testing.assert_array_equal(first.targets[0].masks[number], indices(number) == 2)
        np.testing.assert_array_equal(second.targets[0].masks[number], indices(number) == 1)


def test_a_split_without_masks(root: Path) -> None:
    with pytest.raises(DataError, match=r"valid: has no Annotations folder.*no ground truth"):
        read(root, "valid")
    (root / "valid" / "Annotations").mkdir()
    expressions = {"0": {"exp": "the dog"}}
    document = {"videos": {"dogs": {"frames": FRAMES, "expressions": expressions}}}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", document)
    with pytest.raises(DataError, match="valid/dogs/0: does not say which object"):
        read(root, "valid")


def test_pixels_are_read_only_when_asked_for(root: Path) -> None:
    dataset = read(root)
    (root / "train" / "JPEGImages" / "dogs" / "00005.jpg").unlink()
    with pytest.raises(DataError, match=r"Example ref-youtube-vos/train/dogs/1: .*00005\.jpg: no such file"):
        dataset[1]


def test_damaged_masks(root: Path) -> None:
    dataset, path = read(root), root / "train" / "Annotations" / "dogs" / "00010.png"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no image", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"Example ref-youtube-vos/train/dogs/0: .*00010\.png"):
            dataset[0]
    Image.new("RGB", SIZE[::-1]).save(path)
    with pytest.raises(DataError, match=r"00010\.png is a RGB image; wanted an indexed"):
        dataset[0]
    write_indices(path, np.zeros((SIZE[0], SIZE[1] + 1), dtype=np.int32))
    with pytest.raises(DataError, match=r"00010\.png is 14×9 pixels; wanted 13×9"):
        dataset[0]


def test_frames_of_two_sizes(root: Path) -> None:
    write_frame(root / "train" / "JPEGImages" / "dogs" / "00005.jpg", 1, (SIZE[0] + 2, SIZE[1]))
    with pytest.raises(DataError, match=r"00005\.jpg is 13×11 pixels"):
        read(root)[0]


def test_an_object_that_is_nowhere(root: Path) -> None:
    for frame in FRAMES:
        write_indices(root / "train" / "Annotations" / "dogs" / f"{frame}.png", np.full(SIZE, 3))
    with pytest.raises(DataError, match=r"object 2 is in none of .*dogs; there are \[3\]"):
        read(root)[0]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "KeyError: 'videos'"),
        ([], "not in the layout of ref-youtube-vos"),
        ({"videos": {"dogs": {"expressions": EXPRESSIONS}}}, "KeyError: 'frames'"),
        ({"videos": {"dogs": {"frames": [], "expressions": {"0": {"exp": " ", "obj_id": 1}}}}}, "expression is empty"),
        ({"videos": {"dogs": {"frames": [], "expressions": {"0": {"exp": "a", "obj_id": "x"}}}}}, "ValueError"),
        ({"videos": {}}, "no examples"),
    ],
)
def test_other_documents(root: Path, document: object, message: str) -> None:
    write_json(root / "meta_expressions" / "train" / "meta_expressions.json", document)
    with pytest.raises(DataError, match=message):
        read(root)


def test_no_json(root: Path) -> None:
    (root / "meta_expressions" / "train" / "meta_expressions.json").write_text('{"videos": {')
    with pytest.raises(DataError, match=r"meta_expressions\.json: is not JSON"):
        read(root)


def test_a_video_without_frames(root: Path) -> None:
    document = {"videos": {"dogs": {"frames": [], "expressions": EXPRESSIONS}}}
    write_json(root / "meta_expressions" / "train" / "meta_expressions.json", document)
    with pytest.raises(DataError, match="lists no frames"):
        read(root)[0]
