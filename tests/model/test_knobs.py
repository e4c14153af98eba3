"""Knobs: what is turned, and that the rest of the model stays what it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
import torch.nn.functional as F

from x2sam_rt.config import MaskEncoderConfig, ModelConfig, Scale
from x2sam_rt.errors import ConfigError
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.cpu.mask_encoder import CpuMaskEncoder
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.stages import EXAMPLE_SIZES, STAGES, example_inputs, stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM


def turned(knobs: ModelKnobs) -> X2SAM:
    """The tiny model with the same weights."""
    trained = tiny.untrained().model
    model = X2SAM(knobs.turned(trained.config)).eval().requires_grad_(False)
    model.load_state_dict(trained.state_dict())
    return model


def test_what_is_read_is_what_is_written() -> None:
    texts = ["image_size=96", "slots=3", "memory_scales=low+high", "memory_every=2", "memory_reads=writes"]
    knobs = ModelKnobs.parse(texts)
    assert str(knobs) == " ".join(texts)
    assert str(ModelKnobs()) == ""
    config = knobs.turned(PUBLISHED)
    assert (config.image_size, config.memory.slots, config.grids) == (96, 3, (6, 12, 24))
    assert config.memory.approximations == {"scales": "low+high", "every": "2", "reads": "writes"}
    assert PUBLISHED.memory.approximations == {}
    assert ModelKnobs().turned(PUBLISHED) == PUBLISHED
    assert ModelConfig.from_json({**config.to_json()}) == config


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("speed=9", "no knob 'speed'"),
        ("image_size=100", "a multiple of 32"),
        ("memory_scales=high+low", "in order"),
        ("memory_scales=low+low", "in order"),
        ("memory_every=two", "memory_every=two: wanted a number"),
        ("vision_budget=1", "as the model was published"),
    ],
)
def test_what_the_model_cannot_have(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ModelKnobs.parse([text]).turned(PUBLISHED)


@pytest.mark.parametrize("side", [512, 768, 1024])
def test_published_windows_and_grids_at_other_sides(side: int) -> None:
    """Shapes only, with the published channels, windows and queries in fewer blocks."""
    encoder: MaskEncoderConfig = replace(PUBLISHED.mask_encoder, blocks=(1, 2, 3, 1), global_blocks=(5,))
    config = replace(PUBLISHED, image_size=side, mask_encoder=encoder, language=tiny.config(512).language)
    model, meta = empty_model(config), torch.device("meta")
    for name in STAGES:
        contract = stage_contract(name, config, torch.float32)
        module = stage_module(model, name).to(meta)
        found = module(*(spec.zeros(meta, **EXAMPLE_SIZES) for spec in contract.inputs))
        shapes = [tuple(tensor.shape) for tensor in (found if isinstance(found, tuple) else (found,))]
        assert shapes == [spec.sized(EXAMPLE_SIZES) for spec in contract.outputs], name


@pytest.mark.parametrize("side", [32, 96, 160])
def test_positions_are_interpolated_as_published(side: int) -> None:
    """SAM 2: the background's map resized to the grid, the window's repeated over it."""
    encoder = turned(ModelKnobs(image_size=side)).segmentor.encoder
    trunk, grid = encoder.backbone, side // 4
    window = trunk.pos_embed_window
    repeated = window.repeat(1, 1, grid // window.shape[-2], grid // window.shape[-1])
    wanted = F.interpolate(trunk.pos_embed, (grid, grid), mode="bicubic") + repeated
    assert torch.equal(trunk._get_pos_embed((grid, grid)), wanted.permute(0, 2, 3, 1))
    torch.testing.assert_close(CpuMaskEncoder(encoder, torch.float32)._position, wanted.permute(0, 2, 3, 1))


@pytest.mark.parametrize("scales", [("low",), ("middle",), ("low", "high")])
def test_scales_that_look_at_the_memory_do_as_before(scales: tuple[Scale, ...]) -> None:
    """And the others keep the frame's own features: scales share weights, not numbers."""
    full, some = turned(ModelKnobs()), turned(ModelKnobs(memory_scales=scales))
    places = [("low", "middle", "high").index(scale) for scale in scales]
    inputs = example_inputs(stage_contract("memory_attention", full.config, torch.float32))
    features = [inputs[name] for name in ("low", "middle", "high")]
    wanted = stage_module(full, "memory_attention")(*inputs.values())
    inputs["memory"] = inputs["memory"][:, places]
    found = stage_module(some, "memory_attention")(*inputs.values())
    for place in range(3):
        assert torch.equal(found[place], wanted[place] if place in places else features[place])
    inputs = example_inputs(stage_contract("memory_encoder", full.config, torch.float32))
    slot = stage_module(some, "memory_encoder")(*inputs.values())
    assert torch.equal(slot, stage_module(full, "memory_encoder")(*inputs.values())[places])
