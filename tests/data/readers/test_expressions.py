"""Ref-DAVIS17, Ref-YouTube-VOS, ReVOS and MeViS, tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_files import SIZE, packed, rectangle, write_frame, write_indices, write_json
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
    with pytest.raises(DataError, match=r"meta_expressions\.json: does not say which objects are meant \(obj_id\)"):
        read(root, "valid")
    document["videos"]["more dogs"] = {"frames": FRAMES, "expressions": EXPRESSIONS}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", document)
    assert [sample.name for sample in read(root, "valid").samples] == [
        f"ref-youtube-vos/valid/more dogs/{number}" for number in (0, 1)
    ]


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


def test_a_file_per_expression_as_x2sam_has_the_valid_split(root: Path) -> None:
    """0 and 255; none where the object is out of sight; scaled where it is of another size."""
    home = root / "datas" / "vid_refseg" / "ytrvos21"
    home.mkdir(parents=True)
    for name in ("meta_expressions", "train", "valid"):
        (root / name).rename(home / name)
    masks = home / "valid" / "Annotations" / "dogs"
    write_indices(masks / "0" / "00000.png", np.where(indices(0) == 2, 255, 0))
    write_indices(masks / "0" / "00010.png", np.full((SIZE[0] * 2, SIZE[1] * 2), 255))
    write_indices(masks / "1" / "00005.png", np.where(indices(1) == 1, 255, 0))
    first, second = read_dataset("ref-youtube-vos", root / "datas", "valid")
    np.testing.assert_array_equal(first.targets[0].masks[0], indices(0) == 2)
    assert not first.targets[0].masks[1].any()
    assert first.targets[0].masks[2].all()
    np.testing.assert_array_equal(np.flatnonzero(second.targets[0].masks[:].any(axis=(1, 2))), [1])


def test_an_expression_without_any_mask(root: Path) -> None:
    write_indices(root / "valid" / "Annotations" / "dogs" / "0" / "00000.png", np.full(SIZE, 255))
    dataset = read(root, "valid")
    with pytest.raises(DataError, match=r"valid/dogs/1: .*dogs/1 holds no mask of its frames"):
        dataset[1]


def test_masks_of_0_and_255_are_explained(root: Path) -> None:
    for number, frame in enumerate(FRAMES):
        write_indices(root / "train" / "Annotations" / "dogs" / f"{frame}.png", np.where(indices(number) == 2, 255, 0))
    with pytest.raises(DataError, match=r"train/dogs/0: .* holds 0 and 255 only.*write 2 where there is 255"):
        read(root)[0]


TEXTS = {
    "Davis17_annot1": 'dogs 1 "a box"\ndogs 2 "the "big" dog"\nother 1 "left out"\n',
    "Davis17_annot1_full_video": 'dogs 2 "the dog all along"\n\n',
    "Davis17_annot2": 'dogs 1 "a box once more"\n',
    "Davis17_annot2_full_video": "",
}


@pytest.mark.parametrize("inner", ["", "DAVIS", "davis_supervised"])
def test_davis_as_published(tmp_path: Path, inner: str) -> None:
    for name, text in TEXTS.items():
        path = tmp_path / "davis_text_annotations" / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    root = tmp_path / inner
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("dogs\n")
    for number, frame in enumerate(FRAMES):
        write_frame(root / "JPEGImages" / "480p" / "dogs" / f"{frame}.jpg", number)
        write_indices(root / "Annotations" / "480p" / "dogs" / f"{frame}.png", indices(number))
    dataset = read_dataset("ref-davis17", tmp_path, "valid")
    asked = [(example.instruction.phrases[0], example.targets[0].id) for example in dataset]
    assert asked == [("a box", 1), ("a box once more", 1), ('the "big" dog', 2), ("the dog all along", 2)]
    assert dataset[3].name == "ref-davis17/valid/dogs/3"
    np.testing.assert_array_equal(dataset[3].targets[0].masks[1], indices(1) == 2)


def test_davis_as_x2sam_has_it(root: Path) -> None:
    """The expressions converted, under "val"; frames and masks as published."""
    home = root / "datas" / "vid_refseg" / "davis17"
    (home / "davis_supervised" / "JPEGImages").mkdir(parents=True)
    (home / "davis_supervised" / "Annotations").mkdir()
    (root / "meta_expressions" / "valid").rename(root / "meta_expressions" / "val")
    (root / "meta_expressions").rename(home / "meta_expressions")
    for kind in ("JPEGImages", "Annotations"):
        (root / "train" / kind).rename(home / "davis_supervised" / kind / "480p")
    first, second = read_dataset("ref-davis17", root / "datas", "valid")
    assert (first.name, first.instruction.phrases) == ("ref-davis17/valid/dogs/0", ("the dog",))
    np.testing.assert_array_equal(second.targets[0].masks[1], indices(1) == 1)


def test_davis_lines_that_are_none(tmp_path: Path) -> None:
    test_davis_as_published(tmp_path, "")
    (tmp_path / "davis_text_annotations" / "Davis17_annot2.txt").write_text('dogs 1 "a box"\ndogs "a box"\n')
    with pytest.raises(DataError, match=r"Davis17_annot2\.txt, line 2: found 'dogs \"a box\"'; wanted a video"):
        read_dataset("ref-davis17", tmp_path, "valid")


TRACKS = {
    "3": [packed(rectangle(0, 0, 3, 3)), None, packed(rectangle(1, 1, 4, 4))],
    "8": [None, packed(rectangle(5, 5, 8, 9)), packed(rectangle(5, 5, 8, 9))],
}
SAYINGS = {
    "0": {"exp": "The dogs. (two)", "anno_id": [3, 8]},
    "1": {"exp": "Which dog barks?", "anno_id": [8]},
}


def write_tracks(root: Path, meta: str, masks: str, images: str, expressions: Any = SAYINGS) -> None:
    write_json(root / meta, {"videos": {"dogs": {"frames": FRAMES, "expressions": expressions}}})
    write_json(root / masks, TRACKS)
    for number, frame in enumerate(FRAMES):
        write_frame(root / images / "dogs" / f"{frame}.jpg", number)


@pytest.mark.parametrize("folder", ["", "annotations/"])
def test_expressions_that_mean_several_objects(tmp_path: Path, folder: str) -> None:
    write_tracks(tmp_path, f"{folder}meta_expressions_valid_.json", f"{folder}mask_dict.json", "JPEGImages")
    several, question = read_dataset("revos", tmp_path, "valid")
    assert (several.instruction.task, several.instruction.phrases, several.tags) == (
        "reasoning",
        ("the dogs",),
        {"referring"},
    )
    assert (question.instruction.phrases, question.instruction.question, question.tags) == (
        (),
        "which dog barks?",
        {"reasoning"},
    )
    assert [target.id for target in several.targets] == [3, 8]
    np.testing.assert_array_equal(several.masks_of(0)[2], rectangle(1, 1, 4, 4) | rectangle(5, 5, 8, 9))
    for part, name in (("referring", "0"), ("reasoning", "1")):
        (example,) = read_dataset("revos", tmp_path, f"valid/{part}")
        assert example.name == f"revos/valid/dogs/{name}"


def test_mevis(tmp_path: Path) -> None:
    root = tmp_path / "valid_u"
    write_tracks(root, "meta_expressions.json", "mask_dict.json", "JPEGImages")
    several, one = read_dataset("mevis", tmp_path, "valid_u")
    assert (several.instruction.task, several.instruction.phrases, several.tags) == (
        "referring",
        ("The dogs. (two)",),
        frozenset(),
    )
    assert [target.id for target in one.targets] == [8]
    (root / "mask_dict.json").unlink()
    with pytest.raises(DataError, match=r"has no masks \(only train and valid_u were published with them\) of mevis"):
        read_dataset("mevis", tmp_path, "valid_u")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ({"exp": "a", "anno_id": [4]}, r"valid/dogs/0: .*mask_dict\.json: has no annotation 4"),
        ({"exp": "a"}, "KeyError: 'anno_id'"),
        ({"exp": "", "anno_id": [3]}, "the expression is empty"),
    ],
)
def test_expressions_about_nothing(tmp_path: Path, expression: dict[str, Any], message: str) -> None:
    write_tracks(tmp_path, "meta_expressions_valid_.json", "mask_dict.json", "JPEGImages", {"0": expression})
    with pytest.raises(DataError, match=message):
        read_dataset("revos", tmp_path, "valid")


def test_tracks_of_another_length(tmp_path: Path) -> None:
    write_tracks(tmp_path, "meta_expressions_valid_.json", "mask_dict.json", "JPEGImages")
    write_json(tmp_path / "mask_dict.json", {**TRACKS, "8": [None]})
    with pytest.raises(DataError, match="annotation 8 has masks for 1 frames; wanted 3"):
        read_dataset("revos", tmp_path, "valid")
