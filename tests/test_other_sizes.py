"""A model of other sizes than the recorded ones, with random weights: nothing may be fitted to one configuration."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from x2sam_rt.config import ModelConfig
from x2sam_rt.export.engines import build_engines
from x2sam_rt.export.verify import BOUNDS, ReferenceEngine, check_clip, check_stages, reference_module, segment_clip
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.model.stages import STAGES, stage_contracts, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.engines.engine import Engines
from x2sam_rt.runtime.pipeline import Pipeline


def other_config(toy: ModelConfig) -> ModelConfig:
    return replace(
        toy,
        image_size=128,
        dim=64,
        mask_decoder=replace(toy.mask_decoder, queries=20, layers=4),
        memory=replace(toy.memory, slots=3, attention_layers=3, attention_feedforward_dim=96),
    )


@pytest.fixture(scope="module")
def model(toy: Checkpoint) -> X2SAM:
    torch.manual_seed(0)
    model = X2SAM(other_config(toy.model.config)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        # Initial values hide mistakes: unit norms, zero biases and residual scales of 1e-6 make parts vanish.
        if parameter.ndim < 2:
            parameter += 0.2 * torch.randn_like(parameter)
        assert parameter.isfinite().all(), name
    return model


def test_engines_agree_at_every_fill_level(model: X2SAM, tmp_path: Path) -> None:
    engines = build_engines(model, "onnxruntime", tmp_path)
    modules = {name: reference_module(model, name) for name in STAGES}
    slots = model.config.memory.slots
    assert [check for check in check_stages(engines, modules, slots) if not check.passed(BOUNDS["fp32"])] == []
    prompt = PromptEmbeddings(torch.randn(1, 64), torch.randn(6, 64), torch.randn(17, 64))
    ours = Pipeline(engines, model.config)
    reference = Pipeline(build_engines(model, "torch", tmp_path), model.config)
    frames = 2 * slots + 2
    checks = list(check_clip(segment_clip(ours, prompt, frames), reference, prompt, frames))
    assert [check.live_slots for check in checks] == [0, 1, 2, 3, 3, 3, 3, 3]
    assert [check for check in checks if not check.passed(BOUNDS["fp32"])] == []


def test_memory_changes_the_masks(model: X2SAM, tmp_path: Path) -> None:
    """A control for the test above: agreement would mean nothing if the memory were ignored."""
    engines = build_engines(model, "torch", tmp_path)
    prompt = PromptEmbeddings(torch.randn(1, 64), torch.randn(3, 64), torch.randn(5, 64))
    with_memory, without = Pipeline(engines, model.config), Pipeline(engines, model.config)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        pixels = torch.randn(1, 3, 128, 128, generator=generator)
        without.forget()
        one, other = with_memory.step(pixels, prompt), without.step(pixels, prompt)
    assert not torch.allclose(one.mask_logits, other.mask_logits, atol=1e-2)


def test_knobs_agree_on_every_backend(tmp_path: Path) -> None:
    """A side that the windows do not divide, two of the three scales, every other frame."""
    trained = tiny.untrained().model
    knobs = ModelKnobs(image_size=96, slots=3, memory_scales=("low", "high"), memory_every=2)
    model = X2SAM(knobs.turned(trained.config)).eval().requires_grad_(False)
    model.load_state_dict(trained.state_dict())
    config, frames = model.config, 4 * model.config.memory.slots
    asked = PromptEmbeddings(torch.randn(1, 32), torch.randn(3, 32), torch.randn(5, 32))
    plain = Engines.of(ReferenceEngine(c, stage_module(model, c.name)) for c in stage_contracts(config, torch.float32))
    for backend in ("torch", "onnxruntime"):
        ours = Pipeline(build_engines(model, backend, tmp_path), config)
        checks = list(check_clip(segment_clip(ours, asked, frames), Pipeline(plain, config), asked, frames))
        assert [check.live_slots for check in checks] == [0, 1, 1, 2, 2, *[3] * 7]
        assert [check for check in checks if not check.passed(BOUNDS["fp32"])] == [], backend
