"""Every task's examples fit their instruction, their clip and each other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from x2sam_rt.data.example import Example
from x2sam_rt.data.synthetic import (
    HELD_OUT,
    SHAPES,
    STUFF,
    ClipSettings,
    SyntheticClip,
    clip_seed,
    corpus,
    evaluation_settings,
    make_clip,
    make_example,
    synthetic_example,
)
from x2sam_rt.data.synthetic.phrases import Phrase
from x2sam_rt.data.synthetic.settings import Split
from x2sam_rt.data.synthetic.tasks import KINDS, ClipView, clear_still, draw_region
from x2sam_rt.errors import PromptError
from x2sam_rt.tasks.marks import link, parse_marks
from x2sam_rt.tasks.regions import BoxPrompt, MaskPrompt, StrokePrompt
from x2sam_rt.tasks.table import DEFAULT_WORDING, TASKS, Media

ASKED = [(row.name, media) for row in TASKS.values() for media in row.media]
SEEDS = 8


@pytest.mark.parametrize(("task", "media"), ASKED)
@pytest.mark.parametrize("split", ["train", "seen", "unseen"])
def test_examples_fit_their_instruction(task: str, media: Media, split: Split) -> None:
    for index in range(SEEDS):
        made = synthetic_example(split, index, task, media=media)
        instruction = made.instruction
        labels = instruction.conditions(link(parse_marks(made.answer or ""))).labels
        instruction.require_media(media)
        assert made.name == f"world/{split}/{index}/{task}"
        assert len(labels) == made.conditions
        assert (made.answer is None) == (instruction.answer_text(DEFAULT_WORDING) is not None)
        assert len(made.frames) == (1 if media == "image" else 8)
        assert ("<SEG>" in (made.answer or "<SEG>")) == (task != "chat")
        assert len({target.id for target in made.targets}) == len(made.targets)
        assert all(target.masks[:].any() for target in made.targets)
        if split != "unseen":
            assert "unseen" not in made.tags
        elif task not in ("vgd", "gcg", "referring"):
            assert "unseen" in made.tags
        if media == "image":
            assert not any(f" {word}" in said(made) for word in ("that moves", "that stays", "does"))


def said(made: Example) -> str:
    return " ".join([*made.instruction.phrases, made.instruction.question or "", made.answer or ""])


def test_examples_are_the_same_again_and_tasks_share_a_clip() -> None:
    first, again = (synthetic_example("train", 3, "vgd", media="video") for _ in range(2))
    assert np.array_equal(first.frames, again.frames)
    assert first.tags == again.tags
    assert [prompt.kind for prompt in first.instruction.regions] == [
        prompt.kind for prompt in again.instruction.regions
    ]
    other = synthetic_example("train", 3, "gcg", media="video")
    assert np.array_equal(first.frames, other.frames)


def test_referring_shows_the_named_object() -> None:
    for number in range(40):
        clip = make_clip((number, 1), ClipSettings())
        made = make_example(clip, "referring", np.random.default_rng(number), media="video", count=2)
        assert len(made.instruction.phrases) == made.conditions == len(made.targets) == 2
        for target in made.targets:
            thing = clip.objects[target.id]
            words = set(made.instruction.phrases[target.condition].replace("that moves", "").split()) - {
                "the",
                "object",
            }
            assert words - {"that", "stays"} <= {thing.size, thing.texture, thing.colour, thing.shape, thing.motion}
            assert np.array_equal(target.masks, clip.mask(target.id))


def test_fewer_objects_than_phrases() -> None:
    clip = make_clip(0, ClipSettings(min_objects=1, max_objects=1, same_colour=0, same_shape=0, twins=0))
    made = make_example(clip, "referring", np.random.default_rng(0), media="image", count=3)
    assert made.conditions == 1


@pytest.mark.parametrize("split", ["seen", "unseen"])
def test_the_desaturated_preset_hides_who_is_meant_for_three_frames(split: Split) -> None:
    for index in range(25):
        settings = evaluation_settings("desaturated", "unseen" if split == "unseen" else "seen")
        clip = make_clip(clip_seed(split, index), settings)
        made = synthetic_example(split, index, "referring", media="video", settings=settings)
        assert made.hidden is not None
        assert len(made.instruction.phrases) == 1
        assert made.hidden[clip.desaturated].all()
        assert made.hidden.sum() == 3 or "occluded" in made.tags
        assert {"desaturated", "same_shape"} <= made.tags


def test_a_desaturated_object_of_a_shape_of_its_own_is_not_hidden() -> None:
    clip = make_clip(5, ClipSettings(desaturated=1, same_shape=0, same_colour=1, min_objects=2, max_objects=2, twins=0))
    focus = clip.objects[clip.focus]
    assert sum(thing.shape == focus.shape for thing in clip.objects) == 1
    uncovered = clip.occluded[:, clip.focus] <= 0.4
    hidden = ClipView(clip, "video").hidden([(clip.focus, Phrase(("colour", "shape"), focus))])
    assert not hidden[uncovered].any()
    by_colour = ClipView(clip, "video").hidden([(clip.focus, Phrase(("colour",), focus))])
    assert by_colour[clip.desaturated].all()


def test_occluded_frames_are_hidden_and_tagged() -> None:
    tagged = 0
    for index in range(25):
        settings = evaluation_settings("occluded")
        clip = make_clip(clip_seed("seen", index), settings)
        made = synthetic_example("seen", index, "object", media="video", settings=settings)
        occluded = clip.occluded[:, made.targets[0].id] > 0.4
        assert made.hidden is not None
        assert np.array_equal(made.hidden, occluded)
        assert ("occluded" in made.tags) == occluded.any()
        tagged += occluded.any()
    assert tagged > 12


def test_look_alikes_are_tagged() -> None:
    for index, (colour, shape) in itertools.product(range(6), [(0, 1), (1, 0), (0, 0)]):
        settings = ClipSettings(same_colour=colour, same_shape=shape, twins=0, min_objects=2, max_objects=2)
        clip = make_clip(index, settings)
        made = make_example(clip, "interactive", np.random.default_rng(index), media="image")
        # Of two objects each is the other's look-alike.
        assert ("same_colour" in made.tags) == (clip.objects[0].colour == clip.objects[1].colour)
        assert ("same_shape" in made.tags) == (clip.objects[0].shape == clip.objects[1].shape)
        assert bool(colour) <= ("same_colour" in made.tags)
        assert bool(shape) <= ("same_shape" in made.tags)


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_category_targets_are_the_labels(task: str) -> None:
    orders, whole = set(), 0
    for number in range(25):
        clip = make_clip((number, 9), ClipSettings(occluder=0))
        made = make_example(clip, task, np.random.default_rng(number), media="video")
        names = made.instruction.things + made.instruction.stuff
        assert len(set(names)) == len(names)
        orders.add(names)
        whole += set(names) == {*SHAPES, *STUFF}
        together = np.zeros(clip.ids.shape, dtype=int)
        for target in made.targets:
            stuff = target.id - len(clip.objects)
            name = clip.stuff[stuff] if stuff >= 0 else clip.objects[target.id].shape
            assert names[target.condition] == name
            together += target.masks
        assert (together == 1).all()
    assert len(orders) > 20
    assert 5 < whole < 25


def test_captions_name_all_objects_from_left_to_right() -> None:
    for media, number in itertools.product(("image", "video"), range(20)):
        clip = make_clip((number, 10), ClipSettings())
        made = make_example(clip, "gcg", np.random.default_rng(number), media=media)  # type: ignore[arg-type]
        assert made.answer is not None
        linked = link(parse_marks(made.answer))
        meant = [clip.objects[target.id] for target in made.targets]
        assert linked.phrases == tuple(f"a {thing.colour} {thing.shape}" for thing in meant)
        if media == "video":
            places = [clip.centres[0, target.id, 0] for target in made.targets]
            assert places == sorted(places)
            said_motions = [thing.motion for thing in meant]
            spoken = [word for word in linked.text.replace(",", "").replace(".", "").split() if word in said_motions]
            assert spoken == said_motions


def test_prompts_of_every_kind_lie_on_their_object() -> None:
    kinds = set()
    for number in range(60):
        clip = make_clip((number, 11), ClipSettings())
        made = make_example(clip, "vgd", np.random.default_rng(number), media="video", count=3)
        for target, prompt in zip(made.targets, made.instruction.regions, strict=True):
            mask = target.masks[prompt.frame]
            drawn = prompt.mask(128, 128)
            kinds.add(prompt.kind)
            assert prompt.frame == 0
            assert prompt.kind in made.tags
            if isinstance(prompt, StrokePrompt):
                assert all(mask[int(y), int(x)] for x, y in prompt.vertices)
            elif isinstance(prompt, BoxPrompt):
                assert (mask & drawn).sum() > 0.75 * mask.sum()
            elif isinstance(prompt, MaskPrompt):
                assert np.array_equal(drawn, mask)
    assert kinds == set(KINDS)


def test_a_prompt_on_a_single_pixel() -> None:
    mask = np.zeros((9, 11), dtype=np.bool_)
    mask[8, 10] = True
    for seed in range(12):
        prompt = draw_region(np.random.default_rng(seed), mask, frame=2)
        assert prompt.frame == 2
        assert prompt.mask(9, 11)[8, 10]


def test_images_show_clear_frames() -> None:
    frames = set()
    for number in range(40):
        clip = make_clip((number, 12), evaluation_settings("desaturated"))
        one = clear_still(clip, np.random.default_rng(number))
        assert one.frames.shape == (1, 128, 128, 3)
        assert not one.desaturated.any()
        assert (one.occluded <= 0.6).all()
        assert (one.visible > 0).all()
        frames |= {index for index in range(8) if np.array_equal(clip.frames[index], one.frames[0])}
    assert len(frames) > 3


def first_clip() -> SyntheticClip:
    return make_clip(0, ClipSettings(side=32, frames=2))


def test_a_task_there_is_not_is_refused() -> None:
    with pytest.raises(PromptError, match="guessing"):
        make_example(first_clip(), "guessing", np.random.default_rng(0), media="video")


def test_a_task_of_the_other_medium_is_refused() -> None:
    with pytest.raises(PromptError, match="interactive is for images"):
        make_example(first_clip(), "interactive", np.random.default_rng(0), media="video")


def test_the_corpus_has_every_task_and_no_held_out_pair() -> None:
    texts = list(corpus(len(ASKED) * 6, seed=3))
    assert texts == list(corpus(len(ASKED) * 6, seed=3))
    assert texts != list(corpus(len(ASKED) * 6, seed=4))
    assert sum("describe this video" in text for text in texts) == 6
    assert all(f"{colour} {shape}" not in text for text in texts for colour, shape in HELD_OUT)
