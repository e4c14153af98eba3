"""A checkpoint of random weights with the published model's tensors, or a share of their sizes, in both its forms."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.checkpoint.files import read_tensor_file
from x2sam_rt.model.checkpoint.loading import empty_model, training_layout
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.checkpoint.tensor_file import TensorToWrite, write_shards, write_tensors

RANK = 128
_HEAD = "vlm.lm_head.weight"


def scaled(share: float, side: int) -> ModelConfig:
    """The published model with its own depths and widths times √share, so that weights shrink by about `share`."""
    if share == 1.0:
        return replace(PUBLISHED, image_size=side)

    def width(full: int, step: int) -> int:
        return max(step, round(full * math.sqrt(share) / step) * step)

    text, vision = (dict(PUBLISHED.language[f"{part}_config"]) for part in ("text", "vision"))
    kv_heads = max(1, round(text["num_key_value_heads"] * math.sqrt(share)))
    text |= {
        "hidden_size": width(text["hidden_size"], 128),
        "intermediate_size": width(text["intermediate_size"], 128),
        "num_attention_heads": 4 * kv_heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": width(text["vocab_size"], 1024),
    }
    heads = max(1, round(vision["num_heads"] * math.sqrt(share)))
    vision |= {
        "hidden_size": 64 * heads,
        "num_heads": heads,
        "intermediate_size": 256 * heads,
        "out_hidden_size": text["hidden_size"],
    }
    first = width(PUBLISHED.mask_encoder.embed_dims[0], 16)
    encoder = replace(PUBLISHED.mask_encoder, embed_dims=(first, 2 * first, 4 * first, 8 * first))
    language = {**PUBLISHED.language, "text_config": text, "vision_config": vision}
    return replace(PUBLISHED, image_size=side, mask_encoder=encoder, language=language)


def random_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Small numbers, norms near 1; drawn once and repeated, as drawing billions would take longer than the export."""
    generator = torch.Generator().manual_seed(len(name))
    count = math.prod(shape)
    block = torch.randn(min(count, 2**20), generator=generator).mul_(0.02).to(torch.bfloat16)
    if len(shape) == 1 and name.endswith("weight"):
        block += 1
    return block.repeat(-(-count // len(block)))[:count].view(shape)


def write_whole(config: ModelConfig, folder: Path) -> None:
    """A sharded checkpoint in bf16, its tied table once."""
    shapes = {name: tuple(value.shape) for name, value in empty_model(config).state_dict().items() if name != _HEAD}
    folder.mkdir(parents=True)
    write_shards(_tensors(shapes), folder)
    _write_config(config, folder)


def write_training(config: ModelConfig, folder: Path) -> None:
    """A training checkpoint of adapters, `pytorch_model.bin`, and its base model beside it in `vlm/`."""
    model = empty_model(config)
    base = {
        name.removeprefix("vlm."): tuple(value.shape)
        for name, value in model.state_dict().items()
        if name.startswith("vlm.") and name != _HEAD
    }
    (folder / "vlm").mkdir(parents=True)
    write_shards(_tensors(base), folder / "vlm")
    (folder / "vlm/config.json").write_text(json.dumps(dict(config.language)))
    # torch.save writes what it is given; mapped from a file, that takes no memory.
    streamed = folder / "streamed.safetensors"
    write_tensors(_tensors(training_layout(model, RANK)), streamed)
    torch.save(read_tensor_file(streamed), folder / "pytorch_model.bin")
    streamed.unlink()
    _write_config(config, folder)


def _tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorToWrite]:
    return {
        name: TensorToWrite(shape, torch.bfloat16, partial(random_weight, name, shape))
        for name, shape in shapes.items()
    }


def _write_config(config: ModelConfig, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config.to_json()))
