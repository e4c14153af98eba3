from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_segmenters import prediction
from made_samples import Made

from x2sam_rt.data.dataset import Dataset, Metric
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers import AnnotatedExample
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.families import AnswerFamily, CaptionFamily, ObjectFamily, family_of
from x2sam_rt.evaluation.figures import Family
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.instruction import Instruction

SIZE = (4, 23, 37)  # frames, height, width


def box(left: int, width: int = 9) -> BoolMask:
    masks = np.zeros(SIZE, dtype=np.bool_)
    masks[:, 5:16, left : left + width] = True
    return masks


def made(*targets: Target, instruction: Instruction | None = None, conditions: int = 2, **given: object) -> Example:
    return Example(
        name="made/1",
        media="video",
        frames=np.zeros((*SIZE, 3), dtype=np.uint8),
        instruction=instruction or Instruction(phrases=("a cat", "a dog")),
        conditions=conditions,
        targets=targets,
        **given,  # type: ignore[arg-type]
    )


def figures(family: Family, example: Example, targets: list[Target], answer: str = "") -> dict[str, float]:
    family.add(example, prediction(example, targets, answer))
    return {figure.name: figure.value for figure in family.figures()}


def by_metric(metric: Metric, example: Example) -> Family:
    return family_of(Dataset("made", metric, (Made(example),), things=("cat", "dog"), stuff=("sky",)))


def test_targets_of_one_condition_count_together() -> None:
    cats = [Target(0, box(0), 3), Target(0, box(20), 4)]
    dog = Target(1, box(12, 5), 5)
    example = made(*cats, dog)
    assert figures(ObjectFamily(), example, [*cats, dog])["J&F"] == 1
    assert figures(ObjectFamily(), example, [cats[0], dog])["J"] == pytest.approx((0.5 + 1) / 2)


def test_hidden_frames_are_those_that_show_something() -> None:
    truth = box(4)
    truth[3] = False
    example = made(Target(0, truth, 0), conditions=1, hidden=np.array([False, False, True, True]))
    found = truth.copy()
    found[2] = False
    found[3, 0, 0] = True  # there is nothing to see: wrong, but no figure about memory
    result = figures(ObjectFamily(), example, [Target(0, found, 0)])
    assert result["J"] == pytest.approx(2 / 4)
    assert result["J, hidden frames"] == 0
    found[2] = truth[2]
    assert figures(ObjectFamily(), example, [Target(0, found, 0)])["J, hidden frames"] == 1


def test_tags_some_have_get_figures() -> None:
    family = ObjectFamily()
    right, wrong = Target(0, box(4), 0), Target(0, box(20), 0)
    for tags, found in ((frozenset({"all", "same_colour"}), wrong), (frozenset({"all"}), right)):
        example = made(right, conditions=1, tags=tags)
        family.add(example, prediction(example, [found], ""))
    result = {figure.name: (figure.value, figure.count) for figure in family.figures()}
    assert result["J&F, same_colour"][1] == 1
    assert result["J&F, same_colour"][0] < result["J&F"][0]
    assert "J&F, all" not in result


def test_frames_and_pixels_without_truth_do_not_count() -> None:
    right = Target(0, box(4), 0)
    strayed = right.masks.copy()
    strayed[1] = True
    strayed[:, 20:] = True
    ignored = np.zeros(SIZE, dtype=np.bool_)
    ignored[:, 20:] = True
    example = AnnotatedExample(
        name="made/1",
        media="video",
        frames=np.zeros((*SIZE, 3), dtype=np.uint8),
        instruction=Instruction(phrases=("a cat",)),
        conditions=1,
        targets=(right,),
        labelled=np.array([True, False, True, True]),
        ignored=ignored,
    )
    for metric, name in (("j_and_f", "J&F"), ("vgd", "J&F"), ("giou", "gIoU")):
        assert figures(by_metric(metric, example), example, [Target(0, strayed, 0)])[name] == 1
    nothing = replace(example, labelled=np.zeros(4, dtype=np.bool_))
    with pytest.raises(DataError, match="made/1: no frame is labelled"):
        figures(ObjectFamily(), nothing, [right])


CATEGORY_METRICS: list[tuple[Metric, str]] = [
    ("panoptic_video", "VPQ"),
    ("panoptic_image", "PQ"),
    ("semantic", "mIoU"),
    ("ap_video", "AP"),
    ("ap_image", "AP"),
]


