"""V-VGD made from annotations: the published file but for its random prompts, the paper's version, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from made_files import write_frame, write_json, write_vgd_source
from pycocotools import mask as coco_mask

from x2sam_rt.data.make_vgd import SOURCES, Source, VgdPlan, make_vgd, write_synthetic
from x2sam_rt.data.readers import PromptedExample, read_dataset
from x2sam_rt.errors import ConfigError, DataError
from x2sam_rt.media.image import read_image
from x2sam_rt.tasks.regions import PROMPT_KINDS

RECORDINGS = Path(__file__).parents[1] / "fixtures/evaluation"
SIZE = (24, 32)


def recording(source: Source) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RECORDINGS / f"vgd_{source}.json").read_text())
    return document


def write_source(source: Source, root: Path) -> Path:
    return write_vgd_source(source, recording(source), root)


def without_prompts(document: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Their kinds only."""
    for one in (one for video in document for frame in video["annotations"] for one in frame):
        one["visual_prompts"] = sorted(one.get("visual_prompts", ()))
    return document


@pytest.mark.parametrize("source", ["yt19", "vipseg"])
def test_the_released_version_is_the_published_file_but_for_its_random_prompts(source: Source, tmp_path: Path) -> None:
    plan = VgdPlan(source, write_source(source, tmp_path), tmp_path / "out", prompts="every", pictures=0)
    counts = make_vgd(plan)
    made, published = json.loads(plan.file.read_text()), recording(source)["built"]
    assert [list(video) for video in made] == [sorted(video, key=list(made[0]).index) for video in published], (
        "the same keys"
    )
    assert without_prompts(made) == without_prompts(published)
    assert (counts.videos, counts.frames) == (len(published), sum(len(video["image_files"]) for video in published))


@pytest.mark.parametrize("source", ["yt19", "vipseg"])
@pytest.mark.parametrize("prompts", ["first", "every"])
def test_what_was_made_is_read_back(source: Source, prompts: str, tmp_path: Path) -> None:
    plan = VgdPlan(source, write_source(source, tmp_path), tmp_path / "out", prompts=prompts, pictures=3)  # type: ignore[arg-type]
    counts = make_vgd(plan)
    document = json.loads(plan.file.read_text())
    for kind in PROMPT_KINDS:
        dataset = read_dataset(f"v-vgd-{source}", plan.output, f"val/{kind}")
        for video, example in zip(document, dataset, strict=True):
            check_example(video, example, kind, prompts)
    assert counts.prompted == sum(len(example.targets) for example in dataset)
    assert len(counts.pictures) == 3
    assert read_image(counts.pictures[0]).shape == (2 * SIZE[0], 2 * SIZE[1], 3)


def check_example(video: dict[str, Any], example: Any, kind: str, prompts: str) -> None:
    assert isinstance(example, PromptedExample)
    assert (example.instruction.task, example.frames.shape[0]) == ("vgd", len(video["image_files"]))
    assert len(example.instruction.regions) == example.conditions == len(example.targets)
    for target, category, region in zip(example.targets, example.categories, example.instruction.regions, strict=True):
        track = {
            number: one
            for number, frame in enumerate(video["annotations"])
            for one in frame
            if one["id"] // 100 == target.id
        }
        for number in range(len(example.frames)):
            wanted = coco_mask.decode(track[number]["segmentation"]) if number in track else np.zeros(SIZE)
            np.testing.assert_array_equal(target.masks[number], wanted)
        prompted = [number for number, one in track.items() if "visual_prompts" in one]
        assert [frame for frame, on in example.prompts.items() if target.id in on] == prompted
        assert (region.frame, len(prompted)) == (prompted[0], len(track) if prompts == "every" else 1)
        given = coco_mask.decode(track[region.frame]["visual_prompts"][f"{kind}_visual_prompt"])
        given = given if given.any() else coco_mask.decode(track[region.frame]["segmentation"])
        np.testing.assert_array_equal(region.mask(*SIZE), given)
        np.testing.assert_array_equal(example.prompts[region.frame][target.id].mask(*SIZE), given)
        first = next(iter(track.values()))
        assert category == first["category_id"] - (1 if "area" in first else 0)


def test_prompts_depend_on_seed_and_object_alone(tmp_path: Path) -> None:
    root = write_source("yt19", tmp_path)
    texts = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        plan = VgdPlan("yt19", root, tmp_path / folder, seed=seed, pictures=0)
        make_vgd(plan)
        texts.append(plan.file.read_text())
    assert texts[0] == texts[1] != texts[2]
    truth = recording("yt19")["ground_truth"]
    fewer = {**truth, "videos": truth["videos"][1:]}
    write_json(root / "valid" / "instances.json", fewer)
    plan = VgdPlan("yt19", root, tmp_path / "d", pictures=0)
    make_vgd(plan)
    assert json.loads(plan.file.read_text()) == json.loads(texts[0])[1:]


