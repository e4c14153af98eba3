"""Open-vocabulary classification of the queries against the conditions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LOGIT_LIMIT = 50.0
_PADDED = -1e6


class ClassPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(1))

    def forward(self, states: Tensor, conditions: Tensor, condition_mask: Tensor) -> Tensor:
        """states: (Q, D). conditions: (C + 1, D), background last. condition_mask: (C + 1,) bool, False = padding.

        Returns (Q, C + 1): exp(logit_scale) · cosine, clamped to ±50; −1e6 where padded.
        """
        cosine = F.normalize(states.float(), dim=-1) @ F.normalize(conditions.float(), dim=-1).mT
        logits = (self.logit_scale.float().exp() * cosine).clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
        return logits.masked_fill(~condition_mask.unsqueeze(-2), _PADDED).to(states.dtype)
