"""A batch of labelled examples as tensors: what the model is shown, asked, and should have found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from x2sam_rt.config import ModelConfig
from x2sam_rt.data.example import Example
from x2sam_rt.errors import FrameError, PromptError
from x2sam_rt.model.preprocess import VisionInput, region_input, scaled_size, segmentor_input, vision_input
from x2sam_rt.model.prompt_encoder import PromptTokens, phrase_spans, prompt_tokens, seg_position
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.training.matching import MaskTargets
from x2sam_rt.tasks.marks import parse_marks
from x2sam_rt.tasks.table import DEFAULT_WORDING

_PATCHES_PER_TOKEN, _FRAMES_PER_PAIR = 4, 2


@dataclass(frozen=True, eq=False)
class Region:
    """A visual prompt: example and frame it was drawn on, and its mask (S, S) uint8."""

    example: int
    frame: int
    mask: Tensor


@dataclass(frozen=True, eq=False)
class Text:
    """The batch's token sequences, padded at their ends.

    ids: (B, L) int64 with the places of visual and region tokens. answer: (B, L) bool, the tokens to learn. seg: (B,)
    index of each `<SEG>` (0 where there is none). pool: (B, C, L), each condition as the mean of its tokens; zero rows
    are padding. spans: (B, L) bool, the tokens of all conditions.
    """

    ids: Tensor
    answer: Tensor
    seg: Tensor
    pool: Tensor
    spans: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """B examples of T frames each.

    frames: (B, T, 3, S, S). vision: patches of all examples' pairs of frames, one example after the other; an example
    may show the language model fewer than it has. pair_frames: (pairs,) int64, the first frame of each pair. targets:
    of all frames, masks (B·T, N, S/4, S/4) float, how much of each cell is covered; valid where they are in sight.
    draws: (B·T,) bool, frames whose masks are known.
    """

    names: tuple[str, ...]
    frames: Tensor
    vision: VisionInput
    pair_frames: Tensor
    text: Text
    regions: tuple[Region, ...]
    targets: MaskTargets
    draws: Tensor

    def to(self, device: str) -> Batch:
        """The same batch on another device."""
        moved: Batch = _moved(self, device)
        return moved

    @property
    def frame_names(self) -> list[str]:
        return [f"{name}, frame {index}" for name in self.names for index in range(self.frames.shape[1])]


def make_batch(examples: Sequence[Example], config: ModelConfig, tokenizer: Tokenizer) -> Batch:
    """examples: of one modality, one number of frames and one size. Raises DataError naming the example that cannot be
    used."""
    vision = [_vision(example, config) for example in examples]
    _check_alike(examples, vision)
    tokens = [_tokens(e, config, tokenizer, v) for e, v in zip(examples, vision, strict=True)]
    frames = len(examples[0].frames)
    pairs = [torch.arange(len(v.patches)) * _FRAMES_PER_PAIR + row * frames for row, v in enumerate(vision)]
    return Batch(
        names=tuple(example.name for example in examples),
        frames=torch.stack([_frames(example, config) for example in examples]),
        vision=VisionInput(torch.cat([v.patches for v in vision]), vision[0].height, vision[0].width),
        pair_frames=torch.cat(pairs),
        text=_text(examples, tokens, tokenizer),
        regions=tuple(region for i, example in enumerate(examples) for region in _regions(i, example, config)),
        targets=_targets(examples, config),
        draws=torch.cat([_draws(example) for example in examples]),
    )


def _moved(value: Any, device: str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _moved(getattr(value, field.name), device) for field in fields(value)})
    return value


@contextmanager
def _naming(example: Example) -> Iterator[None]:
    """What an instruction or a frame is refused for, as an error that names the example."""
    try:
        yield
    except (PromptError, FrameError) as error:
        raise example.bad(str(error).rstrip(".")) from error


def _check_alike(examples: Sequence[Example], vision: Sequence[VisionInput]) -> None:
    for example, seen in zip(examples, vision, strict=True):
        found = (example.media, len(example.frames), seen.height, seen.width)
        wanted = (examples[0].media, len(examples[0].frames), vision[0].height, vision[0].width)
        if found != wanted:
            raise example.bad(
                f"found {_kind(*found)}, but {examples[0].name} in the same batch is {_kind(*wanted)}; learn from "
                "batches of one example each, or make them alike"
            )


def _kind(media: str, frames: int, height: int, width: int) -> str:
    return f"{media} of {frames} frames, {height}×{width} patches each"


def _frames(example: Example, config: ModelConfig) -> Tensor:
    frames = torch.from_numpy(example.frames)
    return torch.cat([segmentor_input(frame, config.image_size, config.resize).pixels for frame in frames])


def _vision(example: Example, config: ModelConfig) -> VisionInput:
    video = example.media == "video"
    frames = list(torch.from_numpy(example.frames if example.seen is None else example.frames[: example.seen]))
    with _naming(example):
        return vision_input(frames, config.video_budget if video else config.image_budget, video=video)


def _tokens(example: Example, config: ModelConfig, tokenizer: Tokenizer, vision: VisionInput) -> PromptTokens:
    instruction = example.instruction
    with _naming(example):
        question = instruction.question_text(example.media, DEFAULT_WORDING)
    known = instruction.answer_text(DEFAULT_WORDING)
    answer = known if example.answer is None else parse_marks(example.answer)
    if answer is None:
        raise example.bad(f"the answer of the task {instruction.task} is not known beforehand, and none is given")
    pairs, patches, _ = vision.patches.shape
    tokens = prompt_tokens(tokenizer, example.media, pairs, patches // _PATCHES_PER_TOKEN, question, answer)
    room = int(config.language["text_config"]["max_position_embeddings"])
    if len(tokens.ids) > room:
        raise example.bad(f"it makes {len(tokens.ids)} tokens, but the language model holds {room}; use fewer frames")
    return tokens


def _text(examples: Sequence[Example], prompts: Sequence[PromptTokens], tokenizer: Tokenizer) -> Text:
    ids = pad_sequence([prompt.ids for prompt in prompts], batch_first=True)
    widest = max(example.conditions for example in examples)
    answer, spans = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    pool, seg = torch.zeros(len(ids), max(1, widest), ids.shape[1]), torch.zeros(len(ids), dtype=torch.int64)
    for row, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
        answer[row, prompt.answer_start : len(prompt.ids)] = True
        known = prompt.ids.tolist()
        found = phrase_spans(known, prompt.answer_start, tokenizer)
        if len(found) != example.conditions:
            raise example.bad(f"question and answer hold {len(found)} phrases for {example.conditions} conditions")
        for condition, span in enumerate(found):
            pool[row, condition, span] = 1 / (span.stop - span.start)
            spans[row, span] = True
        if example.targets and seg_position(known, tokenizer) is None:
            raise example.bad("it has masks, but no <SEG> in its answer")
        seg[row] = seg_position(known, tokenizer) or 0
    return Text(ids, answer, seg, pool, spans)


def _regions(index: int, example: Example, config: ModelConfig) -> list[Region]:
    frames, height, width = example.frames.shape[:3]
    regions = []
    for region in example.instruction.regions:
        with _naming(example):
            region.require_frame(range(frames))
            mask = region_input(region.mask(height, width), config.image_size, config.resize)
        regions.append(Region(index, region.frame, mask))
    return regions


def _targets(examples: Sequence[Example], config: ModelConfig) -> MaskTargets:
    frames, side = examples[0].frames.shape[0], config.grids[-1]
    most = max(1, *(len(example.targets) for example in examples))
    masks = torch.zeros(len(examples), frames, most, side, side)
    conditions = torch.zeros(len(examples), most, dtype=torch.int64)
    visible = torch.zeros(len(examples), frames, most, dtype=torch.bool)
    for row, example in enumerate(examples):
        for column, target in enumerate(example.targets):
            covered = torch.from_numpy(np.asarray(target.masks))
            masks[row, :, column] = _shares(covered, config)
            conditions[row, column] = target.condition
            visible[row, :, column] = covered.flatten(1).any(1)
    return MaskTargets(masks.flatten(0, 1), conditions.repeat_interleave(frames, 0), visible.flatten(0, 1))


def _shares(masks: Tensor, config: ModelConfig) -> Tensor:
    """(T, H, W) bool to (T, S/4, S/4): how much of each cell they cover, laid out as the frames are."""
    side = config.grids[-1]
    if config.resize == "stretch":
        return F.interpolate(masks[None].float(), size=(side, side), mode="area")[0]
    height, width = scaled_size(masks.shape[1], masks.shape[2], config.image_size, config.resize)
    scaled = F.interpolate(masks[None].float(), size=(height, width), mode="area")[0]
    padded = F.pad(scaled, (0, config.image_size - width, 0, config.image_size - height))
    return F.avg_pool2d(padded, config.image_size // side)


def _draws(example: Example) -> Tensor:
    frames = len(example.frames)
    if not example.conditions:
        return torch.zeros(frames, dtype=torch.bool)
    return torch.ones(frames, dtype=torch.bool) if example.labelled is None else torch.from_numpy(example.labelled)