def test_specks_are_prompted_where_they_have_grown_or_never(tmp_path: Path) -> None:
    masks = [np.zeros(SIZE, dtype=np.uint8) for _ in range(3)]
    masks[0][2, 2:5] = 1
    masks[2][4:9, 4:9] = 1
    speck = np.zeros(SIZE, dtype=np.uint8)
    speck[20, 20] = 1

    def rle(mask: Any) -> Any:
        packed = coco_mask.encode(np.asfortranarray(mask))
        return {"size": packed["size"], "counts": packed["counts"].decode()} if mask.any() else None

    entries = [
        {
            "id": id,
            "video_id": 1,
            "category_id": 2,
            "iscrowd": 0,
            "segmentations": list(map(rle, ones)),
            "areas": [3] * 3,
        }
        for id, ones in ((1, masks), (2, [speck] * 3))
    ]
    files = [f"v/{number}.png" for number in range(3)]
    videos = [{"id": 1, "file_names": files, "height": SIZE[0], "width": SIZE[1]}]
    write_json(tmp_path / "valid" / "instances.json", {"videos": videos, "annotations": entries, "categories": []})
    for number, file in enumerate(files):
        write_frame(tmp_path / "valid" / "JPEGImages" / file, number, SIZE)
    counts = make_vgd(VgdPlan("yt19", tmp_path, tmp_path / "out"))
    assert (counts.prompted, counts.unprompted) == (1, 1)
    (example,) = read_dataset("v-vgd-yt19", tmp_path / "out", "val/point")
    assert [region.frame for region in example.instruction.regions] == [2]
    assert [target.id for target in example.targets] == [1]
    assert example.targets[0].masks[0].sum() == 3


def test_things_of_vipseg_whose_number_changes_its_meaning_are_left_out(tmp_path: Path) -> None:
    root = write_source("vipseg", tmp_path)
    document = recording("vipseg")["ground_truth"]
    things = {entry["id"] for entry in document["categories"] if entry["isthing"]}
    frames = document["annotations"][0]["annotations"]
    info = next(one for one in frames[1]["segments_info"] if one["category_id"] in things)
    info["category_id"] = next(iter(things - {info["category_id"]}))
    write_json(root / "panoptic_gt_VIPSeg_val.json", document)
    made = {}
    for prompts in ("first", "every"):
        plan = VgdPlan("vipseg", root, tmp_path / prompts, prompts=prompts, pictures=0)  # type: ignore[arg-type]
        make_vgd(plan)
        (video, *_) = json.loads(plan.file.read_text())
        made[prompts] = {one["id"] // 100 for frame in video["annotations"] for one in frame}
    assert made["every"] - made["first"] == {info["id"]}


def test_the_made_up_world_has_the_benchmark_too(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "synthetic", 2)
    counts = make_vgd(VgdPlan("synthetic", tmp_path / "synthetic", tmp_path, pictures=1))
    assert counts.videos == 2
    for kind in PROMPT_KINDS:
        for example in read_dataset("v-vgd-synthetic", tmp_path, f"val/{kind}"):
            assert example.frames.shape == (8, 128, 128, 3)
            assert len(example.targets) >= 2
            for target, region in zip(example.targets, example.instruction.regions, strict=True):
                assert (region.mask(128, 128) & target.masks[region.frame]).any()
    drawn = list(read_dataset("v-vgd-synthetic", tmp_path, "val"))
    again = list(read_dataset("v-vgd-synthetic", tmp_path, "val"))
    for one, other in zip(drawn, again, strict=True):
        for first, second in zip(one.instruction.regions, other.instruction.regions, strict=True):
            np.testing.assert_array_equal(first.mask(128, 128), second.mask(128, 128))


def test_what_cannot_be_made(tmp_path: Path) -> None:
    assert get_args(Source) == SOURCES
    with pytest.raises(ConfigError, match="V-VGD is made of yt19, vipseg, synthetic, not of 'coco'"):
        VgdPlan("coco", tmp_path, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Prompts on 'all' frames"):
        VgdPlan("yt19", tmp_path, tmp_path, prompts="all")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="0 clips"):
        write_synthetic(tmp_path, 0)
    plan = VgdPlan("yt19", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="has no annotations of youtube-vis19, split 'valid'"):
        make_vgd(plan)
    assert not plan.file.exists()
    write_json(tmp_path / "valid" / "instances.json", {"videos": [], "annotations": [], "categories": []})
    with pytest.raises(DataError, match="no video of the split 'val' has objects on two or more frames"):
        make_vgd(plan)
    assert not plan.file.exists()
