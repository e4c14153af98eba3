from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from x2sam_rt.config import ModelConfig
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.synthetic import synthetic_example
from x2sam_rt.errors import DataError
from x2sam_rt.model.preprocess import segmentor_input
from x2sam_rt.model.prompt_encoder import REGION_PLACE, VISUAL_PLACE
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.training.batch import Batch, make_batch
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import BoxPrompt, PointPrompt

MakeBatch = Callable[..., Batch]
MASKS = np.zeros((3, 64, 96), dtype=np.bool_)
MASKS[:, 10:25, 4:37] = True
MASKS[1] = False


def example(**changes: object) -> Example:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    plain = Example(
        "clip-7", "video", frames, Instruction(phrases=("a cat",)), conditions=1, targets=(Target(0, MASKS, 4),)
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return tiny.untrained().model.config


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny.untrained().tokenizer


@pytest.fixture(scope="module")
def batch_of(config: ModelConfig, tokenizer: Tokenizer) -> MakeBatch:
    def make(*examples: Example) -> Batch:
        return make_batch(examples, config, tokenizer)

    return make


def written(batch: Batch, row: int, tokenizer: Tokenizer) -> str:
    """The tokens to learn of a row, as text."""
    return tokenizer.decode(batch.text.ids[row][batch.text.answer[row]].tolist())


def test_frames_and_masks_are_laid_out_alike(batch_of: MakeBatch) -> None:
    one, other = example(), example(name="clip-8", targets=())
    batch = batch_of(one, other)
    assert batch.frames.shape == (2, 3, 3, 64, 64)
    pixels = segmentor_input(torch.from_numpy(one.frames[2]), 64, "stretch").pixels[0]
    assert torch.equal(batch.frames[0, 2], pixels)
    assert batch.targets.masks.shape == (6, 1, 16, 16)
    assert batch.targets.valid[:, 0].tolist() == [True, False, True, False, False, False]
    assert batch.targets.masks[0].mean() == pytest.approx(MASKS[0].mean(), abs=1e-6)
    assert batch.draws.tolist() == [True] * 6
    assert batch.frame_names[4] == "clip-8, frame 1"


def test_longest_side_pads_masks_as_it_pads_frames(config: ModelConfig, tokenizer: Tokenizer) -> None:
    config = replace(config, resize="longest_side")
    masks = np.zeros((3, 40, 64), dtype=np.bool_)
    masks[:, 20:] = True
    low = example(frames=np.zeros((3, 40, 64, 3), dtype=np.uint8), targets=(Target(0, masks, 0),))
    batch = make_batch([low], config, tokenizer)
    column = batch.targets.masks[0, 0, :, 3]
    assert column.tolist() == [0] * 5 + [1] * 5 + [0] * 6
    assert (batch.frames[0, 0, :, 40:] == 0).all()


@pytest.mark.parametrize("seen", [1, 2, 3, None])
def test_examples_may_show_the_language_model_fewer_frames(
    batch_of: MakeBatch, tokenizer: Tokenizer, seen: int | None
) -> None:
    batch = batch_of(example(seen=1), example(seen=seen), example())
    pairs = [1, {1: 1, 2: 1, 3: 2, None: 2}[seen], 2]
    per_pair = batch.vision.patches.shape[1] // 4
    assert (batch.text.ids == VISUAL_PLACE).sum(1).tolist() == [count * per_pair for count in pairs]
    assert len(batch.vision.patches) == sum(pairs)
    assert batch.pair_frames.tolist() == [0, *[3, 5][: pairs[1]], 6, 8]
    lengths = [len(batch_of(one).text.ids[0]) for one in (example(seen=1), example(seen=seen), example())]
    for row, length in enumerate(lengths):
        assert not batch.text.answer[row, length:].any()
        assert not batch.text.spans[row, length:].any()
        assert written(batch, row, tokenizer).endswith("<SEG>.<|im_end|>")


def test_conditions_are_the_means_of_their_phrases(batch_of: MakeBatch, tokenizer: Tokenizer) -> None:
    two = example(instruction=Instruction(phrases=("a cat", "the blue dog")), conditions=2)
    text = batch_of(two, example(name="other")).text
    assert text.pool.shape[:2] == (2, 2)
    for condition, phrase in enumerate(("a cat", "the blue dog")):
        chosen = text.pool[0, condition] > 0
        assert tokenizer.decode(text.ids[0][chosen].tolist()) == f"<p>{phrase}</p>"
        assert text.pool[0, condition].sum() == pytest.approx(1)
    assert (text.pool[1, 1] == 0).all()
    assert torch.equal(text.spans, text.pool.any(1))
    assert text.ids[torch.arange(2), text.seg].tolist() == [tokenizer.seg] * 2


def test_phrases_of_the_answer_replace_those_of_the_question(batch_of: MakeBatch, tokenizer: Tokenizer) -> None:
    answer = "There is <p>a bird</p>. <SEG>."
    text = batch_of(example(instruction=Instruction("gcg"), answer=answer)).text
    assert tokenizer.decode(text.ids[0][text.spans[0]].tolist()) == "<p>a bird</p>"


def test_a_conversation_has_nothing_to_find(batch_of: MakeBatch, tokenizer: Tokenizer) -> None:
    talk = synthetic_example("train", 5, "chat", media="image", settings=tiny.IMAGES)
    batch = batch_of(talk, tiny.image(1))
    assert batch.draws.tolist() == [False, True]
    assert not batch.targets.valid[0].any()
    assert not batch.text.spans[0].any()
    assert written(batch, 0, tokenizer) == f"{talk.answer}<|im_end|>"


def test_regions_keep_their_example_and_frame(batch_of: MakeBatch) -> None:
    regions = (PointPrompt(2, ((30.0, 12.0),), 3), BoxPrompt(0, 4, 8, 40, 30))
    prompted = example(instruction=Instruction("vgd", regions=regions), conditions=2)
    batch = batch_of(example(), prompted)
    assert [(region.example, region.frame) for region in batch.regions] == [(1, 2), (1, 0)]
    assert all(region.mask.shape == (64, 64) and region.mask.any() for region in batch.regions)
    assert (batch.text.ids == REGION_PLACE).sum(1).tolist() == [0, 2 * 64]


def test_frames_without_labels_are_marked(batch_of: MakeBatch) -> None:
    batch = batch_of(example(labelled=np.array([True, False, True])))
    assert batch.draws.tolist() == [True, False, True]


def test_a_batch_moves_whole(batch_of: MakeBatch) -> None:
    prompted = example(instruction=Instruction("object", regions=(BoxPrompt(0, 4, 8, 40, 30),)))
    moved = batch_of(prompted, prompted).to("meta")
    tensors = [moved.frames, moved.vision.patches, moved.text.pool, moved.regions[1].mask, moved.targets.masks]
    assert {str(tensor.device) for tensor in tensors} == {"meta"}


BAD = {
    "phrases-too-few": ({"conditions": 2}, "clip-7: question and answer hold 1 phrases for 2 conditions"),
    "phrases-in-answer": ({"answer": "<p>a</p> and <p>b</p>. <SEG>."}, "clip-7: .*hold 2 phrases for 1 conditions"),
    "no-seg": ({"answer": "There it is."}, "clip-7: it has masks, but no <SEG>"),
    "no-answer": ({"instruction": Instruction("gcg")}, "clip-7: the answer of the task gcg is not known"),
    "region-outside": (
        {"instruction": Instruction("object", regions=(PointPrompt(3, ((5.0, 5.0),), 2),))},
        "clip-7: point prompt on frame 3, but frames 0 to 2",
    ),
    "point-outside": (
        {"instruction": Instruction("object", regions=(PointPrompt(0, ((96.0, 5.0),), 2),))},
        "clip-7: point at .* outside",
    ),
    "too-long": ({"answer": "word " * 600 + "<SEG>."}, "clip-7: it makes .* tokens, but the language model holds 512"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named(batch_of: MakeBatch, name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(DataError, match=message):
        batch_of(example(**changes))


def test_examples_that_differ_cannot_share_a_batch(batch_of: MakeBatch) -> None:
    wide = np.zeros((3, 64, 200, 3), dtype=np.uint8)
    others = {
        "patches": replace(example(name="b"), frames=wide, targets=()),
        "2 frames": replace(example(name="b"), frames=wide[:2], targets=()),
        "image of": replace(tiny.image(0), name="b"),
    }
    for message, other in others.items():
        with pytest.raises(DataError, match=rf"Example b: found .*{message}.* but clip-7 in the same batch"):
            batch_of(example(), other)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(0, MASKS[:, :-1], 4), r"masks of target 4 are \(3, 63, 96\) bool; wanted \(3, 64, 96\)"),
        (Target(1, MASKS, 4), "target 4 belongs to condition 1; the instruction has 1"),
        (Target(-1, MASKS, 4), "target 4 belongs to condition -1"),
    ],
    ids=["size", "label", "negative"],
)
def test_masks_and_labels_that_do_not_fit_are_named(target: Target, message: str) -> None:
    with pytest.raises(DataError, match=rf"clip-7: .*{message}"):
        example(targets=(target,))
