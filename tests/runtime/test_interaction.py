"""A stream that somebody clicks into: negative regions, corrections, ids that are removed, a presence threshold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from x2sam_rt.data.synthetic import clip_seed, evaluation_settings, make_clip
from x2sam_rt.errors import ConfigError, PromptError, SessionError
from x2sam_rt.runtime.postprocess import make_postprocessor
from x2sam_rt.runtime.postprocess.on_device import on_device
from x2sam_rt.runtime.postprocess.rule import FrameLogits
from x2sam_rt.runtime.results import OnDevice, Segment, Segmentation
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction, PostProcessOptions
from x2sam_rt.tasks.regions import Prompt, region_from_json
from x2sam_rt.tasks.table import Conditions

FRAMES = make_clip(clip_seed("seen", 1), evaluation_settings()).frames
HERE, THERE = Prompt.point(30, 30), Prompt.point(90, 90)


@pytest.fixture(scope="module")
def runtime(torch_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(torch_bundle) as loaded:
        yield loaded


def test_negative_regions_are_conditions_that_are_left_out() -> None:
    asked = Instruction("object", regions=(HERE, THERE.negative()))
    _, conditions = asked.row.fill(asked)
    assert conditions == Conditions(("region 1", "region 2"), (True, False))
    again = Instruction.from_json(asked.to_json())
    assert [region.wanted for region in again.regions] == [True, False]
    assert "wanted" not in HERE.to_json()
    with pytest.raises(PromptError, match="wanted is 3"):
        region_from_json({**HERE.to_json(), "wanted": 3})


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("object", {"regions": [HERE.negative()]}, "0 visual prompts"),
        ("object", {"regions": [HERE, THERE]}, "2 visual prompts"),
        ("vgd", {"regions": [HERE.negative()]}, "No visual prompt"),
        ("referring", {"phrases": ["what is not <region>"], "regions": [HERE.negative()]}, "takes no negative region"),
        ("chat", {"question": "what is <region>?", "regions": [HERE.negative()]}, "takes no negative region"),
    ],
)
def test_what_a_negative_region_cannot_be(task: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        Instruction(task, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["object", "interactive", "grounded"])
@pytest.mark.parametrize("make", [make_postprocessor, on_device])
def test_what_is_more_like_a_negative_region_is_not_taken(rule: str, make: object) -> None:
    masks = torch.full((2, 8, 8), -9.0)
    masks[0, :4], masks[1, 4:] = 9.0, 9.0
    frame = FrameLogits(masks, torch.tensor([[3.0, 6.0, 0.0], [2.0, -3.0, 0.0]]), 32, (32, 32), (16, 16))
    options, prompt = PostProcessOptions(threshold=0.5), torch.zeros(1, 32, 32, dtype=torch.bool)
    alone = Conditions(("region 1",), (True,))
    plain = replace(frame, class_logits=frame.class_logits[:, [0, 2]])
    taken = make(rule, alone, options, prompt)(plain).segments[0]  # type: ignore[operator]
    assert taken.mask[:8].all()
    both = Conditions(("region 1", "region 2"), (True, False))
    segments = make(rule, both, options, prompt)(frame).segments  # type: ignore[operator]
    assert segments[0].mask[8:].all()
    assert not segments[0].mask[:8].any()
    assert {segment.label_id for segment in segments} == {0}


def test_a_correction_asks_for_another_region_under_the_same_id(runtime: Runtime) -> None:
    fresh = replace(HERE, frame=1), replace(THERE, frame=1).negative()
    with runtime.stream(Instruction("object", regions=(HERE,))) as session:
        with pytest.raises(SessionError, match="before the first frame"):
            session.correct(*fresh)
        for frame in FRAMES[:2]:
            session.step(frame)
        session.correct(*fresh)
        assert session.answer is not None
        assert session.answer.instruction.regions == fresh
        after = session.step(FRAMES[2])
        session.correct(Prompt.point(5, 5, frame=2).negative())
        regions = session.answer.instruction.regions
        assert [(region.frame, region.wanted) for region in regions] == [(1, True), (1, False), (2, False)]
        session.step(FRAMES[3])
        with pytest.raises(PromptError, match="0 regions"):
            session.correct()
        with pytest.raises(PromptError, match="frame 99"):
            session.correct(Prompt.point(5, 5, frame=99))
        assert session.answer.instruction.regions == regions
    with runtime.stream(Instruction("object", regions=(HERE,))) as other:
        for frame in FRAMES[:2]:
            other.step(frame)
        other.ask(Instruction("object", regions=fresh))
        np.testing.assert_array_equal(after.segmentation.map, other.step(FRAMES[2]).segmentation.map)


def test_negative_clicks_leave_the_other_ids(runtime: Runtime) -> None:
    everything = PostProcessOptions(threshold=0.0)
    with runtime.stream(Instruction("vgd", regions=(HERE, THERE), options=everything)) as session:
        session.step(FRAMES[0])
        before = session.state().rule
        session.correct(Prompt.point(60, 20, frame=0).negative())
        after = session.state().rule
        assert before is not None
        assert after is not None
        assert before.ids == after.ids
        assert {one.label_id for one in session.step(FRAMES[1]).segments} <= {0, 1}
        with pytest.raises(PromptError, match="vgd is corrected by negative"):
            session.correct(replace(HERE, frame=1))
    with runtime.stream("the circle") as session:
        session.step(FRAMES[0])
        with pytest.raises(PromptError, match="correct referring"):
            session.correct(HERE)


def test_a_removed_id_is_not_shown_and_the_others_stay(runtime: Runtime) -> None:
    phrases = Instruction(phrases=("the circle", "the square", "the star"))
    with runtime.stream(phrases) as session, runtime.stream(phrases) as whole:
        first, _ = session.step(FRAMES[0]), whole.step(FRAMES[0])
        gone = first.ids[0]
        session.remove(gone)
        with pytest.raises(PromptError, match="no id 77"):
            session.remove(77)
        later, full = session.step(FRAMES[1]), whole.step(FRAMES[1])
        assert later.ids == tuple(one for one in full.ids if one != gone)
        assert gone not in later.segmentation.map
        for one in later.segments:
            other = next(segment for segment in full.segments if segment.id == one.id)
            np.testing.assert_array_equal(one.mask, other.mask)
        with runtime.resume(session.snapshot()) as resumed:
            assert gone not in resumed.step(FRAMES[2]).ids
        assert gone not in session.step(FRAMES[2]).ids
        session.ask(phrases)
        assert gone in session.step(FRAMES[3]).ids


@pytest.mark.parametrize("first_on_top", [False, True])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_lay_beneath_shows(first_on_top: bool, on_gpu: bool) -> None:
    masks = np.zeros((3, 4, 4), dtype=np.bool_)
    masks[0, :3], masks[1, 1:], masks[2, 2] = True, True, True
    segments = tuple(
        Segment(OnDevice(lambda k=k: torch.from_numpy(masks[k]), (4, 4)) if on_gpu else masks[k], "x", k, 1.0, k)
        for k in range(3)
    )
    painted = np.full((4, 4), -1, dtype=np.int32)
    for k in (2, 1, 0) if first_on_top else (0, 1, 2):
        painted[masks[k]] = k
    drawn = OnDevice(lambda: torch.from_numpy(painted), (4, 4)) if on_gpu else painted
    whole = Segmentation(segments, drawn, -1)
    assert whole.only(lambda one: True, first_on_top=first_on_top) is whole
    left = whole.only(lambda one: one.id != (0 if first_on_top else 2), first_on_top=first_on_top)
    wanted = np.full((4, 4), -1, dtype=np.int32)
    for k in (2, 1) if first_on_top else (0, 1):
        wanted[masks[k]] = k
    np.testing.assert_array_equal(left.map, wanted)
    assert len(left.segments) == 2


def test_presence_hides_what_scores_less(runtime: Runtime) -> None:
    asked = Instruction(phrases=("the circle", "the square"))
    scores = runtime.segment_image(FRAMES[0], asked).scores
    between = PostProcessOptions(presence=(min(scores) + max(scores)) / 2)
    shown = runtime.segment_image(FRAMES[0], replace(asked, options=between))
    assert shown.scores == (max(scores),)
    region = Instruction("interactive", regions=(HERE,), options=PostProcessOptions(presence=1.0))
    nothing = runtime.segment_image(FRAMES[0], region)
    assert not nothing.segments
    assert (nothing.segmentation.map == nothing.segmentation.empty).all()
    with pytest.raises(ConfigError, match="presence=2"):
        PostProcessOptions(presence=2)
