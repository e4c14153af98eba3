"""Initial weights of a model trained from nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from x2sam_rt.model.x2sam import X2SAM

# Scores of equal features under tied query and key weights must stand out of a softmax over a whole bank.
_MATCHING_GAIN = 1.2
_FUSER_SCALE = 0.1
_BLOCK_GAIN = 0.3
_WORD_DEVIATION, _LAYER_GAIN = 0.2, 0.25
_CLASS_SCALE = 10.0  # of the cosine between a query and a condition


@torch.no_grad()
def initialise(model: X2SAM) -> None:
    """Sets what transformers leaves to its own loading code or starts too small for a model of this size."""
    segmentor = model.segmentor
    _see(segmentor.encoder)
    for layer in segmentor.pixel_decoder.encoder.layers:
        _look_around(layer.self_attn)
    segmentor.class_predictor.logit_scale.fill_(math.log(_CLASS_SCALE))
    nn.init.normal_(model.bg_embeds.weight)
    nn.init.normal_(segmentor.no_memory_embedding, std=0.02)
    _match_by_likeness(segmentor.memory_attention)
    _pass_features_on(segmentor.memory_encoder)
    _scale_by_width(model.vlm.model.language_model.layers.modules())
    _scale_by_width(model.vlm.model.visual.modules())
    _speak_softly(model.vlm.model.language_model)


def _see(encoder: Any) -> None:
    """Weights by their width, and tokens that know where they are: with transformers' almost equal positions a window
    is a bag of patches, and shapes take hours to emerge."""
    backbone = encoder.backbone
    _scale_by_width(encoder.modules())
    for block in backbone.blocks:
        block.attn.proj.weight.mul_(_BLOCK_GAIN)
        block.mlp.proj_out.weight.mul_(_BLOCK_GAIN)
    for positions, frequencies in ((backbone.pos_embed_window, (0.5, 1, 2)), (backbone.pos_embed, (0.25, 0.5, 1))):
        positions.copy_(_waves(positions.shape[1], positions.shape[-1], frequencies))


def _waves(dim: int, side: int, frequencies: Sequence[float]) -> Tensor:
    """(1, dim, side, side): sines and cosines along both axes, turned into random directions of the channels.
    frequencies: waves over the side."""
    angles = (torch.arange(side) + 0.5)[None] * (2 * math.pi / side) * torch.tensor(frequencies)[:, None]
    axis = torch.cat((angles.sin(), angles.cos()))
    grid = torch.cat((axis[:, :, None].expand(-1, -1, side), axis[:, None, :].expand(-1, side, -1)))
    directions = torch.linalg.qr(torch.randn(dim, len(grid))).Q
    return torch.einsum("cd,dhw->chw", directions, grid)[None]


def _look_around(attention: Any) -> None:
    """Deformable attention begins with its points on rays around the query, one direction per head, weighted alike."""
    nn.init.zeros_(attention.sampling_offsets.weight)
    angle = torch.arange(attention.n_heads) * (2 * math.pi / attention.n_heads)
    ray = torch.stack((angle.cos(), angle.sin()), -1)
    ray = ray / ray.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, attention.n_points + 1)
    offsets = ray[:, None, None] * steps[None, None, :, None]
    attention.sampling_offsets.bias.copy_(offsets.expand(-1, attention.n_levels, -1, -1).flatten())
    nn.init.zeros_(attention.attention_weights.weight)
    nn.init.zeros_(attention.attention_weights.bias)
    nn.init.xavier_uniform_(attention.value_proj.weight)
    nn.init.xavier_uniform_(attention.output_proj.weight)


def _match_by_likeness(attention: Any) -> None:
    """A frame's features begin by attending to memories that are like them: untied random weights begin by attending
    to everything alike, and then there is nothing to learn from."""
    for layer in attention.layers:
        for part in (layer.self_attn, layer.cross_attn):
            nn.init.orthogonal_(part.q_proj.weight, gain=_MATCHING_GAIN)
            part.k_proj.weight.copy_(part.q_proj.weight)
            for module in (part.q_proj, part.k_proj, part.v_proj, part.o_proj):
                nn.init.zeros_(module.bias)
            nn.init.xavier_uniform_(part.v_proj.weight)
            nn.init.xavier_uniform_(part.o_proj.weight)


def _pass_features_on(encoder: Any) -> None:
    """The lowest scale's memory begins as its features plus the mask's embedding."""
    for module in (encoder.vision_downsampler[0].final_conv, encoder.projection):
        nn.init.dirac_(module.weight)
        nn.init.zeros_(module.bias)
    for layer in encoder.memory_fuser.layers:
        layer.scale.fill_(_FUSER_SCALE)
    nn.init.orthogonal_(encoder.mask_downsampler.final_conv.weight, gain=2.0)


def _scale_by_width(modules: Iterable[nn.Module]) -> None:
    """transformers draws every weight with the same small deviation, made for wide models."""
    for module in modules:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)


def _speak_softly(language: Any) -> None:
    """Words are louder than what the layers add to them, so that a word reaches the last layer as itself."""
    nn.init.normal_(language.embed_tokens.weight, std=_WORD_DEVIATION)
    for layer in language.layers:
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
            module.weight.mul_(_LAYER_GAIN)
