"""What is said about a clip is true of exactly one object, read back from the words alone."""

from __future__ import annotations

import re

import numpy as np
import pytest

from x2sam_rt.data.synthetic import HELD_OUT, ClipSettings, SyntheticClip, evaluation_settings, make_clip
from x2sam_rt.data.synthetic.phrases import draw_phrase
from x2sam_rt.data.synthetic.questions import object_questions, word_question
from x2sam_rt.data.synthetic.scene import SceneObject
from x2sam_rt.data.synthetic.settings import COLOURS, SHAPES, SIZES, TEXTURES

SETTINGS = ClipSettings(twins=0.3, max_objects=5)
DIRECTIONS = ("left", "right", "up", "down")


@pytest.fixture(scope="module")
def clips() -> list[SyntheticClip]:
    return [make_clip((21, number), SETTINGS) for number in range(200)]


def meant_by(text: str, objects: tuple[SceneObject, ...]) -> list[int]:
    """Numbers of the objects that "the small red star that moves left" may mean."""
    match = re.fullmatch(r"the ([a-z ]+?)(?: that (moves|stays) (\w+))?", text)
    assert match is not None, text
    found = []
    for number, thing in enumerate(objects):
        words = {thing.size, thing.texture, thing.colour, thing.shape, "object"}
        if set(match[1].split()) <= words and match[3] in (None, thing.motion):
            found.append(number)
    return found


def test_phrases_are_true_of_one_object(clips: list[SyntheticClip]) -> None:
    rng = np.random.default_rng(0)
    words = set()
    for clip in clips:
        for number in range(len(clip.objects)):
            text = draw_phrase(rng, clip.objects, number, moving=True).text
            assert meant_by(text, clip.objects) == [number]
            words |= set(text.split())
    assert words >= {*SIZES, *TEXTURES, *COLOURS, *SHAPES, *DIRECTIONS, "object", "still"}


def test_phrases_name_what_is_needed_and_no_motion_of_images(clips: list[SyntheticClip]) -> None:
    rng = np.random.default_rng(1)
    for clip in clips:
        said = draw_phrase(rng, clip.objects, clip.focus, moving=False, needed=frozenset({"colour", "shape"}))
        assert {said.meant.colour, said.meant.shape} <= set(said.text.split())
        assert "that" not in said.text


def test_questions_have_one_answer(clips: list[SyntheticClip]) -> None:
    rng = np.random.default_rng(2)
    kinds = set()
    for clip in clips:
        for question in object_questions(clip, rng, moving=True):
            assert question.answer in answers(question.text, clip)
            kinds.add(question.kind)
    assert kinds == {"extreme", "texture", "motion", "where", "beside", "behind", "alike"}


def answers(question: str, clip: SyntheticClip) -> list[int]:
    """The only number in a list, worked out from labels and words."""
    numbers = range(len(clip.objects))
    words = question.rstrip("?").split()
    if words[-1] in ("largest", "smallest"):
        radii = [thing.radius for thing in clip.objects]
        return [int(np.argmax(radii) if words[-1] == "largest" else np.argmin(radii))]
    if words[:2] == ["which", "object"]:
        return only([n for n in numbers if words[-1] in (clip.objects[n].texture, clip.objects[n].motion)])
    (other,) = meant_by(question[question.rindex("the ") :].rstrip("?"), clip.objects)
    if words[0] == "where":
        return [other]
    if "same" in words:
        attribute = words[words.index("same") + 1]
        value = getattr(clip.objects[other], attribute)
        return only([n for n in numbers if n != other and getattr(clip.objects[n], attribute) == value])
    if "hides" in words:
        return only(np.flatnonzero(clip.overlap[:, other].sum(axis=0)).tolist())
    return beside(words[2], clip, other)


def only(found: list[int]) -> list[int]:
    assert len(found) == 1
    return found


def beside(side: str, clip: SyntheticClip, other: int) -> list[int]:
    axis, sign = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}[side]
    places = clip.centres[:, :, axis] * sign
    return only([n for n in range(len(clip.objects)) if (places[:, n] > places[:, other]).all()])


def test_what_hides_is_partly_covered_by_what_it_hides_behind() -> None:
    rng = np.random.default_rng(3)
    asked = 0
    for number in range(120):
        clip = make_clip((number, 7), ClipSettings(min_objects=2, max_objects=2, desaturated=0, occluder=0))
        for question in object_questions(clip, rng, moving=False):
            if question.kind == "behind":
                assert clip.occluded[:, question.answer].max() > 0
                asked += 1
    assert asked > 5


def test_chat_answers_are_true(clips: list[SyntheticClip]) -> None:
    rng = np.random.default_rng(4)
    kinds = set()
    for clip in clips * 2:
        question, answer = word_question(clip, rng, moving=True)
        assert answer.rstrip(".") in true_answers(question.rstrip("?"), clip)
        kinds.add(question.split()[0] + question.split()[1])
    assert kinds >= {"howmany", "isthere", "whatis", "whatcolour", "whatshape", "isthe", "wheredoes"}


def true_answers(question: str, clip: SyntheticClip) -> set[str]:
    pairs = {f"{thing.colour} {thing.shape}" for thing in clip.objects}
    if question == "how many objects are there":
        return {("no", "one", "two", "three", "four", "five")[len(clip.objects)]}
    if match := re.fullmatch(r"is there a (.+)", question):
        return {"yes" if match[1] in pairs else "no"}
    if match := re.fullmatch(r"what is at the (top|bottom)", question):
        return {clip.stuff[match[1] == "bottom"]}
    match = re.search(r"the .+?(?= plain, striped or dotted| move|$)", question)
    assert match is not None, question
    (number,) = meant_by(match[0], clip.objects)
    thing = clip.objects[number]
    asked = {"what colour": thing.colour, "what shape": thing.shape, "is the": thing.texture}
    still = "it stays still" if thing.motion == "still" else thing.motion
    return {asked.get(" ".join(question.split()[:2]), still)}


def test_training_never_says_a_held_out_pair(clips: list[SyntheticClip]) -> None:
    rng = np.random.default_rng(5)
    kept = [f"{colour} {shape}" for colour, shape in HELD_OUT]
    for clip in clips * 3:
        assert not any(pair in word_question(clip, rng, moving=True)[0] for pair in kept)


def test_the_unseen_split_asks_for_absent_held_out_pairs_too() -> None:
    """Otherwise naming one would give the answer away."""
    rng = np.random.default_rng(6)
    kept = [f"{colour} {shape}" for colour, shape in HELD_OUT]
    shown = [make_clip((number, 3), evaluation_settings(split="unseen")) for number in range(10)]
    replies = set()
    for number in range(400):
        question, answer = word_question(shown[number % 10], rng, moving=False)
        if any(question == f"is there a {pair}?" for pair in kept):
            replies.add(answer)
    assert replies == {"yes.", "no."}