@pytest.mark.parametrize(("metric", "name"), CATEGORY_METRICS)
def test_categories_are_those_of_the_data_set(metric: Metric, name: str) -> None:
    """An instruction may list categories in another order, and leave some out."""
    frames = 8  # as long as the longest window of VPQ
    cat, sky = (np.repeat(masks[:1], frames, axis=0) for masks in (box(4), ~box(4)))
    targets = [Target(1, cat, 0), Target(0, sky, 1)]
    instruction = Instruction("panoptic", things=(), stuff=("sky", "cat"))  # conditions: 0 sky, 1 cat
    example = replace(
        made(instruction=instruction), frames=np.zeros((frames, *SIZE[1:], 3), dtype=np.uint8), targets=tuple(targets)
    )
    assert figures(by_metric(metric, example), example, targets)[name] == pytest.approx(1)
    swapped = [replace(target, condition=1 - target.condition) for target in targets]
    assert figures(by_metric(metric, example), example, swapped)[name] == 0
    unknown = replace(example, instruction=Instruction("panoptic", stuff=("sky", "cow")))
    with pytest.raises(DataError, match=r"made/1: asks for the categories cow, which"):
        figures(by_metric(metric, unknown), unknown, targets)


def test_crowds_are_neither_missed_nor_found() -> None:
    cat, crowd = Target(0, box(2), 1), Target(0, box(20, 12), 2)
    example = AnnotatedExample(
        name="made/1",
        media="video",
        frames=np.zeros((*SIZE, 3), dtype=np.uint8),
        instruction=Instruction("instance", things=("cat", "dog")),
        conditions=2,
        targets=(cat,),
        crowds=(crowd,),
    )
    for metric, name in (("panoptic_image", "PQ"), ("ap_video", "AP")):
        for found in ([cat], [cat, crowd]):
            assert figures(by_metric(metric, example), example, found)[name] == pytest.approx(1)


CAPTION = "<p>a red circle</p> moves left and <p>a blue star</p> stays still. <SEG>."


@pytest.mark.parametrize(
    ("answer", "right", "written"),
    [
        (CAPTION, 2, 2),
        ("<p>the circle</p> and <p>a star</p>. <SEG>.", 2, 2),
        ("<p>a blue circle</p> and <p>a blue star</p>. <SEG>.", 1, 2),
        ("<p>a blue star</p> and <p>a red circle</p>. <SEG>.", 0, 2),
        ("<p>a red circle</p>. <SEG>.", 1, 1),
        ("<p>a red circle</p>, <p>a blue star</p> and <p>a blue star</p>. <SEG>.", 2, 3),
        ("nothing. <SEG>.", 0, 0),
    ],
)
def test_a_phrase_is_right_by_its_words_and_its_mask(answer: str, right: int, written: int) -> None:
    circle, star = Target(0, box(2), 0), Target(1, box(20), 1)
    example = made(circle, star, instruction=Instruction("gcg"), answer=CAPTION)
    found = [circle, star, replace(star, condition=2)][:written]
    result = figures(CaptionFamily(), example, found, answer)
    assert result["phrases with the right mask"] == (right / written if written else 0)
    assert result["objects named with the right mask"] == right / 2
    assert result["captions with masks"] == 1


def test_a_phrase_needs_half_of_its_object_over_the_clip() -> None:
    circle = Target(0, box(2), 0)
    example = made(circle, instruction=Instruction("gcg"), conditions=1, answer="<p>a red circle</p>. <SEG>.")
    for frames, right in ((2, 1), (1, 0)):
        seen = circle.masks.copy()
        seen[frames:] = False
        result = figures(CaptionFamily(), example, [replace(circle, masks=seen)], example.answer or "")
        assert result["phrases with the right mask"] == right


def test_captions_need_a_phrase_for_each_target() -> None:
    example = made(Target(0, box(2), 0), instruction=Instruction("gcg"), answer=CAPTION)
    with pytest.raises(DataError, match="made/1: its answer is no caption with one phrase per target"):
        figures(CaptionFamily(), example, [])


def test_answers_word_for_word() -> None:
    family = AnswerFamily()
    example = made(instruction=Instruction("chat", question="how many?"), answer="three objects.")
    for answer in ("Three  objects.", "three."):
        family.add(example, prediction(example, [], answer))
    assert next(family.figures()).value == 1 / 2
    with pytest.raises(DataError, match="made/1"):
        family.add(replace(example, answer=None), prediction(example, [], ""))


@pytest.mark.parametrize("family", [ObjectFamily, CaptionFamily, AnswerFamily])
def test_figures_of_nothing(family: type[Family]) -> None:
    with pytest.raises(DataError):
        list(family().figures())
