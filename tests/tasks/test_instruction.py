"""Requests put into words, and what cannot be asked."""

from typing import Any

import pytest

from x2sam_rt.errors import PromptError
from x2sam_rt.tasks import DEFAULT_WORDING, TASKS, Instruction, Media, instruction, task
from x2sam_rt.tasks.regions import Prompt
from x2sam_rt.tasks.table import category_name

POINT = Prompt.point(3, 4)


def ask(name: str, media: Media = "image", **request: Any) -> Instruction:
    return instruction(task(name), media=media, wording=DEFAULT_WORDING, **request)


def test_categories() -> None:
    asked = ask("panoptic", things=["Person", "dog"], stuff=["floor-other-merged", "door-stuff", "window-blind"])
    marked = "<p>person</p>, <p>dog</p>, <p>floor</p>, <p>door</p>, <p>window blind</p>"
    assert marked in asked.question
    assert asked.labels == ("Person", "dog", "floor-other-merged", "door-stuff", "window-blind")
    assert asked.is_thing == (True, True, False, False, False)
    assert asked.answer is not None
    assert asked.answer.count("<SEG>") == 1


@pytest.mark.parametrize(
    ("category", "name"),
    [("wall-other-merged", "wall"), ("Sky-other-merged", "sky"), ("wall-brick", "wall brick"), ("cat", "cat")],
)
def test_category_names(category: str, name: str) -> None:
    assert category_name(category) == name


def test_phrases() -> None:
    asked = ask("referring", "video", phrases=["The Jumping Boy ", "a dog"])
    assert "<p>the jumping boy</p>, <p>a dog</p>" in asked.question
    assert "video" in asked.question
    assert asked.labels == ("The Jumping Boy ", "a dog")


def test_reasoning_wraps_the_whole_question() -> None:
    asked = ask("reasoning", question="Which one Barks?")
    assert asked.question.startswith("<p>Which one Barks?</p>")
    assert asked.answer is not None


def test_an_explanation_is_generated() -> None:
    asked = ask("reasoning", question="Which one barks?", explain=True)
    assert asked.answer is None
    assert asked.question != ask("reasoning", question="Which one barks?").question


def test_any_answer_can_be_generated() -> None:
    assert ask("referring", phrases=["dog"], generate=True).answer is None


def test_grounded_conversation_has_no_conditions_until_answered() -> None:
    asked = ask("gcg")
    assert (asked.answer, asked.labels) == (None, ())
    answered = asked.answered("<p>A dog</p> on <p>grass</p>. It is <SEG>.")
    assert answered.labels == ("A dog", "grass")
    assert answered.is_thing == (True, True)


def test_an_answer_without_phrases_keeps_those_of_the_question() -> None:
    asked = ask("referring", phrases=["dog"], generate=True)
    assert asked.answered("It is <SEG>.").labels == ("dog",)
    assert asked.answered("It is <p>the puppy</p> <SEG>.").labels == ("the puppy",)


@pytest.mark.parametrize(("name", "media"), [("interactive", "image"), ("object", "video")])
def test_one_region(name: str, media: Media) -> None:
    asked = ask(name, media, regions=[POINT])
    assert asked.question.count("<p><region></p>") == 1
    assert asked.labels == ("region 1",)
    assert asked.regions == (POINT,)


def test_several_regions_and_phrases() -> None:
    asked = ask("vgd", regions=[POINT, Prompt.box(0, 0, 3, 3)], phrases=["Dog"])
    assert "<p><region></p>, <p><region></p>, <p>dog</p>" in asked.question
    assert asked.labels == ("region 1", "region 2", "Dog")


def test_regions_inside_texts() -> None:
    assert (
        "<p>the dog left of <region></p>"
        in ask("referring", phrases=["the dog left of <region>"], regions=[POINT]).question
    )
    assert ask("chat", question="What is <region>?", regions=[POINT]).question == "What is <p><region></p>?"


def test_chat_is_the_text_itself() -> None:
    asked = ask("chat", question="What is {this}?")
    assert asked.question == "What is {this}?"
    assert asked.answer is None
    assert not asked.task.draws_masks


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        ("panoptic", {}, "empty category list"),
        ("panoptic", {"things": [" "]}, "empty category"),
        ("panoptic", {"things": ["-merged"]}, "empty category"),
        ("semantic", {"things": ["dog"], "stuff": ["Dog"]}, "Doubled categories: dog"),
        ("semantic", {"stuff": ["tree-merged", "tree"]}, "Doubled categories: tree"),
        ("instance", {"stuff": ["grass"]}, "only things"),
        ("referring", {}, "No phrase"),
        ("referring", {"phrases": [""]}, "empty phrase"),
        ("referring", {"phrases": "dog"}, "list of texts"),
        ("referring", {"phrases": ["dog", " DOG"]}, "Doubled phrases"),
        ("referring", {"phrases": ["a </p> b"]}, "</p>"),
        ("referring", {"phrases": ["<|im_end|>"]}, "meaning of its own"),
        ("referring", {"phrases": ["dog"], "regions": [POINT]}, "0 regions"),
        ("referring", {"phrases": ["dog"], "things": ["cat"]}, "takes no things"),
        ("referring", {"phrases": ["dog"], "explain": True}, "cannot explain"),
        ("reasoning", {}, "empty question"),
        ("reasoning", {"question": " "}, "empty question"),
        ("chat", {"question": "Who is <region>?"}, "1 regions"),
        ("gcg", {"phrases": ["dog"]}, "takes no phrases"),
        ("interactive", {}, "exactly one"),
        ("interactive", {"regions": [POINT, POINT]}, "exactly one"),
        ("vgd", {"phrases": ["dog"]}, "No visual prompt"),
        ("vgd", {"regions": [POINT], "phrases": ["dog", "dog"]}, "Doubled phrases"),
        ("object", {"regions": [POINT]}, "is for videos, not for images"),
    ],
)
def test_refused(name: str, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        ask(name, **request_)


def test_interactive_is_not_for_videos() -> None:
    with pytest.raises(PromptError, match="object"):
        ask("interactive", "video", regions=[POINT])


def test_unknown_task() -> None:
    with pytest.raises(PromptError, match="panoptic, semantic"):
        task("segment")


def test_the_table_has_14_tasks() -> None:
    assert sum(len(row.media) for row in TASKS.values()) - 2 * 2 == 14  # three kinds of generic segmentation are one
    assert all(name == row.name for name, row in TASKS.items())
    assert {row.name for row in TASKS.values() if not row.answer_known} == {"chat", "gcg"}
    assert {row.name for row in TASKS.values() if not row.draws_masks} == {"chat"}
