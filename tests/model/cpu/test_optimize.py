"""Every CPU-optimised stage against its plain original, on shapes that leave ragged windows and chunks."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.config import MaskEncoderConfig, ModelConfig
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.cpu import layers
from x2sam_rt.model.cpu.optimize import optimize_for_cpu
from x2sam_rt.model.cpu.pixel_decoder import channels_last_group_norm
from x2sam_rt.model.precision import cast_weights, fp32_copy
from x2sam_rt.model.stages import example_inputs, stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM

STAGES = ("frame_encoder", "memory_attention", "mask_decoder", "memory_encoder")
SIZES = {"slots": 3, "conditions": 5, "tokens": 11}


@pytest.fixture(scope="module")
def model(toy: Checkpoint) -> X2SAM:
    """Grids of 6, 12 and 24, of which some are no multiples of their windows; no gain is 1, no bias 0."""
    encoder = MaskEncoderConfig(
        embed_dims=(16, 32, 64, 128), blocks=(1, 2, 3, 1), heads=(1, 2, 4, 8), windows=(8, 4, 5, 3), global_blocks=(4,)
    )
    config: ModelConfig = replace(toy.model.config, image_size=96, dim=64, mask_encoder=encoder)
    torch.manual_seed(0)
    model = X2SAM(config).eval().requires_grad_(False)
    for parameter in model.segmentor.parameters():
        if parameter.ndim < 2:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture(autouse=True)
def ragged_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_CHUNK_ROWS", 100)


def inputs_of(config: ModelConfig, stage: str) -> list[Tensor]:
    tensors = example_inputs(stage_contract(stage, config, torch.float32), SIZES)
    for name in ("condition_mask", "token_mask"):
        if name in tensors:
            tensors[name][1:3] = False
    return list(tensors.values())


def run(stage: nn.Module, inputs: list[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    with torch.inference_mode():
        out = stage(*(value.to(dtype) if value.is_floating_point() else value for value in inputs))
    return [value.float() for value in (out if isinstance(out, tuple) else (out,))]


def run_plain(stage: nn.Module, inputs: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """With group norms that are exact for channels-last maps too (PyTorch's are not where a group's mean is large)."""
    plain = F.group_norm
    with monkeypatch.context() as patch:
        patch.setattr(F, "group_norm", lambda maps, *rest: plain(maps.contiguous(), *rest))
        return run(stage, inputs)


def errors(ours: list[Tensor], reference: list[Tensor]) -> list[float]:
    assert [value.shape for value in ours] == [value.shape for value in reference]
    pairs = zip(ours, reference, strict=True)
    return [float((one - other).abs().max() / other.abs().max().clamp_min(1)) for one, other in pairs]


@pytest.mark.parametrize("name", STAGES)
def test_computes_the_same(model: X2SAM, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, inputs = stage_module(model, name), inputs_of(model.config, name)
    assert max(errors(run(optimize_for_cpu(stage), inputs), run_plain(stage, inputs, monkeypatch))) <= 2e-6


@pytest.mark.parametrize("name", STAGES)
def test_bf16_is_as_exact_as_products_in_bf16_allow(model: X2SAM, name: str) -> None:
    rounded = cast_weights(copy.deepcopy(stage_module(model, name)), torch.bfloat16)
    inputs = [
        value.bfloat16().float() if value.is_floating_point() else value for value in inputs_of(model.config, name)
    ]
    if name == "memory_attention":
        inputs[-1] = inputs_of(model.config, name)[-1]  # the slots' ages are fp32 in every precision
    exact = run(fp32_copy(rounded), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        plain = errors(run(fp32_copy(rounded), inputs), exact)
    assert all(
        ours <= 2 * limit
        for ours, limit in zip(errors(run(optimize_for_cpu(rounded), inputs), exact), plain, strict=True)
    )
    assert max(plain) > 1e-4, "the reference was not computed in bf16"


def test_takes_the_tensors_of_a_bf16_bundle(model: X2SAM) -> None:
    rounded = cast_weights(copy.deepcopy(stage_module(model, "mask_decoder")), torch.bfloat16)
    inputs, optimised = inputs_of(model.config, "mask_decoder"), optimize_for_cpu(rounded)
    narrow, wide = run(optimised, inputs, torch.bfloat16), run(optimised, inputs)
    assert max(errors(narrow, wide)) < 0.05


@pytest.mark.parametrize("first", [0.0, 1.0])
def test_first_and_later_frames(model: X2SAM, first: float, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, (frame, _) = stage_module(model, "frame_encoder"), inputs_of(model.config, "frame_encoder")
    inputs = [frame, torch.tensor([first])]
    assert max(errors(run(optimize_for_cpu(stage), inputs), run_plain(stage, inputs, monkeypatch))) <= 2e-6


def test_group_norm_with_large_means() -> None:
    torch.manual_seed(0)
    norm, maps = nn.GroupNorm(4, 12), 0.1 * torch.randn(5, 7, 12) + 10 * torch.randn(12)
    exact = copy.deepcopy(norm).double()(maps.permute(2, 0, 1)[None].double())[0].permute(1, 2, 0)
    # Maps near 10 in float32 are known to 1e-6, a hundred-thousandth of their deviation in the worst group.
    assert (channels_last_group_norm(norm, maps) - exact).abs().max() <= 3e-5


def test_leaves_the_model_as_it_was(model: X2SAM) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for name in STAGES:
        optimised, inputs = optimize_for_cpu(stage_module(model, name)), inputs_of(model.config, name)
        kept = [value.clone() for value in inputs]
        run(optimised, inputs)
        assert all(torch.equal(one, other) for one, other in zip(inputs, kept, strict=True))
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_stage_without_a_twin_stays_itself(model: X2SAM) -> None:
    tower = stage_module(model, "vision_encoder")
    assert optimize_for_cpu(tower) is tower
