"""The token sequence of a prompt: chat layout, visual and region places, and where its phrases stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.errors import PromptError
from x2sam_rt.model.region_sampler import REGION_TOKENS
from x2sam_rt.model.tokenizer import IM_END, IM_START, VISION_END, VISION_START, Tokenizer
from x2sam_rt.tasks.instruction import REGION
from x2sam_rt.tasks.task import Media

# Places that tokens of another kind take; no vocabulary has negative ids.
VISUAL_PLACE, REGION_PLACE = -1000, -400


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """ids: (tokens,) int64, with VISUAL_PLACE and REGION_PLACE where other embeddings go. answer_start: index of the
    first token of the answer."""

    ids: Tensor
    answer_start: int

    def places(self, place: int) -> Tensor:
        return (self.ids == place).nonzero()[:, 0]


def prompt_tokens(
    tokenizer: Tokenizer, media: Media, pairs: int, tokens_per_pair: int, question: str, answer: str | None
) -> PromptTokens:
    """question: stands after the vision block, with `<region>` where a region goes. answer: None = to be generated.

    A video's pairs are introduced by a counter `<k.0 seconds>`, which is not real time (as the model was trained).
    """
    pieces: list[str | list[int]] = [f"{IM_START}user\n"]
    for pair in range(pairs):
        counter = f"<{pair + 1}.0 seconds>" if media == "video" else ""
        pieces += [counter + VISION_START, [VISUAL_PLACE] * tokens_per_pair, VISION_END]
    first, *rest = f"{question}{IM_END}\n{IM_START}assistant\n".split(REGION)
    pieces.append(first)
    for part in rest:
        pieces += [[REGION_PLACE] * REGION_TOKENS, part]
    ids = _encode(tokenizer, pieces)
    tail = [] if answer is None else tokenizer.encode(f"{answer}{IM_END}")
    return PromptTokens(torch.tensor(ids + tail), len(ids))


def _encode(tokenizer: Tokenizer, pieces: Sequence[str | list[int]]) -> list[int]:
    """Texts that touch are tokenised as one, as a token may span their seam."""
    ids: list[int] = []
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
        else:
            ids += tokenizer.encode(text) + piece
            text = ""
    return ids + tokenizer.encode(text)


def phrase_spans(ids: Sequence[int], tokenizer: Tokenizer) -> list[slice]:
    """Where the phrases stand, each from its `<p>` to its `</p>`, both included; an unclosed `<p>` is none."""
    spans, start = [], None
    for index, token in enumerate(ids):
        if token == tokenizer.phrase_start:
            start = index if start is None else start
        elif token == tokenizer.phrase_end and start is not None:
            spans.append(slice(start, index + 1))
            start = None
    return spans


def seg_position(ids: Sequence[int], tokenizer: Tokenizer) -> int | None:
    """The last `<SEG>`, or None. (The published code draws nothing for several; the last one is used here.)"""
    positions = [index for index, token in enumerate(ids) if token == tokenizer.seg]
    return positions[-1] if positions else None


def check_regions(question: str, regions: int) -> None:
    """Raises PromptError unless the question has one place per region."""
    places = question.count(REGION)
    if places != regions:
        raise PromptError(f"The question has {places} places for regions ({REGION}), but {regions} regions were given.")
