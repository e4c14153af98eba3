"""COCO-Interactive, COCO-VGD, V-VGD and YouTube-VOS, tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_files import packed, rectangle, write_frame, write_indices, write_json
from scipy import ndimage

from x2sam_rt.data.readers import PromptedExample, read_dataset
from x2sam_rt.errors import DataError

SIZE = (40, 50)
NOTHING = rectangle(0, 0, 0, 0, SIZE)
CAT, DOG = rectangle(2, 2, 20, 20, SIZE), rectangle(22, 5, 38, 40, SIZE)
PROMPTS = {
    kind: rectangle(3, 3 + place, 6, 8 + place, SIZE) for place, kind in enumerate(("point", "scribble", "box", "mask"))
}


def interactive(id: int, mask: Any, **other: Any) -> dict[str, Any]:
    prompts = {f"{kind}_visual_prompt_mask": packed(prompt) for kind, prompt in {**PROMPTS, **other}.items()}
    return {"id": id, "segmentation": packed(mask), "category_id": 17, **prompts}


def write_interactive(root: Path, folder: str) -> None:
    entry = {
        "image": "one.jpg",
        "image_info": {"id": 9, "file_name": "one.jpg", "height": SIZE[0], "width": SIZE[1]},
        "new_img_id": 0,
        "anns": [interactive(4, CAT), interactive(5, DOG, scribble=NOTHING), interactive(6, DOG)],
    }
    write_json(root / folder / "coco_interactive_val_psalm.json", [entry])
    write_frame(root / "val2017" / "one.jpg", 1, SIZE)


@pytest.mark.parametrize("folder", ["", "annotations"])
def test_one_object_under_one_prompt(tmp_path: Path, folder: str) -> None:
    write_interactive(tmp_path, folder)
    thick = {"point": 10, "scribble": 5}
    for kind, prompt in PROMPTS.items():
        examples = list(read_dataset("coco-interactive", tmp_path, f"val/{kind}"))
        names = [example.name for example in examples]
        numbers = (0, 2) if kind == "scribble" else (0, 1, 2)
        assert names == [f"coco-interactive/val/9/{number}" for number in numbers]
        first = examples[0]
        assert (first.instruction.task, first.conditions, first.targets[0].id) == ("interactive", 1, 4)
        np.testing.assert_array_equal(first.targets[0].masks[0], CAT)
        if kind in thick:
            reach = np.hypot(*np.mgrid[-thick[kind] : thick[kind] + 1, -thick[kind] : thick[kind] + 1])
            prompt = ndimage.binary_dilation(prompt, reach <= thick[kind])
        np.testing.assert_array_equal(first.instruction.regions[0].mask(*SIZE), prompt)


def annotation(id: int, category: int, mask: Any, **other: Any) -> dict[str, Any]:
    prompts = {f"{kind}_visual_prompt": packed(prompt) for kind, prompt in {**PROMPTS, **other}.items()}
    entry = {"id": id, "segmentation": packed(mask), "category_id": category, "iscrowd": 0, "visual_prompts": prompts}
    return {**entry, "bbox": [0.0, 0.0, SIZE[1], SIZE[0]], "bbox_mode": 0}


def test_objects_of_an_image(tmp_path: Path) -> None:
    annotations = [annotation(7, 90, CAT), annotation(8, 18, DOG, point=NOTHING), annotation(9, 17, DOG)]
    entries = [
        {"image_file": "one.jpg", "image_id": 1, "image_size": list(SIZE), "annotations": annotations},
        {"image_file": "two.jpg", "image_id": 2, "image_size": list(SIZE), "annotations": annotations[1:2]},
    ]
    root = tmp_path / "img_vgdseg" / "coco_vgd"
    write_json(root / "annotations" / "img_vgdseg_coco_val.json", entries)
    write_frame(root / "coco2017" / "val2017" / "one.jpg", 1, SIZE)
    (example,) = read_dataset("coco-vgd", tmp_path, "val/point")
    assert isinstance(example, PromptedExample)
    assert [(target.id, target.condition) for target in example.targets] == [(7, 0), (9, 1)]
    assert example.categories == (79, 15), "places among the 80"
    np.testing.assert_array_equal(example.instruction.regions[0].mask(*SIZE), PROMPTS["point"])
    assert len(read_dataset("coco-vgd", tmp_path, "val/box")) == 2


def write_vgd(root: Path, frames: list[list[dict[str, Any]]], **more: Any) -> None:
    files = [f"v/{number}.jpg" for number in range(len(frames))]
    video = {"video_id": 3, "image_files": files, "image_sizes": [list(SIZE)] * len(files), "annotations": frames}
    write_json(root / "annotations" / "vid_vgdseg_yt19_val.json", [{**video, **more}])
    for number, file in enumerate(files):
        write_frame(root / "ytvis19" / "valid" / "JPEGImages" / file, number, SIZE)


def test_objects_of_a_video(tmp_path: Path) -> None:
    """The second comes later; a prompt that is empty is replaced by the object's mask."""
    frames = [
        [annotation(100, 2, CAT)],
        [annotation(101, 2, CAT, point=NOTHING), annotation(201, 1, DOG, point=NOTHING)],
        [annotation(202, 1, DOG)],
    ]
    write_vgd(tmp_path, frames)
    (example,) = read_dataset("v-vgd-yt19", tmp_path, "val/point")
    assert isinstance(example, PromptedExample)
    assert [(target.id, target.condition) for target in example.targets] == [(1, 0), (2, 1)]
    assert example.categories == (1, 0)
    np.testing.assert_array_equal(example.targets[0].masks, [CAT, CAT, NOTHING])
    np.testing.assert_array_equal(example.targets[1].masks, [NOTHING, DOG, DOG])
    assert [region.frame for region in example.instruction.regions] == [0, 1]
    np.testing.assert_array_equal(example.instruction.regions[1].mask(*SIZE), DOG)
    assert {frame: sorted(on) for frame, on in example.prompts.items()} == {0: [1], 1: [1, 2], 2: [2]}
    np.testing.assert_array_equal(example.prompts[1][1].mask(*SIZE), CAT)
    np.testing.assert_array_equal(example.prompts[2][2].mask(*SIZE), PROMPTS["point"])


