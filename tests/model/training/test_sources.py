"""Data sets as sources: the paper's mixture on tiny folders in X2SAM's layout, prompted clips, masks alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_files import packed, rectangle, write_frame, write_ids, write_json
from recordings import FIXTURES
from typer.testing import CliRunner

from x2sam_rt.cli.app import app
from x2sam_rt.data.example import Target
from x2sam_rt.data.make_vgd import VgdPlan, make_vgd, write_synthetic
from x2sam_rt.data.readers import CaptionedExample, PromptedExample, read_dataset
from x2sam_rt.data.synthetic import corpus
from x2sam_rt.errors import DataError
from x2sam_rt.model.training.curve import read_curve
from x2sam_rt.model.training.finetune import FinetunePlan, Finetuning
from x2sam_rt.model.training.sources import find_sources, make_clips, training_clip
from x2sam_rt.model.training.toy.model import make_tokenizer
from x2sam_rt.model.training.trainer import LOG_FILE
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt

LORA = FIXTURES / "toy_lora"
SIZE = (40, 52)
RED, BLUE = rectangle(4, 4, 20, 20, SIZE), rectangle(22, 24, 36, 48, SIZE)


def write_refcoco(root: Path) -> None:
    home = root / "img_refseg" / "refcocos"
    refs = [
        {"ref_id": id, "ann_id": id, "image_id": 1, "split": "train", "sentences": [{"sent": sent}]}
        for id, sent in ((1, "the red square"), (2, "the blue square"))
    ]
    annotations = [{"id": id, "image_id": 1, "segmentation": packed(mask)} for id, mask in ((1, RED), (2, BLUE))]
    write_json(home / "refcoco" / "refs(unc).json", refs)
    images = [{"id": 1, "file_name": "one.jpg"}]
    write_json(home / "refcoco" / "instances.json", {"images": images, "annotations": annotations})
    write_frame(home / "images" / "train2014" / "one.jpg", 1, SIZE)


def write_coco_panoptic(root: Path) -> None:
    home = root / "img_genseg" / "coco2017"
    ids = (RED * 7 + BLUE * 300).astype(np.int32)
    write_ids(home / "panoptic_train2017" / "one.png", ids)
    write_frame(home / "train2017" / "one.jpg", 2, SIZE)
    segments = [{"id": 7, "category_id": 1, "iscrowd": 0}, {"id": 300, "category_id": 2, "iscrowd": 0}]
    document = {
        "images": [{"id": 1, "file_name": "one.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "one.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "square", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}],
    }
    write_json(home / "annotations" / "panoptic_train2017.json", document)


def write_vgd(root: Path) -> None:
    """Videos of YouTube-VIS's form, and V-VGD made of them."""
    source = root / "vid_genseg" / "ytvis19"
    write_synthetic(source, 2, "train")
    make_vgd(VgdPlan("yt19", source, root / "vid_vgdseg" / "ytvis_vgd", "train", pictures=0))


def write_masks(root: Path) -> None:
    for number in range(3):
        write_frame(root / "sa_000000" / f"sa_{number}.jpg", number, SIZE)
        annotations = [{"id": id, "segmentation": packed(mask)} for id, mask in ((1, RED), (2, BLUE))]
        write_json(root / "sa_000000" / f"sa_{number}.json", {"image": {}, "annotations": annotations})


@pytest.fixture(scope="module")
def datas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datas")
    for write in (write_refcoco, write_coco_panoptic, write_vgd):
        write(root)
    write_masks(root / "masks")
    return root


def test_the_paper_s_mixture_is_what_is_there(datas: Path) -> None:
    found = find_sources(["paper"], datas, None, 4, 0)
    assert [(source.name, source.media, source.frames) for source in found.sources] == [
        ("coco-panoptic", "image", 1),
        ("refcoco", "image", 1),
        ("youtube-vis19", "video", 4),
        ("v-vgd-yt19", "video", 4),
    ]
    left_out = dict(found.left_out)
    assert len(left_out) == 14
    assert "has no folder of refcoco+" in left_out["refcoco+"]
    for source in found.sources:
        example = source.make(1)
        assert len(example.frames) == source.frames
        assert example.targets


