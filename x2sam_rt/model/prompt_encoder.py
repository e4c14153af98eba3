"""From frames and words to what frames are segmented by: prompt tokens, language states, prompt embeddings.

The runtime gives the encoder its engine of the visual tower and a cache; training gives it batches and gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.model.language import DeepStack, LanguageModel
from x2sam_rt.model.preprocess import VisionInput
from x2sam_rt.model.region_sampler import REGION_TOKENS, region_map, region_tokens
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.vision_encoder import VisionTower, patch_grid
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.tasks.marks import MarkedText
from x2sam_rt.tasks.table import Media

# Places that tokens of another kind take; no vocabulary has negative ids.
VISUAL_PLACE, REGION_PLACE = -1000, -400
# Patches and their grid in, visual tokens and deep-stack features out: `VisionTower`, or an engine of it.
VisualTower = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """ids: (tokens,) int64, with VISUAL_PLACE and REGION_PLACE where other embeddings go. answer_start: index of the
    first token of the answer."""

    ids: Tensor
    answer_start: int


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """What a frame is segmented by, kept until the next instruction.

    seg: (1, D). conditions: (C + 1, D), one row per phrase, category or region, then the background row.
    tokens: (T, D), the conditions' tokens unaveraged, one condition after the other.
    """

    seg: Tensor
    conditions: Tensor
    tokens: Tensor


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """tokens: (pairs, tokens per pair, dim). deepstack: (levels, pairs, tokens per pair, dim)."""

    tokens: Tensor
    deepstack: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """Pairs of frames, and tokens of each."""
        return self.tokens.shape[0], self.tokens.shape[1]

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.deepstack.nbytes

    def last(self, count: int) -> VisualTokens:
        """The last `count` tokens, whatever pairs they are of, as (1, count, dim) and (levels, 1, count, dim)."""
        tokens, deepstack = self.tokens.flatten(0, 1), self.deepstack.flatten(1, 2)
        first = len(tokens) - count
        return VisualTokens(tokens[None, first:], deepstack[:, None, first:])


@dataclass(frozen=True, eq=False)
class LanguageStates:
    """The language model's states of those tokens of a sequence that are read.

    positions: (n,) int64, ascending, in the sequence. values: (n, dim).
    """

    positions: Tensor
    values: Tensor

    def at(self, span: slice) -> Tensor:
        """(tokens, dim). Every token of the span must be among the positions."""
        ends = self.positions.new_tensor([span.start, span.stop])
        first, last = torch.searchsorted(self.positions, ends).tolist()
        assert last - first == span.stop - span.start, f"states of {span} were not kept"
        return self.values[first:last]


def prompt_tokens(
    tokenizer: Tokenizer,
    media: Media,
    pairs: int,
    tokens_per_pair: int,
    question: MarkedText,
    answer: MarkedText | None,
) -> PromptTokens:
    """Qwen's chat format. question: stands after the vision block. answer: None = to be generated.

    A video's pairs are introduced by a counter `<k.0 seconds>`, which is not real time (as the model was trained).
    """
    encode = tokenizer.encode
    ids = [tokenizer.im_start, *encode("user\n")]
    for pair in range(pairs):
        counter = encode(f"<{pair + 1}.0 seconds>") if media == "video" else []
        ids += [*counter, tokenizer.vision_start, *[VISUAL_PLACE] * tokens_per_pair, tokenizer.vision_end]
    ids += tokenizer.encode_marked(question, region=[REGION_PLACE] * REGION_TOKENS)
    ids += [tokenizer.im_end, *encode("\n"), tokenizer.im_start, *encode("assistant\n")]
    tail = [] if answer is None else [*tokenizer.encode_marked(answer), tokenizer.im_end]
    return PromptTokens(torch.tensor(ids + tail, device="cpu"), len(ids))


def phrase_spans(ids: Sequence[int], answer_start: int, tokenizer: Tokenizer) -> list[slice]:
    """Where the conditions stand, each from its `<p>` to its `</p>`, both included; an unclosed `<p>` is none. Phrases
    of the answer replace those of the question (X2SAM)."""
    return _spans(ids, answer_start, len(ids), tokenizer) or _spans(ids, 0, answer_start, tokenizer)


def _spans(ids: Sequence[int], start: int, stop: int, tokenizer: Tokenizer) -> list[slice]:
    spans, opened = [], None
    for index in range(start, stop):
        if ids[index] == tokenizer.phrase_start:
            opened = index if opened is None else opened
        elif ids[index] == tokenizer.phrase_end and opened is not None:
            spans.append(slice(opened, index + 1))
            opened = None
    return spans


def seg_position(ids: Sequence[int], tokenizer: Tokenizer) -> int | None:
    """The last `<SEG>`, or None. (The published code draws nothing for several; the last one is used here.)"""
    return next((index for index in reversed(range(len(ids))) if ids[index] == tokenizer.seg), None)


def read_positions(ids: Sequence[int], answer_start: int, tokenizer: Tokenizer) -> Tensor:
    """(n,) int64, ascending: the tokens of the conditions and the `<SEG>`; without one the last token, from which an
    answer is generated."""
    seg = seg_position(ids[answer_start:], tokenizer)
    places = {len(ids) - 1 if seg is None else answer_start + seg}
    places |= {index for span in phrase_spans(ids, answer_start, tokenizer) for index in range(span.start, span.stop)}
    return torch.tensor(sorted(places), device="cpu")


class PromptEncoder:
    """Visual tower, region sampler, language model and the projectors between them and the segmentor."""

    def __init__(self, model: X2SAM, tower: VisualTower | None = None) -> None:
        """tower: runs the visual tower; None = the model's own, in PyTorch."""
        self.language = LanguageModel(model.vlm)
        self._model = model
        self._tower = tower or VisionTower(model.vlm.model.visual)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.language.embeddings.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Where frames, token ids and masks are to be; what says where they stand stays on the host."""
        device: torch.device = self.language.embeddings.weight.device
        return device

    def see(self, vision: VisionInput) -> VisualTokens:
        """Runs the visual tower."""
        config = self._model.config.language["vision_config"]
        patches = vision.patches.to(self.dtype).contiguous()
        grid = patch_grid(
            vision.height,
            vision.width,
            merge=config["spatial_merge_size"],
            table_side=int(config["num_position_embeddings"] ** 0.5),
            head_dim=config["hidden_size"] // config["num_heads"],
        ).to(patches.device)
        return VisualTokens(*self._tower(patches, grid.indices, grid.weights, grid.cos, grid.sin))

    def look_at_regions(self, region_source: Tensor, masks: Tensor) -> Tensor:
        """region_source: (1, S/16, S/16, C) of the prompted frame. masks: (R, S, S). Returns (R, 64, dim)."""
        return region_tokens(region_map(region_source.to(self.dtype), self._model.extra_projector), masks)

    def embed(self, ids: Tensor, visual: VisualTokens | None, regions: Tensor | None) -> Tensor:
        """ids: (tokens,) or (B, tokens), padded at the end. visual, regions: of all places in ids, in their order;
        regions: (R, 64, dim). Returns (…, dim): word embeddings with visual and region tokens in their places."""
        embeds = self.language.embed(ids.clamp_min(0))
        if visual is not None:
            embeds = _put(embeds, ids == VISUAL_PLACE, visual.tokens)
        return embeds if regions is None else _put(embeds, ids == REGION_PLACE, regions)

    def states(self, ids: Tensor, visual: VisualTokens, regions: Tensor | None) -> Tensor:
        """One forward over whole sequences, with gradients where they are wanted. ids: (B, tokens), padded at the end.
        Returns (B, tokens, dim), the last layer's output before the final norm."""
        embeds = self.embed(ids, visual, regions)
        return self.language.states(embeds, ids == VISUAL_PLACE, visual.deepstack.flatten(1, 2))

    def project(self, states: Tensor) -> Tensor:
        """(…, language dim) → (…, D)."""
        projected: Tensor = self._model.mlm_projector(states)
        return projected

    @property
    def background(self) -> Tensor:
        """(1, D): the learned row for "none of the conditions", not projected."""
        row: Tensor = self._model.bg_embeds.weight
        return row

    def read(
        self, ids: Sequence[int], states: LanguageStates, answer_start: int, tokenizer: Tokenizer
    ) -> PromptEmbeddings | None:
        """From a sequence, and the states at its `read_positions` (a last generated token has none).

        None where the answer has no `<SEG>`, or nothing names a condition; then no masks can be drawn.
        """
        known = ids[: int(states.positions[-1]) + 1]
        seg = seg_position(known[answer_start:], tokenizer)
        spans = phrase_spans(known, answer_start, tokenizer)
        if seg is None or not spans:
            return None
        seg += answer_start
        projected = [self.project(states.at(span)) for span in spans]
        means = torch.stack([tokens.mean(0) for tokens in projected])
        return PromptEmbeddings(
            self.project(states.at(slice(seg, seg + 1))), torch.cat((means, self.background)), torch.cat(projected)
        )


def deep_stack(ids: Tensor, visual: VisualTokens) -> DeepStack:
    """The deep-stack features of one prompt's visual tokens, and where these stand in it."""
    return DeepStack(visual.deepstack.flatten(1, 2), (ids == VISUAL_PLACE).nonzero()[:, 0])


def _put(embeds: Tensor, places: Tensor, tokens: Tensor) -> Tensor:
    """tokens: (…, …, dim) in the order of the places they take."""
    return embeds.masked_scatter(places[..., None], tokens.to(embeds.dtype))
