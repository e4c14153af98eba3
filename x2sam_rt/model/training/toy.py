"""x2sam-toy: a few million parameters, trained on the made-up world from nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from x2sam_rt.config import (
    MaskDecoderConfig,
    MaskEncoderConfig,
    MemoryConfig,
    ModelConfig,
    PixelBudget,
    PixelDecoderConfig,
)
from x2sam_rt.data.example import Example
from x2sam_rt.data.world import ATTRIBUTE_CLASSES, WorldSettings, corpus, world_example
from x2sam_rt.model.training.initial import initialise
from x2sam_rt.model.training.mixture import Mixture, Source
from x2sam_rt.model.training.objective import AuxiliaryWeights
from x2sam_rt.model.training.recipe import Recipe, Stage
from x2sam_rt.model.training.tokens import make_tokenizer
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.tasks.table import Media

_SIDE = 128
_VOCABULARY = 640
_CORPUS = 4000
_CLIPS = 1_000_000  # different ones; no run comes to an end of them

_LENGTHS = (5,)  # of clips: enough for a memory, few enough for many clips

# How often each task is drawn.
_IMAGE_TASKS = {
    "referring": 5,
    "reasoning": 1,
    "panoptic": 2,
    "instance": 0.7,
    "gcg": 2.5,
    "chat": 1,
    "interactive": 1,
    "vgd": 1.5,
}
_VIDEO_TASKS = {"referring": 4, "reasoning": 1, "panoptic": 1.5, "gcg": 1.5, "chat": 0.4, "object": 1.5, "vgd": 0.7}

_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "rope_theta": 10000,
    "rope_scaling": {"rope_type": "default", "mrope_section": [6, 5, 5], "mrope_interleaved": True},
    "tie_word_embeddings": True,
}
_VISION = {
    "depth": 4,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 128,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [1],
}


def toy_config(vocabulary: int) -> ModelConfig:
    """vocabulary: rows of the embedding table."""
    return ModelConfig(
        image_size=_SIDE,
        dim=64,
        mask_encoder=MaskEncoderConfig(
            embed_dims=(48, 64, 96, 192),
            blocks=(2, 2, 3, 1),
            heads=(3, 4, 6, 8),
            windows=(8, 4, 8, 4),
            global_blocks=(5,),
        ),
        pixel_decoder=PixelDecoderConfig(layers=2, heads=8, feedforward_dim=256),
        mask_decoder=MaskDecoderConfig(layers=4, heads=4, feedforward_dim=256, queries=16),
        memory=MemoryConfig(
            slots=4, attention_layers=2, attention_feedforward_dim=256, fuser_layers=1, fuser_feedforward_dim=128
        ),
        language={
            "text_config": {**_TEXT, "vocab_size": vocabulary},
            "vision_config": _VISION,
            "tie_word_embeddings": True,
            "image_token_id": 6,
            "video_token_id": 7,
            "vision_start_token_id": 3,
            "vision_end_token_id": 4,
        },
        image_budget=PixelBudget(min_pixels=_SIDE**2, max_pixels=_SIDE**2 * 16),
        video_budget=PixelBudget(min_pixels=_SIDE**2, max_pixels=_SIDE**2 * 64),
    )


def toy_model(tokenizer: Path, seed: int) -> X2SAM:
    """The untrained model, and its tokenizer written to a folder."""
    rows = make_tokenizer(corpus(_CORPUS, seed), _VOCABULARY, tokenizer)
    torch.manual_seed(seed)
    model = X2SAM(toy_config(rows))
    initialise(model)
    return model


def toy_recipe(scale: float = 1.0, processes: int = 2) -> Recipe:
    """scale: makes every stage that much shorter or longer. processes: that share every step."""

    def steps(number: int) -> int:
        return max(1, round(number * scale))

    return Recipe(
        name="x2sam-toy",
        stages=(
            Stage(
                "words",
                _words(0.25, clips=3),
                steps(6000),
                2e-3,
                trains=("vlm.",),
                end=0.5,
                warmup=steps(100),
                segments=False,
            ),
            Stage("images", _images(), steps(2000), 1.5e-3, warmup=steps(200)),
            Stage(
                "clips",
                _clips(video_share=0.6),
                steps(2200),
                1e-3,
                end=0.3,
                warmup=steps(50),
                taught=0.6,
                rehearsal=_words(0.7, clips=6),
                unrehearsed=steps(1050),
            ),
            Stage(
                "as at work",
                _clips(video_share=0.75, lengths=(5, 8)),
                steps(450),
                4e-4,
                end=0.02,
                rehearsal=_words(0.7, clips=6, lengths=(3, 5, 8)),
            ),
        ),
        auxiliary=AuxiliaryWeights(
            attributes=3.0, grounding=1.0, naming=1.0, outline=2.0, tower=3.0, classes=ATTRIBUTE_CLASSES
        ),
        processes=processes,
    )


def _words(video_share: float, clips: int, lengths: Sequence[int] = _LENGTHS) -> Mixture:
    """Seeing and saying first, as X2SAM begins with a language model that can; a step of twice the images costs a
    quarter here. What a clip shows takes as long to learn to tell as its masks, so it is rehearsed beside them."""
    tasks = {"gcg": 2, "chat": 1}
    sources = (*_image_sources(tasks), *_video_sources(tasks, lengths))
    return Mixture(sources, image_batch=8, video_batch=clips, video_share=video_share)


def _images() -> Mixture:
    return Mixture(_image_sources(_IMAGE_TASKS), image_batch=4, video_batch=2, video_share=0.0)


def _clips(video_share: float, lengths: Sequence[int] = _LENGTHS) -> Mixture:
    sources = (*_image_sources(_IMAGE_TASKS), *_video_sources(_VIDEO_TASKS, lengths))
    return Mixture(sources, image_batch=4, video_batch=2, video_share=video_share, seed=1)


def _image_sources(weights: Mapping[str, float]) -> tuple[Source, ...]:
    settings = WorldSettings(frames=1, drained=0, occluder=0.1, same_colour=0.7, same_shape=0.6)
    return tuple(_source(task, "image", settings, weight) for task, weight in weights.items())


def _video_sources(weights: Mapping[str, float], lengths: Sequence[int]) -> tuple[Source, ...]:
    """lengths: of the clips, each as likely as the others. A language model that has read clips of one length only
    cannot tell what longer ones show."""
    sources: list[Source] = []
    for frames in lengths:
        settings = WorldSettings(
            frames=frames, drained=0.6, drained_frames=min(3, frames - 2), occluder=0.3, same_colour=0.6
        )
        sources += [_source(task, "video", settings, weight) for task, weight in weights.items()]
    return tuple(sources)


def _source(task: str, media: Media, settings: WorldSettings, weight: float) -> Source:
    name = f"{task}, {media}s of {settings.frames}"
    return Source(name, media, _CLIPS, _maker(task, media, settings), settings.frames, weight)


def _maker(task: str, media: Media, settings: WorldSettings) -> Callable[[int], Example]:
    def make(index: int) -> Example:
        example = world_example("train", index, task, media=media, settings=settings)
        # Half of the clips are asked about as a live stream is: before more than one frame was seen.
        # What the model writes tells how things move, which one frame does not show.
        told = example.answer is not None or "motion" in example.tags
        live = media == "video" and index % 2 and not told
        return replace(example, seen=1) if live else example

    return make
