"""COCO, VIPSeg, VSPW and ADE20K, tiny; and our own panoptic output read as COCO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_files import SIZE, packed, rectangle, write_frame, write_ids, write_indices, write_json

from x2sam_rt.data.readers import AnnotatedExample, read_dataset
from x2sam_rt.data.readers.ade20k import ade20k_categories
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
    assert (dataset.metric, dataset.things, dataset.stuff) == ("panoptic_image", ("cat", "dog"), ("grass",))
    (example,) = dataset
    assert (example.name, example.media, example.instruction.task) == ("coco-panoptic/val/17", "image", "panoptic")
    assert (example.instruction.things, example.instruction.stuff, example.conditions) == (
        ("cat", "dog"),
        ("grass",),
        3,
    )
    assert [(target.id, target.condition) for target in example.targets] == [(GRASS, 2), (DOG, 1)]
    for target in example.targets:
        np.testing.assert_array_equal(target.masks, ids()[None] == target.id)
    assert isinstance(example, AnnotatedExample)
    assert [(crowd.id, crowd.condition) for crowd in example.crowds] == [(CROWD, 0)]
    np.testing.assert_array_equal(example.frames[0], write_frame(coco / "again.png", 1))


def test_a_video(vipseg: Path) -> None:
    dataset = read_dataset("vipseg", vipseg, "val")
    assert (dataset.metric, dataset.things, dataset.stuff) == ("panoptic_video", ("cat", "dog"), ("grass",))
    (example,) = dataset
    assert (example.name, example.media, example.frames.shape) == ("vipseg/val/v1", "video", (2, *SIZE, 3))
    dog = next(target for target in example.targets if target.id == DOG)
    np.testing.assert_array_equal(dog.masks, [ids(0) == DOG, ids(1) == DOG])


def test_what_the_panoptic_writer_wrote_is_read_back(tmp_path: Path) -> None:
    map = np.where(rectangle(0, 0, 4, 13), 3, 1).astype(np.int32)
    map[8, 12] = 0
    segments = tuple(
        Segment(map == id, label, place, 0.5, id, is_thing)
        for place, (id, label, is_thing) in enumerate([(3, "schaf", True), (1, "grass", False)])
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
    assert set(read) == {"schaf", "grass"}
    np.testing.assert_array_equal(read["schaf"], map == 3)
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


def test_maps_may_lie_beside_the_annotations_as_x2sam_has_them(coco: Path) -> None:
    home = coco / "datas" / "img_genseg" / "coco2017"
    for folder in ("annotations", "val"):
        home.mkdir(parents=True, exist_ok=True)
        (coco / folder).rename(home / folder)
    (home / "annotations" / "panoptic_val").rename(home / "panoptic_val")
    (example,) = read_dataset("coco-panoptic", coco / "datas", "val")
    assert [target.id for target in example.targets] == [GRASS, DOG]


def test_names_and_their_order(coco: Path) -> None:
    categories = [
        {"id": 5, "name": "floor-other-merged", "isthing": 0},
        {"id": 9, "name": "Traffic_light", "isthing": 1},
        {"id": 2, "name": "window-blind", "isthing": 1},
    ]
    write_coco(coco, SEGMENTS, categories=categories)
    dataset = read_dataset("coco-panoptic", coco, "val")
    assert (dataset.things, dataset.stuff) == (("window blind", "traffic light"), ("floor other",))
    assert dataset.order == (0, 2, 1)


def test_segments_together_by_category(coco: Path) -> None:
    """Crowds count; in the order of the ids."""
    dataset = read_dataset("coco-semantic", coco, "val")
    assert (dataset.metric, dataset.things, dataset.stuff) == ("semantic", ("cat", "grass", "dog"), ())
    (example,) = dataset
    assert example.instruction.task == "semantic"
    masks = {dataset.things[target.condition]: target.masks[0] for target in example.targets}
    for name, id in (("cat", CROWD), ("grass", GRASS), ("dog", DOG)):
        np.testing.assert_array_equal(masks[name], ids() == id)


def test_many_segments_are_held_as_one_map(vipseg: Path) -> None:
    (example,) = read_dataset("vipseg", vipseg, "val")
    assert len({id(target.masks.ids) for target in example.targets}) == 1  # type: ignore[attr-defined]


NUMBERS = {"others": 0, "Playground_slide": 2, "wall": 1, "table_or_desk": 3}


def vspw_labels(frame: int) -> npt.NDArray[np.int32]:
    painted = np.full(SIZE, 3, dtype=np.int32)
    painted[rectangle(1, 1 + frame, 5, 6 + frame)] = 1
    painted[:, 0], painted[0, 1:4] = 255, (0, 254, 253)
    return painted


@pytest.mark.parametrize(
    ("images", "masks"),
    [("data/{}/origin", "data/{}/mask"), ("images/{}", "semmasks/{}")],
    ids=["official", "x2sam"],
)
def test_semantic_videos(tmp_path: Path, images: str, masks: str) -> None:
    (tmp_path / "val.txt").write_text("v1\n")
    write_json(tmp_path / "label_num_dic_final.json", NUMBERS)
    for frame in range(2):
        write_frame(tmp_path / images.format("v1") / f"{frame:08d}.JPG", frame)
        write_indices(tmp_path / masks.format("v1") / f"{frame:08d}.png", vspw_labels(frame))
    dataset = read_dataset("vspw", tmp_path, "val")
    assert (dataset.metric, dataset.things) == ("semantic_video", ("wall", "playground slide", "table or desk"))
    (example,) = dataset
    assert [(target.condition, int(target.masks[:].sum())) for target in example.targets] == [
        (0, 40),
        (2, 2 * SIZE[0] * SIZE[1] - 40 - 2 * (SIZE[0] + 3)),
    ]
    assert isinstance(example, AnnotatedExample)
    assert example.raw_labels is not None
    assert example.raw_labels.dtype == np.uint8
    np.testing.assert_array_equal(example.raw_labels, [vspw_labels(0), vspw_labels(1)])


def test_labels_of_no_category(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("v1\nv2\n")
    write_json(tmp_path / "label_num_dic_final.json", NUMBERS)
    write_frame(tmp_path / "images" / "v1" / "1.jpg", 1)
    write_indices(tmp_path / "semmasks" / "v1" / "1.png", np.full(SIZE, 4))
    with pytest.raises(DataError, match=r"vspw/val/v2: .*v2 holds no frames"):
        read_dataset("vspw", tmp_path, "val")
    (tmp_path / "val.txt").write_text("v1\n")
    with pytest.raises(DataError, match=r"vspw/val/v1: .*1\.png: the labels \[4\] are of no category"):
        read_dataset("vspw", tmp_path, "val")[0]


# ADE20K's numbers from 0: wall and building are stuff; bed (the 1st thing) and person (the 4th) are things.
WALL, BUILDING, BED, PERSON = 0, 1, 7, 12


def scene() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The official maps: categories from 1, and things (R) with instances (G)."""
    semantic = np.full(SIZE, WALL + 1, dtype=np.int32)
    semantic[0] = 0
    semantic[rectangle(1, 1, 5, 5)] = BED + 1
    semantic[rectangle(6, 6, 9, 12)] = PERSON + 1
    semantic[8, 0] = BUILDING + 1
    instances = np.zeros(SIZE, dtype=np.int32)
    instances[rectangle(1, 1, 5, 5)] = 1 + (3 << 8)
    instances[rectangle(6, 6, 9, 9)] = 4 + (1 << 8)
    instances[rectangle(6, 9, 9, 12)] = 4 + (2 << 8)
    return semantic, instances