def test_without_a_part_each_object_has_a_prompt_of_a_kind_drawn_once(tmp_path: Path) -> None:
    frames = [[annotation(100 * object, 1, CAT, box=NOTHING) for object in range(1, 30)]] * 2
    write_vgd(tmp_path, frames)
    (example,) = read_dataset("v-vgd-yt19", tmp_path, "val")
    kinds = {
        next(kind for kind, prompt in PROMPTS.items() if np.array_equal(prompt, region.mask(*SIZE)))
        for region in example.instruction.regions
    }
    assert kinds == {"point", "scribble", "mask"}


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([[annotation(100, 41, CAT)]] * 2, "there is no category 41 in its data set"),
        ([[annotation(100, 4, CAT[:30])]] * 2, "object 1, frame 0: a mask of size"),
        ([[annotation(100, 4, CAT, box=CAT[:30])]] * 2, "prompt of object 1: a mask of size"),
    ],
)
def test_wrong_annotations(tmp_path: Path, frames: Any, message: str) -> None:
    write_vgd(tmp_path, frames)
    with pytest.raises(DataError, match=f"Example v-vgd-yt19/val/3: .*{message}"):
        read_dataset("v-vgd-yt19", tmp_path, "val/box")[0]


def test_frames_and_annotations_must_be_as_many(tmp_path: Path) -> None:
    write_vgd(tmp_path, [[annotation(100, 4, CAT)]], image_files=["v/0.jpg", "v/1.jpg"])
    with pytest.raises(DataError, match=r"not in the layout of V-VGD .*2 frames, annotations of 1"):
        read_dataset("v-vgd-yt19", tmp_path, "val/box")


def write_video_objects(root: Path) -> None:
    objects = {
        "1": {"category": "gaint_panda", "frames": ["00000"]},
        "5": {"category": "small_panda", "frames": ["00005"]},
    }
    write_json(root / "valid" / "meta.json", {"videos": {"v": {"objects": objects}}})
    for number, frame in enumerate(("00000", "00005", "00010")):
        write_frame(root / "valid" / "JPEGImages" / "v" / f"{frame}.jpg", number, SIZE)
        labels = CAT * 1 + (DOG * 5 if number else 0)
        write_indices(root / "valid" / "Annotations" / "v" / f"{frame}.png", np.asarray(labels))


def test_each_object_of_a_video_is_an_example(tmp_path: Path) -> None:
    write_video_objects(tmp_path / "vid_objseg" / "ytvos19")
    early, late = read_dataset("youtube-vos", tmp_path, "valid")
    assert (early.name, late.name) == ("youtube-vos/valid/v/0", "youtube-vos/valid/v/1")
    assert (early.instruction.task, early.tags, late.tags) == ("object", {"seen"}, {"unseen"})
    assert (late.targets[0].id, late.instruction.regions[0].frame) == (5, 1)
    np.testing.assert_array_equal(late.instruction.regions[0].mask(*SIZE), DOG)
    np.testing.assert_array_equal(late.targets[0].masks, [NOTHING, DOG, DOG])
    (unseen,) = read_dataset("youtube-vos", tmp_path, "valid/unseen")
    assert unseen.name == late.name


def test_public_masks_of_first_frames_are_too_few(tmp_path: Path) -> None:
    write_video_objects(tmp_path)
    dataset = read_dataset("youtube-vos", tmp_path, "valid")
    for frame in ("00005", "00010"):
        (tmp_path / "valid" / "Annotations" / "v" / f"{frame}.png").unlink()
    with pytest.raises(DataError, match=r"valid/v/0: 2 of 3 frames have no mask, the first is .*00005\.png"):
        dataset[0]
