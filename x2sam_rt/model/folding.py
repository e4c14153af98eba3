"""Projections that are one by algebra."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from x2sam_rt.model.memory_attention import AttentionProjections


def value_with_output(part: AttentionProjections) -> tuple[Tensor, Tensor]:
    """Weight (D, D) and bias (D,) of one projection that makes values and does the output's work, float32.

    Attention is linear in its values and its weights sum to 1, so that o(Σ w·v(x)) = Σ w·o(v(x)), biases included.
    """
    value, output = part.v_proj, part.o_proj
    weight = output.weight.double() @ value.weight.double()
    bias = output.weight.double() @ value.bias.double() + output.bias.double()
    return weight.float(), bias.float()


def folded(stage: nn.Module) -> nn.Module:
    """A stage that computes the same with fewer products; the stage itself when it holds nothing to fold."""
    if not any(isinstance(part, AttentionProjections) for part in stage.modules()):
        return stage
    copied = copy.deepcopy(stage)
    for part in copied.modules():
        if isinstance(part, AttentionProjections):
            part.v_proj.weight.data, part.v_proj.bias.data = value_with_output(part)
            part.add_module("o_proj", nn.Identity())
    return copied