def test_sets_are_drawn_by_their_number_of_samples_to_the_tenth(datas: Path) -> None:
    """Videos count once, however many clips they are good for; clips have their chance's part of the steps."""
    mixture = find_sources(["paper"], datas, None, 4, 0).mixture(0)
    chances = {"coco-panoptic": 1.0, "refcoco": 2**0.1, "youtube-vis19": 2**0.1, "v-vgd-yt19": 2**0.1}
    assert mixture.video_share == pytest.approx(2 * 2**0.1 / sum(chances.values()))
    drawn = Counter(draw.source.name for step in range(4000) for draw in mixture.draws(step))
    for name, chance in chances.items():
        assert drawn[name] / 4000 == pytest.approx(chance / sum(chances.values()), abs=0.03)
    for step in range(200):
        assert {draw.source.media for draw in mixture.draws(step)} == {mixture.media(step)}


def test_named_sets_must_be_there(datas: Path) -> None:
    assert [source.name for source in find_sources(["refcoco", "youtube-vis19"], datas, None, 3, 0).sources] == [
        "refcoco",
        "youtube-vis19",
    ]
    with pytest.raises(DataError, match="has no annotations of vipseg"):
        find_sources(["refcoco", "vipseg"], datas, None, 3, 0)
    with pytest.raises(DataError, match="gcg-image has no split to train on, only val, test"):
        find_sources(["gcg-image"], datas, None, 3, 0)
    with pytest.raises(DataError, match=r"There is no reader for 'none'\. There are paper, coco-panoptic"):
        find_sources(["none"], datas, None, 3, 0)
    with pytest.raises(DataError, match="holds none of the paper's data sets"):
        find_sources(["paper"], datas / "masks", None, 3, 0)


def prompted(frames: int, on: dict[int, list[int]]) -> PromptedExample:
    """Objects 1 … 9 that are everywhere, with prompts on some frames."""
    ids = sorted({id for some in on.values() for id in some})
    masks = np.zeros((frames, *SIZE), dtype=np.bool_)
    masks[:, 5:9, 5:9] = True
    prompts = {
        frame: {id: Prompt.mask(rectangle(id, frame, id + 2, frame + 2, SIZE), frame) for id in some}
        for frame, some in on.items()
    }
    first = {id: next(frame for frame in sorted(on) if id in on[frame]) for id in ids}
    return PromptedExample(
        name="one",
        media="video",
        frames=np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, *SIZE, 3), dtype=np.uint8),
        instruction=Instruction("vgd", regions=tuple(prompts[first[id]][id] for id in ids)),
        conditions=len(ids),
        targets=tuple(Target(number, masks, id) for number, id in enumerate(ids)),
        categories=tuple(0 for _ in ids),
        prompts=prompts,
    )


def test_windows_of_prompted_clips_ask_for_what_they_have_prompts_of() -> None:
    example = prompted(12, {0: [1], 2: [1, 3], 5: [2], 9: [3]})
    seen = set()
    for seed in range(40):
        clip = training_clip(example, 4, np.random.default_rng(seed))
        first = int(clip.frames[0, 0, 0, 0])
        window = range(first, first + 4)
        asked = {frame - first: some for frame, some in ((0, [1]), (2, [1, 3]), (5, [2]), (9, [3])) if frame in window}
        there = list(dict.fromkeys(id for some in asked.values() for id in some))
        assert [target.id for target in clip.targets] == there
        assert [target.condition for target in clip.targets] == list(range(len(there)))
        for id, region in zip(there, clip.instruction.regions, strict=True):
            assert region.frame == next(place for place, some in asked.items() if id in some)
            wanted = rectangle(id, first + region.frame, id + 2, first + region.frame + 2, SIZE)
            np.testing.assert_array_equal(region.mask(*SIZE), wanted)
        seen.add(first)
    assert seen == set(range(9)), "every start was drawn"


def test_a_window_without_a_prompt_begins_with_the_first_one() -> None:
    example = prompted(12, {7: [1]})
    starts = {int(training_clip(example, 2, np.random.default_rng(seed)).frames[0, 0, 0, 0]) for seed in range(40)}
    assert starts == {6, 7}


