"""How examples are cut, prompted and put into words by the published protocol and by the live one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from x2sam_rt.data.example import Example, IdMasks, Target
from x2sam_rt.data.readers import AnnotatedExample, PromptedExample
from x2sam_rt.errors import ConfigError, DataError, PromptError
from x2sam_rt.evaluation.protocol import RULES, Cutting, Presentation, Protocol, protocol_name, wording_count
from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.asking import ReAsk
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.marks import LinkedText, spell
from x2sam_rt.tasks.regions import Prompt
from x2sam_rt.tasks.table import DEFAULT_WORDING

HEIGHT, WIDTH = 23, 37
PUBLISHED, LIVE = Protocol(), Protocol("live")


def numbered(frames: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Every pixel of a frame holds the frame's number."""
    pixels = np.zeros((frames, HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[:] = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return pixels


def seen(piece: Example) -> list[int]:
    return piece.frames[:, 0, 0, 0].tolist()


def shown(frames: int, *there: int, row: int = 3) -> BoolMask:
    """A mask that is to be seen on some frames only."""
    masks = np.zeros((frames, HEIGHT, WIDTH), dtype=np.bool_)
    masks[list(there), row : row + 8, 5:15] = True
    return masks


def referring(frames: int, *there: int) -> Example:
    instruction = Instruction("referring", phrases=("a dog",))
    return Example("set/1", "video", numbered(frames), instruction, 1, (Target(0, shown(frames, *there), 0),))


def test_frames_without_the_object_leave_their_chunk() -> None:
    pieces = list(Presentation("ref-davis17", "val", PUBLISHED).pieces(referring(18, 1, 3, 8, 9, 17)))
    assert [(piece.name, seen(piece)) for piece in pieces] == [("set/1#0", [1, 3]), ("set/1#1", [8, 9])]
    assert all(piece.targets[0].masks.shape == (2, HEIGHT, WIDTH) for piece in pieces)
    assert all(np.asarray(piece.targets[0].masks).any(axis=(1, 2)).all() for piece in pieces)


def test_gaps_are_jumped_over_and_lengths_can_be_set() -> None:
    example = referring(12, 0, 1, 2, 4, 6, 7, 8, 9, 10, 11)
    for length, wanted in ((None, [[0, 1, 2, 4, 6, 7, 8, 9], [10, 11]]), (5, [[0, 1, 2, 4, 6], [7, 8, 9, 10, 11]])):
        pieces = Presentation("youtube-vis19", "valid", PUBLISHED, length).pieces(example)
        assert [seen(piece) for piece in pieces] == wanted
    (whole,) = Presentation("youtube-vis19", "valid", PUBLISHED, "whole").pieces(example)
    assert seen(whole) == [0, 1, 2, 4, 6, 7, 8, 9, 10, 11]
    (live,) = Presentation("youtube-vis19", "valid", LIVE).pieces(example)
    assert live.frames is example.frames


def test_maps_of_ids_stay_shared_and_unprinted() -> None:
    ids = np.zeros((9, HEIGHT, WIDTH), dtype=np.int32)
    ids[:, 2:9], ids[4:, 12:] = 7, 300
    targets = (Target(0, IdMasks(ids, 7), 7), Target(1, IdMasks(ids, 300), 300))
    instruction = Instruction("panoptic", things=("cat",), stuff=("sky",))
    example = AnnotatedExample("v/1", "video", numbered(9), instruction, 2, targets, raw_labels=ids)
    (piece,) = Presentation("vipseg", "val", PUBLISHED).pieces(example)
    first, second = (target.masks for target in piece.targets)
    assert isinstance(first, IdMasks)
    assert isinstance(second, IdMasks)
    assert first.ids is second.ids
    assert first.ids.base is ids or first.ids.base is ids.base, "frames in a row are a view"
    assert np.array_equal(np.asarray(second), ids[:8] == 300)
    assert isinstance(piece, AnnotatedExample)
    assert piece.raw_labels is not None
    assert piece.raw_labels.shape == (8, HEIGHT, WIDTH)


def test_an_object_is_prompted_anew_in_every_chunk() -> None:
    there = [1, 2, 5, 9, 10, 11]
    example = referring(12, *there)
    prompt = Prompt.mask(np.asarray(example.targets[0].masks)[1], frame=1)
    example = replace(example, instruction=Instruction("object", regions=(prompt,)))
    pieces = list(Presentation("youtube-vos", "valid", PUBLISHED).pieces(example))
    assert [seen(piece) for piece in pieces] == [[1, 2, 5], [9, 10, 11]]
    for piece in pieces:
        (region,) = piece.instruction.regions
        assert region.frame == 0
        assert np.array_equal(region.mask(HEIGHT, WIDTH), piece.targets[0].masks[0])
        assert (piece.instruction.options.anchored, piece.instruction.options.threshold) == (False, 0.5)
    (live,) = Presentation("youtube-vos", "valid", LIVE).pieces(example)
    assert live.instruction.regions == (prompt,)
    assert live.instruction.options.anchored


def test_own_data_keeps_its_prompt_where_it_can() -> None:
    example = replace(referring(20, *range(4, 20)), instruction=Instruction("object", regions=(Prompt.point(8, 6, 4),)))
    first, second, last = Presentation("mine", None, PUBLISHED).pieces(example)
    assert (first.instruction.regions[0].kind, first.instruction.regions[0].frame) == ("point", 4)
    assert [piece.instruction.regions[0].kind for piece in (second, last)] == ["mask", "mask"]
    gone = replace(example, targets=(Target(0, shown(20, 4, 5), 0),))
    with pytest.raises(DataError, match="set/1#1: region 1 is to be seen on none"):
        list(Presentation("mine", None, PUBLISHED).pieces(gone))


def prompted() -> PromptedExample:
    """Ten frames: two cats (5) and a dog (2); the second cat has no prompt on frame 8, the dog is seen there only."""
    masks = [shown(10, *range(10), row=row) for row in (0, 9)] + [shown(10, 8, 9, row=14)]
    targets = tuple(Target(index, mask, index + 1) for index, mask in enumerate(masks))
    prompts = {
        frame: {id: Prompt.point(6, 3 * id, frame) for id in ids}
        for frame, ids in ((0, (1, 2)), (8, (1, 3)), (9, (1,)))
    }
    regions = (prompts[0][1], prompts[0][2], prompts[8][3])
    return PromptedExample(
        "g/1",
        "video",
        numbered(10),
        Instruction("vgd", regions=regions),
        3,
        targets,
        categories=(5, 5, 2),
        prompts=prompts,
    )


def test_one_region_stands_for_its_category() -> None:
    first, second = Presentation("v-vgd-yt19", "val/point", PUBLISHED).pieces(prompted())
    assert isinstance(first, PromptedExample)
    assert isinstance(second, PromptedExample)
    assert (len(first.instruction.regions), first.conditions, first.categories) == (1, 1, (5, 5))
    assert [(target.id, target.condition) for target in first.targets] == [(1, 0), (2, 0)]
    # By category: the dog's region comes first; both cats are to be found by the one cat's region.
    assert [region.frame for region in second.instruction.regions] == [0, 0]
    assert [(target.id, target.condition) for target in second.targets] == [(1, 1), (2, 1), (3, 0)]
    assert second.categories == (5, 5, 2)
    assert second.instruction.regions[0] is not None
    again = list(Presentation("v-vgd-yt19", "val/point", PUBLISHED).pieces(prompted()))
    assert [piece.instruction.regions[0].frame for piece in again] == [0, 0]
    (live,) = Presentation("v-vgd-yt19", "val/point", LIVE).pieces(prompted())
    assert len(live.instruction.regions) == live.conditions == 3


def test_chunks_without_a_prompt_on_their_first_frame_are_left_out() -> None:
    example = prompted()
    example = replace(example, prompts={frame: some for frame, some in example.prompts.items() if frame == 0})
    assert len(list(Presentation("v-vgd-yt19", "val/point", PUBLISHED).pieces(example))) == 1


def test_an_image_has_one_region_per_category_too() -> None:
    example = replace(prompted(), media="image", frames=numbered(1), targets=(), categories=(), prompts={})
    assert list(Presentation("coco-vgd", "val/box", PUBLISHED).pieces(example)) == []


def test_images_without_a_target_count_live_only() -> None:
    instruction = Instruction("referring", phrases=("a unicorn",))
    nothing = Example("g/1", "image", numbered(1), instruction, 1, (), tags=frozenset({"no target"}))
    assert list(Presentation("grefcoco", "val", PUBLISHED).pieces(nothing)) == []
    assert len(list(Presentation("grefcoco", "val", LIVE).pieces(nothing))) == 1
    some = replace(nothing, targets=(Target(0, shown(1, 0), 0),))
    (piece,) = Presentation("grefcoco", "val", PUBLISHED).pieces(some)
    assert piece.instruction.options.together == 0.6


@pytest.mark.parametrize(
    ("dataset", "split", "protocol", "newline"),
    [
        ("refcocog", "test", PUBLISHED, True),
        ("refcocog", "val", PUBLISHED, False),
        ("coco-vgd", "val/box", PUBLISHED, True),
        ("coco-vgd", "val/point", PUBLISHED, False),
        ("refcocog", "test", LIVE, False),
    ],
)
def test_a_newline_where_the_published_question_had_one(
    dataset: str, split: str, protocol: Protocol, newline: bool
) -> None:
    wording = Presentation(dataset, split, protocol).showing(referring(2, 0, 1)).wording
    assert wording is not None
    assert wording["referring"].question.startswith("\n") == newline


def test_wordings_by_number_and_the_bundles_own() -> None:
    def question(dataset: str, wording: int | None = None) -> str | None:
        words = Presentation(dataset, None, PUBLISHED, wording=wording).showing(referring(2, 0, 1)).wording
        return None if words is None else words["referring"].question

    assert question("ref-davis17") == "Please identify and segment the {phrases} in this {media}."
    assert question("ref-davis17", 11) == question("ref-davis17", 1) == "Please segment {phrases} in this {media}."
    assert question("mine") is None
    assert question("mine", 1) == "Please segment {phrases} in this {media}."
    assert Presentation("ref-davis17", None, LIVE, wording="bundle").showing(referring(2, 0)).wording is None
    assert [wording_count(name) for name in ("ref-davis17", "revos", "vipseg", "mine")] == [10, 5, 6, 6]


def test_categories_are_asked_for_in_the_data_sets_order() -> None:
    instruction = Instruction("panoptic", things=("cat", "dog"), stuff=("sky",))
    example = Example("set/1", "image", numbered(1), instruction, 3, ())
    (piece,) = Presentation("vipseg", "val", PUBLISHED, order=(2, 0, 1)).pieces(example)
    text = spell(piece.instruction.question_text("image", DEFAULT_WORDING))
    assert "<p>sky</p>, <p>cat</p>, <p>dog</p>" in text
    conditions = piece.instruction.conditions(LinkedText("", ()))
    assert (conditions.labels, conditions.is_thing) == (("sky", "cat", "dog"), (False, True, True))
    with pytest.raises(PromptError, match="each place from 0 once"):
        replace(instruction, order=(0, 0, 1))


def test_the_language_model_sees_what_it_saw() -> None:
    def frames(dataset: str, count: int) -> tuple[int, ...]:
        return Presentation(dataset, None, PUBLISHED).showing(referring(count, 0)).language_frames

    assert frames("ref-davis17", 8) == tuple(range(8))
    assert frames("youtube-vos", 8) == (0, 2, 5, 7)
    assert len(frames("mine", 40)) == 16
    assert Presentation("youtube-vos", None, LIVE).showing(referring(8, 0)).language_frames == (0,)


def test_spans_repeat_frames_and_leave_others_out() -> None:
    cutting = Cutting("span", 8)
    assert [chunk.frames for chunk in cutting.chunks(10, [True] * 10)] == [tuple(range(8)), tuple(range(1, 9))]
    assert cutting.chunks(1, [True]) == ()
    assert Cutting().chunks(9, [True] * 9)[-1].frames == tuple(range(8))


def test_protocols_that_are_none() -> None:
    with pytest.raises(ConfigError, match="no protocol 'demo'"):
        protocol_name("demo")
    with pytest.raises(ConfigError, match="limit of 0"):
        Protocol(limit=0)
    with pytest.raises(ConfigError, match="ask once per chunk"):
        Presentation("mine", None, PUBLISHED, again=ReAsk("every"))
    assert all(rule.cutting is None or rule.cutting.length in (8, 16) for rule in RULES.values())
