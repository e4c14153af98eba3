"""The smallest model and recipe that can learn at all: what the training tests, and their processes, run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist

from x2sam_rt.config import (
    MaskDecoderConfig,
    MaskEncoderConfig,
    MemoryConfig,
    ModelConfig,
    PixelBudget,
    PixelDecoderConfig,
)
from x2sam_rt.data.example import Example
from x2sam_rt.data.synthetic import ClipSettings, corpus, synthetic_example
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.training.mixture import Mixture, Source
from x2sam_rt.model.training.recipe import Recipe, Stage
from x2sam_rt.model.training.toy.auxiliary import AuxiliaryWeights
from x2sam_rt.model.training.toy.initial_weights import initialise
from x2sam_rt.model.training.toy.model import make_tokenizer
from x2sam_rt.model.x2sam import X2SAM

SIDE, FRAMES = 64, 4
IMAGES = ClipSettings(side=SIDE, frames=1, max_objects=2, desaturated=0, occluder=0)
CLIPS = replace(IMAGES, frames=FRAMES)
_TEMPORARY = tempfile.TemporaryDirectory()  # goes with the process


def config(rows: int) -> ModelConfig:
    return ModelConfig(
        image_size=SIDE,
        dim=32,
        mask_encoder=MaskEncoderConfig(
            embed_dims=(16, 32, 64, 128),
            blocks=(1, 1, 2, 1),
            heads=(1, 1, 2, 4),
            windows=(4, 4, 4, 2),
            global_blocks=(3,),
        ),
        pixel_decoder=PixelDecoderConfig(layers=1, heads=4, feedforward_dim=64),
        mask_decoder=MaskDecoderConfig(layers=3, heads=2, feedforward_dim=64, queries=8),
        memory=MemoryConfig(
            slots=2, attention_layers=1, attention_feedforward_dim=64, fuser_layers=1, fuser_feedforward_dim=32
        ),
        language={
            "text_config": {
                "vocab_size": rows,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "max_position_embeddings": 512,
                "rope_theta": 10000,
                "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
                "tie_word_embeddings": True,
            },
            "vision_config": {
                "depth": 1,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "patch_size": 16,
                "temporal_patch_size": 2,
                "spatial_merge_size": 2,
                "out_hidden_size": 32,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            "tie_word_embeddings": True,
            "image_token_id": 6,
            "video_token_id": 7,
            "vision_start_token_id": 3,
            "vision_end_token_id": 4,
        },
        image_budget=PixelBudget(min_pixels=SIDE**2, max_pixels=SIDE**2 * 16),
        video_budget=PixelBudget(min_pixels=SIDE**2, max_pixels=SIDE**2 * 64),
    )


def model(tokenizer: Path, seed: int) -> X2SAM:
    rows = make_tokenizer(corpus(60, seed), 400, tokenizer)
    torch.manual_seed(seed)
    fresh = X2SAM(config(rows))
    initialise(fresh)
    return fresh


@dataclass(frozen=True, eq=False)
class Untrained:
    """One model for all tests that do not change it. folder: of its tokenizer, beside which a checkpoint may lie."""

    model: X2SAM
    tokenizer: Tokenizer
    folder: Path


@cache
def untrained() -> Untrained:
    folder = Path(_TEMPORARY.name) / "tokenizer"
    fresh = model(folder, seed=0).requires_grad_(False)
    return Untrained(fresh, load_tokenizer(folder, fresh), folder)


def load_tokenizer(folder: Path, of: X2SAM) -> Tokenizer:
    return Tokenizer.load(folder, int(of.config.language["text_config"]["vocab_size"]))


def image(index: int) -> Example:
    return synthetic_example("train", index, "referring", media="image", settings=IMAGES)


def clip(index: int) -> Example:
    made = synthetic_example("train", index, "object" if index % 3 else "referring", media="video", settings=CLIPS)
    return replace(made, seen=1) if index % 2 else made


def mixture(video_share: float) -> Mixture:
    sources = (Source("images", "image", 10**6, image), Source("clips", "video", 10**6, clip, FRAMES))
    return Mixture(sources, image_batch=2, video_batch=1, video_share=video_share)


def recipe(scale: float = 1.0, processes: int = 1, accumulate: int = 1) -> Recipe:
    """At scale 1, 8 steps: images, and clips with and without teacher forcing."""
    return Recipe(
        name="tiny",
        stages=(
            Stage("images", mixture(0), round(3 * scale), 2e-3, warmup=2),
            Stage("clips", mixture(0.5), round(5 * scale), 2e-3, end_factor=0.1, teacher_forcing=0.5),
        ),
        auxiliary=AuxiliaryWeights(attributes=1.0, grounding=1.0, naming=1.0).heads,
        save_every=3,
        processes=processes,
        accumulate=accumulate,
    )


def shared_recipe(scale: float) -> Recipe:
    return recipe(scale, processes=2)


def unusable_in_second_process(index: int) -> Example:
    made = image(index)
    return replace(made, answer="It is there.") if dist.get_rank() == 1 else made


def poisoned_recipe(scale: float) -> Recipe:
    """Of two processes, the second meets an example without `<SEG>`."""
    poisoned = Source("poisoned", "image", 10**6, unusable_in_second_process)
    mixture = Mixture((poisoned,), image_batch=1, video_batch=1, video_share=0)
    return Recipe("poisoned", (Stage("images", mixture, round(4 * scale), 1e-3),), processes=2)
