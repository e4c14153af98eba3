"""Folded stages compute what the originals do, and leave them alone."""

from __future__ import annotations

import torch

from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.folding import folded
from x2sam_rt.model.memory_attention import AttentionProjections
from x2sam_rt.model.stages import example_inputs, stage_contract, stage_module


def test_memory_attention_without_output_projections(toy: Checkpoint) -> None:
    stage = stage_module(toy.model, "memory_attention")
    contract = stage_contract("memory_attention", toy.model.config, torch.float32)
    inputs = example_inputs(contract, {"slots": 2}).values()
    before = {name: value.clone() for name, value in stage.state_dict().items()}
    with torch.inference_mode():
        ours, plain = folded(stage)(*inputs), stage(*inputs)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6 * max(1.0, float(other.abs().max())))
    assert all(torch.equal(value, stage.state_dict()[name]) for name, value in before.items())
    parts = [part for part in folded(stage).modules() if isinstance(part, AttentionProjections)]
    assert parts
    assert not any(list(part.o_proj.parameters()) for part in parts)


def test_a_stage_with_nothing_to_fold_stays_itself(toy: Checkpoint) -> None:
    stage = stage_module(toy.model, "mask_decoder")
    assert folded(stage) is stage