def test_captions_learn_from_frames_of_the_whole_video() -> None:
    plain = prompted(12, {0: [1]})
    example = CaptionedExample(
        "one", "video", plain.frames, Instruction("gcg"), 1, plain.targets, answer="<p>it</p> <SEG>", labels=("it",)
    )
    clip = training_clip(example, 5, np.random.default_rng(0))
    assert clip.frames[:, 0, 0, 0].tolist() == [0, 3, 6, 8, 11]
    assert clip.answer == example.answer


def test_what_has_no_target_is_passed_over(datas: Path) -> None:
    home = datas / "img_refseg" / "refcocos"
    refs = [
        {"ref_id": 1, "ann_id": [-1], "image_id": 1, "split": "train", "sentences": [{"sent": "nothing"}]},
        {"ref_id": 2, "ann_id": [1, 2], "image_id": 1, "split": "train", "sentences": [{"sent": "both"}]},
    ]
    write_json(home / "grefcoco" / "grefs(unc).json", refs)
    (home / "grefcoco" / "instances.json").write_text((home / "refcoco" / "instances.json").read_text())
    dataset = read_dataset("grefcoco", datas, "train")
    make = make_clips(dataset, 1, 0)
    assert {make(index).instruction.phrases for index in range(4)} == {("both",)}
    write_json(home / "grefcoco" / "grefs(unc).json", refs[:1])
    with pytest.raises(DataError, match="none of its examples has a target"):
        make_clips(read_dataset("grefcoco", datas, "train"), 1, 0)(0)
    for file in (home / "grefcoco").iterdir():
        file.unlink()
    (home / "grefcoco").rmdir()


@pytest.fixture
def plan(datas: Path, tmp_path: Path) -> FinetunePlan:
    make_tokenizer(corpus(60, 0), 403, tmp_path / "tokenizer")
    return FinetunePlan(
        LORA,
        ("paper",),
        datas,
        masks=datas / "masks",
        vlm=str(LORA / "vlm"),
        tokenizer=tmp_path / "tokenizer",
        decoder_steps=2,
        steps=4,
        frames=2,
        accumulate=2,
    )


def test_stages_learn_from_their_own_data(plan: FinetunePlan) -> None:
    recipe = Finetuning(plan).make_recipe()
    masks, everything = recipe.stages
    assert [source.name for source in masks.mixture.sources] == ["sa-1b"]
    assert (masks.weights.classification, masks.weights.next_token) == (0, 0)
    assert len(everything.mixture.sources) == 4
    assert (recipe.batches("image"), recipe.batches("video")) == (2, 1)
    assert "2 batches each, 1 of clips" in recipe.description
    alone = Finetuning(replace(plan, datasets=("youtube-vis19",))).make_recipe()
    assert alone.batches("video") == 2


def test_masks_of_any_object(plan: FinetunePlan) -> None:
    dataset = read_dataset("sa-1b", plan.masks or "", "train")
    assert (len(dataset), dataset.things) == (3, ("object",))
    example = dataset[0]
    assert (example.name, example.conditions) == ("sa-1b/train/sa_000000/sa_0", 1)
    for target, mask in zip(example.targets, (RED, BLUE), strict=True):
        np.testing.assert_array_equal(target.masks[0], mask)


def test_the_paper_s_mixture_is_learnt_from(plan: FinetunePlan, tmp_path: Path) -> None:
    """Image steps learn from two batches, clips from one; masks alone in the first stage."""
    arguments = ["train", "finetune", plan.checkpoint, "--vlm", plan.vlm, "--tokenizer", plan.tokenizer]
    arguments += ["--dataset", "paper", "--root", plan.root, "--masks", plan.masks, "-o", tmp_path / "tuned"]
    arguments += ["--decoder-steps", 2, "--steps", 4, "--frames", 2, "--accumulate", 2]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert "left out: vipseg:" in result.stderr
    points = read_curve(tmp_path / "tuned" / LOG_FILE)
    assert len(points) == 6
    for point in points:
        assert all(np.isfinite(loss) for loss in point.losses.values())
    media = {Finetuning(plan).make_recipe().stages[1].mixture.media(step) for step in range(2, 6)}
    assert media == {"image", "video"}
