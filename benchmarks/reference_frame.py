"""One frame as eager PyTorch computes it: the baseline of bench_frame.py.

transformers' own classes with their own forward passes (grid_sample in the pixel decoder), the memory a growing and
shrinking list that is concatenated and projected anew for every frame, unfused mask guidance. No kernel of x2sam_rt is
called. All modules run on a model's own weights, which are shared, not copied.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import Sam2VideoConfig, Sam2VisionModel
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerAttention,
    Mask2FormerMaskPredictor,
    Mask2FormerPixelDecoder,
)
from transformers.models.sam2_video.modeling_sam2_video import (
    Sam2VideoMaskDownSamplerLayer,
    Sam2VideoMemoryFuser,
    Sam2VideoRoPEAttention,
    Sam2VideoVisionRotaryEmbedding,
)

from x2sam_rt.config import NUM_SCALES, MaskDecoderConfig, ModelConfig
from x2sam_rt.model.mask_decoder import ClassPredictor
from x2sam_rt.model.position import sine_position, temporal_encoding
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.model.x2sam import Segmentor
from x2sam_rt.runtime.timing import StageTimer

Features = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Prediction:
    """mask_logits: (Q, S/4, S/4). class_logits: (Q, C + 1)."""

    mask_logits: Tensor
    class_logits: Tensor


class MemoryAttentionLayer(nn.Module):
    """transformers' SAM 2 attentions in X2SAM's order; the memory's keys are left out of the rotation."""

    def __init__(self, config: Sam2VideoConfig) -> None:
        super().__init__()
        dim, hidden = config.memory_attention_hidden_size, config.memory_attention_feed_forward_hidden_size
        self.self_attn = Sam2VideoRoPEAttention(config)
        self.cross_attn = Sam2VideoRoPEAttention(config)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.layer_norm1, self.layer_norm2, self.layer_norm3 = (nn.LayerNorm(dim) for _ in range(3))

    def forward(self, tokens: Tensor, memory: Tensor, memory_key: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        normed = self.layer_norm1(tokens)
        tokens = tokens + self.self_attn(normed, normed, normed, rotary)[0]
        unrotated = memory.shape[-2]
        attended, _ = self.cross_attn(self.layer_norm2(tokens), memory_key, memory, rotary, unrotated)
        tokens = tokens + attended
        out: Tensor = tokens + self.linear2(F.relu(self.linear1(self.layer_norm3(tokens))))
        return out


class MemoryAttention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sam = video_config(config)
        self.layers = nn.ModuleList(MemoryAttentionLayer(sam) for _ in range(config.memory.attention_layers))
        self.layer_norm = nn.LayerNorm(config.dim)
        self._slot_position = token_position(config.grids[0], config.dim)
        self._positions = [token_position(side, config.dim) for side in config.grids]
        self._rotary = [rotary_angles(side, sam) for side in config.grids]

    def place_tables(self, device: torch.device) -> None:
        self._slot_position = self._slot_position.to(device)
        self._positions = [table.to(device) for table in self._positions]
        self._rotary = [(cos.to(device), sin.to(device)) for cos, sin in self._rotary]

    def forward(self, features: Features, slots: list[Tensor], frame_offsets: Tensor) -> Features:
        """slots: each (scales, slot tokens, D). frame_offsets: (slots,) frames."""
        time = temporal_encoding(frame_offsets, self._slot_position.shape[-1])
        low, middle, high = (
            self._forward_scale(scale, feature, torch.cat([slot[scale] for slot in slots]), time)
            for scale, feature in enumerate(features)
        )
        return low, middle, high

    def _forward_scale(self, scale: int, feature: Tensor, memory: Tensor, time: Tensor) -> Tensor:
        key = torch.cat([self._slot_position + row for row in time]) + memory
        tokens = feature.flatten(2).transpose(1, 2)[None] + 0.1 * self._positions[scale]
        for layer in self.layers:
            tokens = layer(tokens, memory[None, None], key[None, None], self._rotary[scale])
        out: Tensor = self.layer_norm(tokens)
        return out[0].transpose(1, 2).reshape(feature.shape)


class MaskDecoderLayer(nn.Module):
    """Mask2Former's post-norm layer with X2SAM's attention to the condition tokens."""

    def __init__(self, dim: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        self.cross_attn = nn.MultiheadAttention(dim, config.heads)
        self.text_cross_attn = nn.MultiheadAttention(dim, config.heads)
        self.self_attn = Mask2FormerAttention(dim, config.heads)
        self.fc1, self.fc2 = nn.Linear(dim, config.feedforward_dim), nn.Linear(config.feedforward_dim, dim)
        self.cross_attn_layer_norm, self.text_cross_attn_layer_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self, hidden: Tensor, position: Tensor, key: Tensor, value: Tensor, masked: Tensor, tokens: Tensor
    ) -> Tensor:
        """Tokens first, batch second, as Mask2Former has them. masked: (heads, Q, keys) bool."""
        attended, _ = self.cross_attn(hidden + position, key, value, attn_mask=masked)
        hidden = self.cross_attn_layer_norm(hidden + attended)
        attended, _ = self.text_cross_attn(hidden + position, tokens, tokens)
        hidden = self.text_cross_attn_layer_norm(hidden + attended)
        attended, _ = self.self_attn(hidden, position_embeddings=position)
        hidden = self.self_attn_layer_norm(hidden + attended)
        out: Tensor = self.final_layer_norm(hidden + self.fc2(F.relu(self.fc1(hidden))))
        return out


class MaskDecoderTrunk(nn.Module):
    def __init__(self, dim: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MaskDecoderLayer(dim, config) for _ in range(config.layers))
        self.layernorm = nn.LayerNorm(dim)
        self.mask_predictor = Mask2FormerMaskPredictor(dim, config.heads, dim)


class MaskDecoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        queries, dim = config.mask_decoder.queries, config.dim
        self.queries_embedder, self.queries_features = nn.Embedding(queries, dim), nn.Embedding(queries, dim)
        self.level_embed = nn.Embedding(NUM_SCALES, dim)
        self.decoder = MaskDecoderTrunk(dim, config.mask_decoder)
        self._positions = [token_position(side, dim)[:, None] for side in config.grids]

    def place_tables(self, device: torch.device) -> None:
        self._positions = [table.to(device) for table in self._positions]

    def forward(self, features: Features, mask_features: Tensor, seg: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mask logits (Q, S/4, S/4) and query states (Q, D)."""
        sizes = [feature.shape[-2:] for feature in features]
        values = [
            feature.flatten(2).permute(2, 0, 1) + self.level_embed.weight[scale]
            for scale, feature in enumerate(features)
        ]
        position = self.queries_embedder.weight[:, None]
        hidden = (self.queries_features.weight + seg)[:, None]
        masks, masked, states = self._predict(hidden, mask_features, sizes[0])
        for index, layer in enumerate(self.decoder.layers):
            scale = index % NUM_SCALES
            masked[masked.all(-1)] = False
            key = values[scale] + self._positions[scale]
            hidden = layer(hidden, position, key, values[scale], masked, tokens[:, None])
            masks, masked, states = self._predict(hidden, mask_features, sizes[(index + 1) % NUM_SCALES])
        return masks[0], states[:, 0]

    def _predict(self, hidden: Tensor, mask_features: Tensor, size: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
        states = self.decoder.layernorm(hidden)
        masks, masked = self.decoder.mask_predictor(states, mask_features, size)
        return masks, masked, states


class Downsampler(nn.Module):
    def __init__(self, config: Sam2VideoConfig, channels: int, dim: int, halvings: int) -> None:
        super().__init__()
        steps = [channels * 4**step for step in range(halvings + 1)]
        self.layers = nn.ModuleList(Sam2VideoMaskDownSamplerLayer(config, *pair) for pair in itertools.pairwise(steps))
        self.final_conv = nn.Conv2d(steps[-1], dim, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        for layer in self.layers:
            maps = layer(maps)
        out: Tensor = self.final_conv(maps)
        return out


class MemoryEncoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sam, dim = video_config(config), config.dim
        self.vision_downsampler = nn.ModuleList(Downsampler(sam, dim, dim, scale) for scale in range(NUM_SCALES))
        self.mask_downsampler = Downsampler(sam, 1, dim, 2)
        self.memory_fuser = Sam2VideoMemoryFuser(sam)
        self.projection = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(self, features: Features, prediction: Prediction) -> Tensor:
        """Returns one slot, (scales, slot tokens, D)."""
        score = prediction.class_logits.softmax(-1)[:, :-1].amax(-1).clamp_min(1e-6)
        weight = (prediction.mask_logits + score.log()[:, None, None]).softmax(0)
        guidance = (weight * prediction.mask_logits.sigmoid()).sum(0)
        mask = self.mask_downsampler(guidance[None, None] * 20.0 - 10.0)
        slots = [
            self.projection(self.memory_fuser(downsampler(feature) + mask))
            for downsampler, feature in zip(self.vision_downsampler, features, strict=True)
        ]
        return torch.cat(slots).flatten(2).transpose(1, 2)


class ReferenceFrame(nn.Module):
    """A stream of frames in plain PyTorch, on the weights of a segmentor."""

    def __init__(self, segmentor: Segmentor, config: ModelConfig) -> None:
        super().__init__()
        with init_empty_weights(include_buffers=False):
            self.encoder = Sam2VisionModel(segmentor.encoder.config)
            self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, config.dim))
            self.pixel_decoder = Mask2FormerPixelDecoder(segmentor.pixel_decoder.config, [config.dim] * NUM_SCALES)
            self.memory_attention = MemoryAttention(config)
            self.decoder = MaskDecoder(config)
            self.class_predictor = ClassPredictor()
            self.memory_encoder = MemoryEncoder(config)
        weights = segmentor.state_dict()
        self.load_state_dict({name: weights[name] for name in self.state_dict()}, assign=True)
        self.eval().requires_grad_(False)
        self.to(next(segmentor.parameters()).device)
        for part in (self.memory_attention, self.decoder):
            part.place_tables(self.no_memory_embedding.device)
        self.timer = StageTimer()
        self._memory: deque[tuple[int, Tensor]] = deque(maxlen=config.memory.slots)
        self._frame = 0

    @torch.inference_mode()
    def step(self, pixels: Tensor, prompt: PromptEmbeddings) -> Prediction:
        """pixels: (1, 3, S, S), normalised."""
        with self.timer("frame_encoder"):
            features, mask_features = self._encode(pixels)
        conditioned = features
        if self._memory:
            with self.timer("memory_attention"):
                frame_offsets = torch.tensor([self._frame - frame for frame, _ in self._memory], device=pixels.device)
                conditioned = self.memory_attention(features, [slot for _, slot in self._memory], frame_offsets)
        with self.timer("mask_decoder"):
            masks, states = self.decoder(conditioned, mask_features, prompt.seg, prompt.tokens)
            real = torch.ones(len(prompt.conditions), dtype=torch.bool, device=pixels.device)
            prediction = Prediction(masks, self.class_predictor(states, prompt.conditions, real))
        with self.timer("memory_encoder"):
            self._memory.append((self._frame, self.memory_encoder(features, prediction)))
        self._frame += 1
        return prediction

    def _encode(self, pixels: Tensor) -> tuple[Features, Tensor]:
        pyramid = self.encoder(pixels).fpn_hidden_states
        if not self._memory:
            pyramid = [level + self.no_memory_embedding.view(1, -1, 1, 1) for level in pyramid]
        decoded = self.pixel_decoder(pyramid)
        return decoded.multi_scale_features, decoded.mask_features


def video_config(config: ModelConfig) -> Sam2VideoConfig:
    """SAM 2's sizes of the memory modules."""
    memory = config.memory
    sam = Sam2VideoConfig(
        memory_attention_hidden_size=config.dim,
        memory_attention_feed_forward_hidden_size=memory.attention_feedforward_dim,
        memory_fuser_num_layers=memory.fuser_layers,
        memory_fuser_embed_dim=config.dim,
        memory_fuser_intermediate_dim=memory.fuser_feedforward_dim,
        rope_parameters={"rope_type": "axial", "rope_theta": 10000.0},
    )
    sam._attn_implementation = "sdpa"
    return sam


def token_position(side: int, dim: int) -> Tensor:
    """(side², D)."""
    return sine_position(side, dim).flatten(1).T.contiguous()


def rotary_angles(side: int, config: Sam2VideoConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (1, side², D): the first half of the channels turns with the column."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    positions = torch.stack((columns.flatten(), rows.flatten()), dim=-1)
    angles: tuple[Tensor, Tensor] = Sam2VideoVisionRotaryEmbedding(config)(rows, positions)
    return angles
