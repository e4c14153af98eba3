"""What stages compute and move, beside what the published sizes say on paper."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.cost import frame_flop, stage_costs
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.precision import cast_weights
from x2sam_rt.model.stages import EXAMPLE_SIZES, STAGES, example_inputs, stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM

SLOTS = 5


def attention_flop(config: ModelConfig, slots: int) -> int:
    """Memory attention, product by product: a product of (n, k) and (k, m) is 2·n·k·m."""
    dim, slot_tokens, memory = config.dim, slots * config.slot_tokens, config.memory
    total = 0
    for side in config.grids:
        tokens = side**2
        own = 4 * 2 * tokens * dim**2 + 4 * tokens**2 * dim
        cross = 2 * 2 * tokens * dim**2 + 2 * 2 * slot_tokens * dim**2 + 4 * tokens * slot_tokens * dim
        shift = 2 * slots * dim**2 + 2 * tokens * slots * dim
        total += memory.attention_layers * (own + cross + shift + 4 * tokens * dim * memory.attention_feedforward_dim)
    return total


def test_memory_attention_is_counted_product_by_product() -> None:
    config = replace(PUBLISHED, language=tiny.config(512).language)
    cost = stage_costs(config, ["memory_attention"], torch.float32, {"slots": SLOTS})["memory_attention"]
    assert cost.flop == attention_flop(config, SLOTS)
    assert 26e12 < cost.flop < 28e12


def test_weights_and_tensors_are_counted_in_their_type() -> None:
    model = tiny.untrained().model
    wide, narrow = (
        stage_costs(model.config, STAGES, dtype, EXAMPLE_SIZES) for dtype in (torch.float32, torch.bfloat16)
    )
    for name in STAGES:
        fp32, bf16 = wide[name], narrow[name]
        held = sum(weight.nbytes for weight in stage_module(model, name).parameters())
        assert 0.9 * held < fp32.weight_bytes <= held, name  # what nobody reads is not counted
        assert fp32.weight_bytes == 2 * bf16.weight_bytes
        assert fp32.flop == bf16.flop > 0
        assert fp32.bytes > fp32.weight_bytes


def test_scales_that_are_left_out_cost_nothing() -> None:
    trained = tiny.config(512)
    low, names = ModelKnobs(memory_scales=("low",)).turned(trained), ["memory_attention", "memory_encoder"]
    some, full = (stage_costs(config, names, torch.float32, EXAMPLE_SIZES) for config in (low, trained))
    for name in names:
        assert some[name].flop < full[name].flop / 4
    assert some["memory_encoder"].weight_bytes < full["memory_encoder"].weight_bytes / 2


def test_a_frame_costs_what_its_turns_cost() -> None:
    trained = tiny.config(512)
    names = ["frame_encoder", "memory_attention", "mask_decoder", "memory_encoder"]
    sizes = {**EXAMPLE_SIZES, "slots": trained.memory.slots}
    encoder, attention, decoder, memory = (
        cost.flop for cost in stage_costs(trained, names, torch.float32, sizes).values()
    )
    assert frame_flop(trained) == encoder + attention + decoder + memory
    assert frame_flop(ModelKnobs(memory_every=2).turned(trained)) == encoder + attention + decoder + memory / 2
    both = ModelKnobs(memory_every=2, memory_reads="writes").turned(trained)
    assert frame_flop(both) == encoder + decoder + (attention + memory) / 2


def allocator_peak(module: nn.Module, inputs: list[torch.Tensor]) -> int:
    """Most bytes that a call holds at once, as PyTorch's allocator tells of each that it gives and gets back."""
    with torch.inference_mode():
        module(*inputs)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            kept = module(*inputs)
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    del kept
    return peak


# CPUs unfold the memory encoder's convolutions: several times their maps, within the kernel.
LEAST = {name: 0.25 if name == "memory_encoder" else 0.8 for name in STAGES}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_predicted_peaks_are_the_allocators(dtype: torch.dtype) -> None:
    config = replace(tiny.config(512), image_size=256)
    torch.manual_seed(0)
    model = cast_weights(X2SAM(config).eval().requires_grad_(False), dtype)
    sizes = {**EXAMPLE_SIZES, "merged": 64}
    for name, cost in stage_costs(config, STAGES, dtype, sizes).items():
        inputs = example_inputs(stage_contract(name, config, dtype), sizes).values()
        measured = allocator_peak(stage_module(model, name), list(inputs))
        assert LEAST[name] * measured <= cost.working_bytes <= 1.25 * measured, (name, measured)
