from __future__ import annotations

import json
from dataclasses import replace

import pytest
from recordings import RANDOM_TOY

from x2sam_rt.config import MemoryConfig, ModelConfig
from x2sam_rt.errors import ConfigError
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.checkpoint.published import PUBLISHED, read_published_config


def test_round_trip_through_json() -> None:
    assert ModelConfig.from_json(json.loads(json.dumps(PUBLISHED.to_json()))) == PUBLISHED


def test_a_typo_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="memroy"):
        replace(PUBLISHED, memroy=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_size": 1000}, "image_size"),
        ({"image_size": "1024"}, "image_size"),
        ({"dim": 48}, "dim"),
        ({"resize": "crop"}, "resize"),
        ({"language": {}}, "text_config"),
        ({"image_budget": {"min_pixels": 1}}, "max_pixels"),
        ({"mask_decoder": {**PUBLISHED.to_json()["mask_decoder"], "heads": 7}}, "heads"),
    ],
)
def test_wrong_values_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ModelConfig.from_json({**PUBLISHED.to_json(), **change})


def test_a_bank_needs_a_slot() -> None:
    with pytest.raises(ConfigError, match=r"MemoryConfig\.slots is 0; it must be 1 to"):
        replace(PUBLISHED, memory=replace(PUBLISHED.memory, slots=0))
    assert isinstance(PUBLISHED.memory, MemoryConfig)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="use_mask_guidance"):
        read_published_config({"config": {"sam2": {"use_mask_guidance": False}, "mask2former": {}, "vlm": {}}})
    with pytest.raises(ConfigError, match="lacks 'config'"):
        read_published_config({})


@pytest.mark.parametrize(
    "at",
    [("vision_end_token_id",), ("text_config", "rope_theta"), ("text_config", "rope_scaling", "rope_theta")],
    ids=lambda at: at[-1],
)
def test_null_is_an_absent_key(at: tuple[str, ...]) -> None:
    """As in Qwen3-VL's own files; the library would fail in the middle of the model."""
    document = json.loads((RANDOM_TOY / "config.json").read_text())
    inner = document["language"]
    for key in at[:-1]:
        inner = inner[key]
    inner.pop(at[-1], None)
    absent = ModelConfig.from_json(document)
    inner[at[-1]] = None
    assert ModelConfig.from_json(document) == absent
    empty_model(absent)
