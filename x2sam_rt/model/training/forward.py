"""The model run so that it can learn: batches of clips, every decoder layer's prediction, gradients throughout."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from x2sam_rt.errors import ConfigError
from x2sam_rt.kernels.mask_fusion import mask_fusion
from x2sam_rt.model.prompt_encoder import PromptEncoder
from x2sam_rt.model.stages import FrameEncoder
from x2sam_rt.model.training.batch import Batch
from x2sam_rt.model.training.losses import MaskTargets
from x2sam_rt.model.x2sam import X2SAM

Scales = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Prompts:
    """seg: (B, 1, D). conditions: (B, C + 1, D), the background last, padding before it; present: (B, C + 1) bool.
    tokens: (B, L, D) of which spans (B, L) bool belong to conditions."""

    seg: Tensor
    conditions: Tensor
    present: Tensor
    tokens: Tensor
    spans: Tensor

    def repeat(self, frames: int) -> Prompts:
        """One row per frame instead of one per example."""
        rows = {name: value.repeat_interleave(frames, 0) for name, value in vars(self).items()}
        return replace(self, **rows)


@dataclass(frozen=True, eq=False)
class Reading:
    """What the language side alone makes of a batch. visual: (pairs, tokens, dim) of the visual tower. states:
    (B, L, dim) of the last layer. token_logits: (B, L, V)."""

    visual: Tensor
    states: Tensor
    token_logits: Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """Of every frame, and of the queries before the first decoder layer and after each.

    mask_logits: (layers, B·T, Q, S/4, S/4). class_logits: (layers, B·T, Q, C + 1). states: (layers, B·T, Q, D), the
    normalised queries. own: the frames' own pixel features, low to high, each (B·T, D, h, w); conditioned: what the
    mask decoder saw of them. mask_features: (B·T, D, S/4, S/4). conditions: (B·T, C, D) without the background.
    visual: (pairs, tokens, dim) of the visual tower. token_logits: (B, L, V).
    """

    mask_logits: Tensor
    class_logits: Tensor
    states: Tensor
    own: Scales
    conditioned: Scales
    mask_features: Tensor
    conditions: Tensor
    visual: Tensor
    token_logits: Tensor


def predict(model: X2SAM, batch: Batch, *, teacher_forcing: bool) -> Prediction:
    """Every frame of every clip, its memory filled in order.

    teacher_forcing: the memory is given the true masks instead of the predicted ones; then all frames are decoded at
    once. Masks that are not known count as empty.
    """
    examples, frames = batch.frames.shape[:2]
    segmentor = model.segmentor
    pyramid, region_source = segmentor.encoder(batch.frames.flatten(0, 1))
    reading = read(model, batch, region_source)
    prompts = _prompts(model, batch, reading.states)
    first = (torch.arange(examples * frames, device=batch.frames.device) % frames == 0).float()
    *own, mask_features = FrameEncoder(segmentor).decode(pyramid, first)
    remember = _remember_true if teacher_forcing else _remember_predicted
    conditioned = tuple(own) if frames == 1 else remember(model, batch, tuple(own), mask_features, prompts)
    by_frame = prompts.repeat(frames)
    masks, classes, states = _decode(model, conditioned, mask_features, by_frame)
    return Prediction(
        mask_logits=masks,
        class_logits=classes,
        states=states,
        own=tuple(own),
        conditioned=conditioned,
        mask_features=mask_features,
        conditions=by_frame.conditions[:, :-1],
        visual=reading.visual,
        token_logits=reading.token_logits,
    )


def read(model: X2SAM, batch: Batch, region_source: Tensor | None = None) -> Reading:
    """Frames and text through the visual tower and the language model. region_source: of every frame, as the mask
    encoder gives it; may be left out where the batch has no regions, else raises ConfigError."""
    encoder = PromptEncoder(model)
    visual = encoder.see(batch.vision)
    regions = _look_at_regions(encoder, batch, region_source) if batch.regions else None
    states = encoder.states(batch.text.ids, visual, regions)
    return Reading(visual.tokens, states, encoder.language.logits(states))


def _prompts(model: X2SAM, batch: Batch, states: Tensor) -> Prompts:
    """The language model's states at `<SEG>` and at the conditions' tokens, projected."""
    text, encoder = batch.text, PromptEncoder(model)
    projected = encoder.project(states)
    background = encoder.background.expand(len(states), 1, -1)
    conditions = torch.cat((text.pool @ projected, background), dim=1)
    present = F.pad(text.pool.any(-1), (0, 1), value=True)
    seg = projected[torch.arange(len(states)), text.seg][:, None]
    # A conversation has no condition at all; its masks are nobody's, but attention must find something.
    spans = text.spans | ~text.spans.any(-1, keepdim=True)
    return Prompts(seg, conditions, present, projected, spans)


def _look_at_regions(encoder: PromptEncoder, batch: Batch, region_source: Tensor | None) -> Tensor:
    if region_source is None:
        raise ConfigError(
            f"A stage that does not segment cannot learn from visual prompts, which the mask encoder looks at; found "
            f"{len(batch.regions)} in {', '.join(batch.names)}. Leave such tasks out of its mixture."
        )
    frames = batch.frames.shape[1]
    tokens = [
        encoder.look_at_regions(region_source[region.example * frames + region.frame][None], region.mask[None])
        for region in batch.regions
    ]
    return torch.cat(tokens)


def _decode(model: X2SAM, features: Scales, mask_features: Tensor, prompts: Prompts) -> tuple[Tensor, Tensor, Tensor]:
    """Mask logits, class logits and query states of every decoder layer."""
    decoder = model.segmentor.decoder
    queries = decoder.queries(features, mask_features, prompts.seg, prompts.tokens, prompts.spans)
    predicted = [decoder.predict(hidden, mask_features) for hidden in queries]
    classes = [model.segmentor.class_predictor(s, prompts.conditions, prompts.present) for _, s in predicted]
    masks, states = zip(*predicted, strict=True)
    return torch.stack(masks), torch.stack(classes), torch.stack(states)


def _remember_true(model: X2SAM, batch: Batch, own: Scales, mask_features: Tensor, prompts: Prompts) -> Scales:
    """Conditioned features when every slot was made from the frame's true masks."""
    frames = batch.frames.shape[1]
    memory = model.segmentor.memory_encoder.encode(own, union(batch.targets))
    clips = memory.view(-1, frames, *memory.shape[1:])
    rows = [_condition(model, own, index, frames, clips[index // frames]) for index in range(len(memory))]
    return tuple(torch.cat(scale) for scale in zip(*rows, strict=True))


def _remember_predicted(model: X2SAM, batch: Batch, own: Scales, mask_features: Tensor, prompts: Prompts) -> Scales:
    """Conditioned features when every slot was made from what the model itself predicted, as at inference. What it
    predicted counts as given: gradients reach the memory through its features."""
    frames = batch.frames.shape[1]
    rows: list[Scales] = [()] * len(mask_features)
    slots: list[Tensor] = []
    for time in range(frames):
        now = torch.arange(time, len(mask_features), frames)
        for clip, index in enumerate(now.tolist()):
            bank = torch.stack([slot[clip] for slot in slots]) if slots else own[0].new_zeros(0)
            rows[index] = _condition(model, own, index, frames, bank)
        if time + 1 < frames:
            seen = tuple(torch.cat([rows[index][scale] for index in now.tolist()]) for scale in range(len(own)))
            fused = _fuse(model, seen, mask_features[now], prompts)
            slots.append(model.segmentor.memory_encoder.encode(tuple(scale[now] for scale in own), fused))
    return tuple(torch.cat(scale) for scale in zip(*rows, strict=True))


def _condition(model: X2SAM, own: Scales, index: int, frames: int, clip: Tensor) -> Scales:
    """One frame's features on the slots before it, at most as many as the bank holds."""
    features = tuple(scale[index : index + 1] for scale in own)
    time = index % frames
    oldest = max(0, time - model.config.memory.slots)
    if time == 0:
        return features
    frame_offsets = torch.arange(time - oldest, 0, -1, dtype=torch.float32, device=clip.device)
    out: Scales = model.segmentor.memory_attention(features, clip[oldest:time], frame_offsets)
    return out


@torch.no_grad()
def _fuse(model: X2SAM, features: Scales, mask_features: Tensor, prompts: Prompts) -> Tensor:
    """(B, S/4, S/4): the mask guidance of one frame of every clip."""
    decoder = model.segmentor.decoder
    queries = decoder.queries(features, mask_features, prompts.seg, prompts.tokens, prompts.spans)[-1]
    masks, states = decoder.predict(queries, mask_features)
    classes = model.segmentor.class_predictor(states, prompts.conditions, prompts.present)
    return torch.stack([mask_fusion(c.float(), m.float()) for c, m in zip(classes, masks, strict=True)])


def union(targets: MaskTargets) -> Tensor:
    """(frames, h, w), 0…1: where any target is."""
    return (targets.masks * targets.valid[..., None, None]).amax(1)
