"""From language states to what the mask decoder takes: the `<SEG>`, condition and token embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PromptEmbeddings:
    """What a frame is segmented by, kept until the next instruction.

    seg: (1, D). conditions: (C + 1, D), one row per phrase, category or region, then the background row.
    tokens: (T, D), the conditions' tokens unaveraged, one condition after the other.
    """

    seg: Tensor
    conditions: Tensor
    tokens: Tensor


def prompt_embeddings(seg: Tensor, spans: Sequence[Tensor], background: Tensor) -> PromptEmbeddings:
    """seg: (D,) projected state at `<SEG>`. spans: per condition (tokens, D) projected states of its tokens, from
    `<p>` to `</p>`. background: (1, D), the learned row, not projected.
    """
    means = torch.stack([span.mean(0) for span in spans])
    return PromptEmbeddings(seg[None], torch.cat((means, background)), torch.cat(tuple(spans)))
