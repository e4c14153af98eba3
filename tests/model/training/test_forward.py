"""What is trained is what runs: the forward pass of training against the runtime, and against itself."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from x2sam_rt.data.example import Example
from x2sam_rt.data.synthetic import synthetic_example
from x2sam_rt.export.engines import build_engines
from x2sam_rt.model.prompt_encoder import PromptEncoder
from x2sam_rt.model.stages import FrameEncoder
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.training import forward
from x2sam_rt.model.training.batch import Batch, make_batch
from x2sam_rt.model.training.forward import Prediction, predict, union
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.engines.engine import Engines
from x2sam_rt.runtime.engines.towers import RegionSourceEngine, VisionTowerEngine
from x2sam_rt.runtime.language import LanguageRuntime
from x2sam_rt.runtime.pipeline import MaskPrediction, Pipeline
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.tasks.table import DEFAULT_WORDING, Media

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def made(index: int, task: str, media: Media = "video", seen: int | None = None) -> Example:
    settings = tiny.CLIPS if media == "video" else tiny.IMAGES
    return replace(synthetic_example("train", index, task, media=media, settings=settings), seen=seen)


@pytest.fixture(scope="module")
def model() -> X2SAM:
    """Initial values hide mistakes: zero biases and unit norms make parts vanish."""
    model = copy.deepcopy(tiny.untrained().model)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.ndim < 2:
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return tiny.untrained().tokenizer


@pytest.fixture(scope="module")
def engines(model: X2SAM, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    return build_engines(model, "torch", tmp_path_factory.mktemp("engines"))


def batch_of(model: X2SAM, tokenizer: Tokenizer, *examples: Example) -> Batch:
    return make_batch(examples, model.config, tokenizer)


@torch.no_grad()
def predicted(model: X2SAM, tokenizer: Tokenizer, *examples: Example, teacher_forcing: bool = False) -> Prediction:
    return predict(model, batch_of(model, tokenizer, *examples), teacher_forcing=teacher_forcing)


def streamed(
    model: X2SAM, tokenizer: Tokenizer, engines: Engines, example: Example, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Tensor, Tensor]]:
    """Mask and class logits of every frame, as a session computes them."""
    found: list[tuple[Tensor, Tensor]] = []
    step = Pipeline.step

    def spied(self: Pipeline, *arguments: object) -> MaskPrediction:
        prediction = step(self, *arguments)  # type: ignore[arg-type]
        found.append((prediction.mask_logits.clone(), prediction.class_logits.clone()))
        return prediction

    monkeypatch.setattr(Pipeline, "step", spied)
    encoder = PromptEncoder(model, VisionTowerEngine(engines.vision_encoder))
    source = RegionSourceEngine(engines.frame_encoder)
    language = LanguageRuntime(encoder, source, tokenizer, model.config, DEFAULT_WORDING)
    frames = [torch.from_numpy(frame) for frame in example.frames]
    session = VideoSession(engines, language, model.config, example.media)
    live = example.seen == 1 or example.media == "image"
    clip = None if live else PromptFrames(tuple(frames[: example.seen]), dict(enumerate(frames)))
    session.ask(replace(example.instruction, answer=example.answer), frames=clip)
    for frame in frames:
        session.step(frame)
    return found


ASKED = [
    ("referring", "video", None),
    ("referring", "video", 1),
    ("object", "video", 1),
    ("vgd", "video", None),
    ("reasoning", "video", None),
    ("panoptic", "video", 1),
    ("gcg", "video", None),
    ("interactive", "image", None),
    ("instance", "image", None),
]


@pytest.mark.parametrize(("task", "media", "seen"), ASKED)
def test_training_predicts_what_a_session_predicts(
    model: X2SAM,
    tokenizer: Tokenizer,
    engines: Engines,
    task: str,
    media: Media,
    seen: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = made(3, task, media, seen)
    trained = predicted(model, tokenizer, example)
    ran = streamed(model, tokenizer, engines, example, monkeypatch)
    assert len(ran) == len(example.frames)
    for frame, (masks, classes) in enumerate(ran):
        torch.testing.assert_close(trained.mask_logits[-1, frame], masks, **CLOSE)
        torch.testing.assert_close(trained.class_logits[-1, frame], classes, **CLOSE)


def test_memory_reaches_the_later_frames(model: X2SAM, tokenizer: Tokenizer) -> None:
    """A control of the test above: agreement would mean nothing if the memory were ignored."""
    example = made(3, "referring")
    other = example.frames.copy()
    other[0] = other[0][::-1]
    changed = replace(example, frames=other, seen=1)
    one = predicted(model, tokenizer, replace(example, seen=1))
    two = predicted(model, tokenizer, changed)
    for features, disturbed in zip(one.conditioned, two.conditioned, strict=True):
        assert (features[1] - disturbed[1]).abs().max() > 1e-2
    for features, disturbed in zip(one.own, two.own, strict=True):
        assert torch.equal(features[1], disturbed[1])


def test_a_batch_is_its_examples_one_by_one(model: X2SAM, tokenizer: Tokenizer) -> None:
    """Of different length, number of conditions, frames seen, and with regions."""
    examples = [made(3, "referring", seen=1), made(4, "panoptic"), made(5, "object"), made(6, "chat", seen=1)]
    together = predicted(model, tokenizer, *examples)
    batch = batch_of(model, tokenizer, *examples)
    for row, example in enumerate(examples):
        alone = predicted(model, tokenizer, example)
        rows = slice(row * tiny.FRAMES, (row + 1) * tiny.FRAMES)
        if example.conditions:  # a conversation's masks are nobody's
            torch.testing.assert_close(together.mask_logits[:, rows], alone.mask_logits, **CLOSE)
            for shared, own in zip(together.conditioned, alone.conditioned, strict=True):
                torch.testing.assert_close(shared[rows], own, **CLOSE)
            columns = [*range(example.conditions), -1]
            torch.testing.assert_close(together.class_logits[:, rows][..., columns], alone.class_logits, **CLOSE)
        assert (together.class_logits[:, rows, :, example.conditions : -1] <= -1e6).all()
        length = alone.token_logits.shape[1]
        torch.testing.assert_close(together.token_logits[row, :length], alone.token_logits[0], **CLOSE)
    assert batch.text.ids.shape[1] > min(len(batch_of(model, tokenizer, one).text.ids[0]) for one in examples)


def test_memory_of_true_masks_is_predicted_memory_of_the_true_masks(
    model: X2SAM, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = made(3, "referring"), made(5, "object", seen=1)
    taught = predicted(model, tokenizer, *examples, teacher_forcing=True)
    truth = union(batch_of(model, tokenizer, *examples).targets).view(2, tiny.FRAMES, 16, 16)
    right = iter(truth.unbind(1))
    untaught = predicted(model, tokenizer, *examples)
    monkeypatch.setattr(forward, "_fuse", lambda *_: next(right))
    forced = predicted(model, tokenizer, *examples)
    for one, other in zip(taught.conditioned, forced.conditioned, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert (taught.conditioned[0] - untaught.conditioned[0]).abs().max() > 1e-2


def test_first_frames_pass_their_own_features(model: X2SAM, tokenizer: Tokenizer) -> None:
    examples = made(3, "referring"), made(5, "object")
    batch = batch_of(model, tokenizer, *examples)
    prediction = predicted(model, tokenizer, *examples)
    with torch.no_grad():
        first = FrameEncoder(model.segmentor)(batch.frames[:, 0], torch.ones(2))
        second = FrameEncoder(model.segmentor)(batch.frames[:, 1], torch.zeros(2))
    at_first, at_second = torch.tensor([0, tiny.FRAMES]), torch.tensor([1, tiny.FRAMES + 1])
    for scale in range(3):
        torch.testing.assert_close(prediction.own[scale][at_first], first[scale], **CLOSE)
        torch.testing.assert_close(prediction.own[scale][at_second], second[scale], **CLOSE)
        assert torch.equal(prediction.conditioned[scale][at_first], prediction.own[scale][at_first])
        assert not torch.allclose(prediction.conditioned[scale][at_second], prediction.own[scale][at_second], atol=1e-2)


def test_targets_out_of_sight_are_not_remembered(tokenizer: Tokenizer, model: X2SAM) -> None:
    example = made(3, "referring")
    targets = batch_of(model, tokenizer, example).targets
    hidden = replace(targets, valid=torch.zeros_like(targets.valid))
    assert union(hidden).max() == 0
    covered = torch.from_numpy(example.targets[0].masks[0]).float().mean()
    assert union(targets)[0].mean() >= covered - 1e-5


# Stored by checkpoints and read by nothing; levels of the pyramid that no part of X2SAM takes; words' logits only.
SILENT = (
    "segmentor.shared_image_embedding.",
    "segmentor.encoder.neck.convs.0.",
    "segmentor.encoder.backbone.blocks.4.",
    "vlm.model.language_model.norm.",
)


@pytest.mark.parametrize("teacher_forcing", [True, False])
def test_every_part_gets_a_gradient(tmp_path: Path, teacher_forcing: bool) -> None:
    """Nothing is cut off from the masks and classes of clips, one of them with a region."""
    fresh = tiny.model(tmp_path, seed=1)
    for layer in fresh.segmentor.pixel_decoder.encoder.layers:  # begin at zero, behind which nothing learns yet
        torch.nn.init.normal_(layer.self_attn.sampling_offsets.weight, std=0.01)
    batch = make_batch([made(3, "object"), made(4, "referring")], fresh.config, tiny.load_tokenizer(tmp_path, fresh))
    prediction = predict(fresh, batch, teacher_forcing=teacher_forcing)
    (prediction.mask_logits.square().mean() + prediction.class_logits.clamp_min(-50).square().mean()).backward()
    silent = {name for name, value in fresh.named_parameters() if value.grad is None or not value.grad.any()}
    assert {name for name in silent if not name.startswith(SILENT)} == set()
