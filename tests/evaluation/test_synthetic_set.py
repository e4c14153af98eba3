from __future__ import annotations

import numpy as np

from x2sam_rt.data.synthetic import HELD_OUT
from x2sam_rt.evaluation.synthetic import synthetic_parts

PARTS = {part.name: part for part in synthetic_parts()}


def test_examples_are_always_the_same() -> None:
    for part, again in zip(PARTS.values(), synthetic_parts(), strict=True):
        one, other = part.samples[1].load(), again.samples[1].load()
        assert one.name == f"synthetic/{part.name.removesuffix(', without memory')}/1"
        assert np.array_equal(one.frames, other.frames)
        assert one.tags == other.tags
        assert [target.condition for target in one.targets] == [target.condition for target in other.targets]


def test_referring_asks_for_one_thing() -> None:
    for name, part in PARTS.items():
        if name.startswith("referring"):
            for sample in part.samples[:6]:
                example = sample.load()
                assert len(example.instruction.phrases) == example.conditions == 1


def test_look_alikes_are_told_apart_by_tags() -> None:
    tags = [sample.load().tags for sample in PARTS["referring, images"].samples[:24]]
    for one in tags:
        assert ("no look-alike" in one) != bool(one & {"same_colour", "same_shape"})
    assert any("no look-alike" in one for one in tags)


def test_unseen_pairs_are_those_kept_from_training() -> None:
    held_out = {f"{colour} {shape}" for colour, shape in HELD_OUT}
    for sample in PARTS["referring, unseen pairs"].samples[:8]:
        (phrase,) = sample.load().instruction.phrases
        assert any(pair in phrase for pair in held_out)
    for sample in PARTS["referring"].samples[:8]:
        (phrase,) = sample.load().instruction.phrases
        assert not any(pair in phrase for pair in held_out)


def test_clips_that_hide_have_hidden_frames_and_a_control() -> None:
    for name in ("referring, drained", "referring, occluded"):
        control = PARTS[f"{name}, without memory"]
        assert control.forget
        assert [sample.name for sample in control.samples] == [sample.name for sample in PARTS[name].samples]
        hidden = [example.hidden for sample in control.samples[:6] if (example := sample.load()).hidden is not None]
        assert len(hidden) == 6
        assert np.mean([flags.any() for flags in hidden]) > 0.5


def test_every_kind_of_prompt_is_there() -> None:
    kinds = {sample.load().instruction.regions[0].kind for sample in PARTS["object"].samples[:24]}
    assert kinds == {"point", "box", "scribble", "mask"}