@pytest.fixture
def ade20k(tmp_path: Path) -> Path:
    semantic, instances = scene()
    write_frame(tmp_path / "images" / "validation" / "one.jpg", 4)
    write_indices(tmp_path / "annotations" / "validation" / "one.png", semantic)
    write_ids(tmp_path / "annotations_instance" / "validation" / "one.png", instances)
    return tmp_path


def named(name: str, root: Path) -> dict[tuple[str, int], npt.NDArray[np.bool_]]:
    dataset = read_dataset(name, root, "val")
    names = dataset.things + dataset.stuff
    (example,) = dataset
    assert example.instruction.things + example.instruction.stuff == names
    return {(names[target.condition], target.id): target.masks[0] for target in example.targets}


def test_scenes_as_published(ade20k: Path) -> None:
    semantic, instances = scene()
    segments = named("ade20k-panoptic", ade20k)
    assert set(segments) == {("bed", 3), ("person", 1), ("person", 2), ("wall", 1000), ("building", 1001)}
    np.testing.assert_array_equal(segments["person", 2], instances >> 8 == 2)
    np.testing.assert_array_equal(segments["wall", 1000], semantic == WALL + 1)
    things = named("ade20k-instance", ade20k)
    assert set(things) == {("bed", 3), ("person", 1), ("person", 2)}
    by_category = named("ade20k-semantic", ade20k)
    assert set(by_category) == {("wall", WALL), ("building", BUILDING), ("bed", BED), ("person", PERSON)}
    np.testing.assert_array_equal(by_category["person", PERSON], semantic == PERSON + 1)


