from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from fake_segmenters import prediction
from made_samples import Made

from x2sam_rt.data.dataset import Dataset, Metric
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers import AnnotatedExample
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.evaluators import (
    AnswerEvaluator,
    Evaluator,
    LinkingEvaluator,
    ObjectEvaluator,
    evaluator_of,
)
from x2sam_rt.evaluation.metrics import State
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


def kept(state: State) -> State:
    """As a run that goes on after a kill reads it."""
    return json.loads(json.dumps(state))


def scores(evaluator: Evaluator, example: Example, targets: list[Target], answer: str = "") -> dict[str, float]:
    state = evaluator.measure([(example, prediction(example, targets, answer))])
    return {score.name: score.value for score in evaluator.scores([kept(state)])}


def by_metric(metric: Metric, example: Example, *, published: bool = False) -> Evaluator:
    dataset = Dataset("made", metric, (Made(example),), things=("cat", "dog"), stuff=("sky",))
    return evaluator_of(dataset, published=published)


def test_targets_of_one_condition_count_together() -> None:
    cats = [Target(0, box(0), 3), Target(0, box(20), 4)]
    dog = Target(1, box(12, 5), 5)
    example = made(*cats, dog)
    assert scores(ObjectEvaluator(), example, [*cats, dog])["J&F"] == 1
    assert scores(ObjectEvaluator(), example, [cats[0], dog])["J"] == pytest.approx((0.5 + 1) / 2)


def test_hidden_frames_are_those_that_show_something() -> None:
    truth = box(4)
    truth[3] = False
    example = made(Target(0, truth, 0), conditions=1, hidden=np.array([False, False, True, True]))
    found = truth.copy()
    found[2] = False
    found[3, 0, 0] = True  # there is nothing to see: wrong, but no figure about memory
    result = scores(ObjectEvaluator(), example, [Target(0, found, 0)])
    assert result["J"] == pytest.approx(2 / 4)
    assert result["J, hidden frames"] == 0
    found[2] = truth[2]
    assert scores(ObjectEvaluator(), example, [Target(0, found, 0)])["J, hidden frames"] == 1


def test_tags_some_have_get_scores() -> None:
    evaluator, states = ObjectEvaluator(), []
    right, wrong = Target(0, box(4), 0), Target(0, box(20), 0)
    for tags, found in ((frozenset({"all", "same_colour"}), wrong), (frozenset({"all"}), right)):
        example = made(right, conditions=1, tags=tags)
        states.append(evaluator.measure([(example, prediction(example, [found], ""))]))
    result = {score.name: (score.value, score.count) for score in evaluator.scores(states)}
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
        assert scores(by_metric(metric, example), example, [Target(0, strayed, 0)])[name] == 1
    nothing = replace(example, labelled=np.zeros(4, dtype=np.bool_))
    with pytest.raises(DataError, match="made/1: no frame is labelled"):
        scores(ObjectEvaluator(), nothing, [right])


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
    pixels = np.zeros((frames, *SIZE[1:], 3), dtype=np.uint8)
    example = replace(made(instruction=instruction), frames=pixels, targets=tuple(targets))
    assert scores(by_metric(metric, example), example, targets)[name] == pytest.approx(1)
    swapped = [replace(target, condition=1 - target.condition) for target in targets]
    assert scores(by_metric(metric, example), example, swapped)[name] == 0
    # The question may list them in the data set's order: labels are places in it, conditions are not.
    ordered = replace(example, instruction=replace(example.instruction, order=(1, 0)))
    assert scores(by_metric(metric, ordered), ordered, swapped)[name] == pytest.approx(1)
    unknown = replace(example, instruction=Instruction("panoptic", stuff=("sky", "cow")))
    with pytest.raises(DataError, match=r"made/1: asks for the categories cow, which"):
        scores(by_metric(metric, unknown), unknown, targets)


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
            assert scores(by_metric(metric, example), example, found)[name] == pytest.approx(1)


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
    result = scores(LinkingEvaluator(), example, found, answer)
    assert result["phrases with the right mask"] == (right / written if written else 0)
    assert result["objects named with the right mask"] == right / 2
    assert result["captions with masks"] == 1


def test_a_phrase_needs_half_of_its_object_over_the_clip() -> None:
    circle = Target(0, box(2), 0)
    example = made(circle, instruction=Instruction("gcg"), conditions=1, answer="<p>a red circle</p>. <SEG>.")
    for frames, right in ((2, 1), (1, 0)):
        seen = circle.masks.copy()
        seen[frames:] = False
        result = scores(LinkingEvaluator(), example, [replace(circle, masks=seen)], example.answer or "")
        assert result["phrases with the right mask"] == right


def test_captions_need_a_phrase_for_each_target() -> None:
    example = made(Target(0, box(2), 0), instruction=Instruction("gcg"), answer=CAPTION)
    with pytest.raises(DataError, match="made/1: its answer is no caption with one phrase per target"):
        scores(LinkingEvaluator(), example, [])


def test_answers_word_for_word() -> None:
    evaluator = AnswerEvaluator()
    example = made(instruction=Instruction("chat", question="how many?"), answer="three objects.")
    answers = ("Three  objects.", "three.")
    states = [evaluator.measure([(example, prediction(example, [], answer))]) for answer in answers]
    assert next(iter(evaluator.scores(states))).value == 1 / 2
    with pytest.raises(DataError, match="made/1"):
        evaluator.measure([(replace(example, answer=None), prediction(example, [], ""))])


@pytest.mark.parametrize("kind", [ObjectEvaluator, LinkingEvaluator, AnswerEvaluator])
def test_scores_of_nothing(kind: type[Evaluator]) -> None:
    with pytest.raises(DataError):
        list(kind().scores([]))