def test_scenes_as_mask2former_s_scripts_convert_them(ade20k: Path) -> None:
    semantic, instances = scene()
    official = {task: named(f"ade20k-{task}", ade20k) for task in ("semantic", "instance")}
    write_indices(ade20k / "annotations_detectron2" / "validation" / "one.png", (semantic - 1) % 256)
    things = [{"id": BED, "name": "bed"}, {"id": PERSON, "name": "person"}]
    annotations = [
        {"id": id, "image_id": "one", "category_id": kind, "iscrowd": 0, "segmentation": packed(instances >> 8 == id)}
        for id, kind in ((3, BED), (1, PERSON), (2, PERSON))
    ]
    images = [{"id": "one", "file_name": "one.jpg"}]
    converted = {"images": images, "annotations": annotations, "categories": things}
    write_json(ade20k / "ade20k_instance_val.json", converted)
    for name in ("annotations", "annotations_instance"):
        (ade20k / name).rename(ade20k / f"old_{name}")
    for task, wanted in official.items():
        found = named(f"ade20k-{task}", ade20k)
        assert set(found) == set(wanted)
        for key, mask in wanted.items():
            np.testing.assert_array_equal(found[key], mask)


def test_scenes_in_coco_s_panoptic_form(ade20k: Path) -> None:
    """Their list names the photograph where the map's name should stand."""
    write_ids(ade20k / "ade20k_panoptic_val" / "one.png", np.where(rectangle(1, 1, 4, 4), 9, 70_000).astype(np.int32))
    segments = [{"id": 9, "category_id": 12, "iscrowd": 0}, {"id": 70_000, "category_id": 0, "iscrowd": 0}]
    document = {
        "images": [{"id": "one", "file_name": "one.jpg"}],
        "annotations": [{"image_id": "one", "file_name": "one.jpg", "segments_info": segments}],
        "categories": [{"id": 0, "name": "wall", "isthing": 0}, {"id": 12, "name": "person", "isthing": 1}],
    }
    write_json(ade20k / "ade20k_panoptic_val.json", document)
    assert set(named("ade20k-panoptic", ade20k)) == {("person", 9), ("wall", 70_000)}


def test_scene_categories_are_those_that_were_published() -> None:
    categories = ade20k_categories()
    assert (len(categories.things), len(categories.stuff)) == (100, 50)
    listed = categories.of_one_kind().things
    assert (listed[:7], listed[-1]) == (("wall", "building", "sky", "floor", "tree", "ceiling", "road, route"), "flag")
    assert categories.things[:4] == ("bed", "window", "cabinet", "person")


@pytest.mark.parametrize(("kind", "found"), [(101, r"\[101\]"), (0, r"\[0\]")])
def test_instances_of_no_thing(ade20k: Path, kind: int, found: str) -> None:
    write_ids(ade20k / "annotations_instance" / "validation" / "one.png", np.full(SIZE, kind + 256, dtype=np.int32))
    with pytest.raises(DataError, match=rf"instance 1 is of the categories {found}; wanted one, 1 to 100"):
        read_dataset("ade20k-instance", ade20k, "val")[0]
