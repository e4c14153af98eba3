"""The step: one preprocessed frame through the engines, with the memory of the frames before it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.conditions import PromptEmbeddings
from x2sam_rt.runtime.engines.engine import Engine
from x2sam_rt.runtime.memory_bank import MemoryBank

SCALES = ("low", "middle", "high")


@dataclass(frozen=True, eq=False)
class Engines:
    """The engines of a model, shared by all its streams."""

    frame_encoder: Engine
    memory_attention: Engine
    mask_decoder: Engine
    memory_encoder: Engine
    vision_encoder: Engine

    @property
    def dtype(self) -> torch.dtype:
        """Of the floating tensors that cross a stage's border."""
        frame = next(tensor for tensor in self.frame_encoder.spec.inputs if tensor.name == "frame")
        dtype: torch.dtype = getattr(torch, frame.dtype)
        return dtype

    def close(self) -> None:
        for engine in vars(self).values():
            engine.close()


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """pixel: low to high resolution, each (1, D, h, w). mask: (1, D, S/4, S/4). region_source: (1, S/16, S/16, C)."""

    pixel: tuple[Tensor, Tensor, Tensor]
    mask: Tensor
    region_source: Tensor


@dataclass(frozen=True, eq=False)
class MaskPrediction:
    """mask_logits: (Q, S/4, S/4). class_logits: (Q, C + 1), background last. query_states: (Q, D).

    The tensors are the pipeline's own and hold until its next step.
    """

    mask_logits: Tensor
    class_logits: Tensor
    query_states: Tensor


@dataclass(frozen=True, eq=False)
class _DecoderPrompt:
    """A prompt as the mask decoder takes it, and a buffer for the class logits, whose size depends on it."""

    source: PromptEmbeddings
    inputs: dict[str, Tensor]
    class_logits: Tensor


class Pipeline:
    """One stream's buffers and memory bank around the shared engines. Everything is allocated here, once."""

    def __init__(self, engines: Engines, config: ModelConfig) -> None:
        dtype = engines.dtype
        self.bank = MemoryBank(config, dtype)
        self.timer = StageTimer()
        self._engines, self._config, self._dtype = engines, config, dtype
        self._frame = 0
        self.features = self._feature_buffers()
        self.conditioned = self._scale_buffers()
        queries, high = config.mask_decoder.queries, config.grids[-1]
        self._mask_logits = torch.zeros(queries, high, high, dtype=dtype)
        self._query_states = torch.zeros(queries, config.dim, dtype=dtype)
        self._first = torch.zeros(1, dtype=dtype)
        self._prompt: _DecoderPrompt | None = None

    @property
    def side(self) -> int:
        """S: the side of the square input, pixels."""
        return self._config.image_size

    @property
    def next_frame(self) -> int:
        """Index of the frame that the next step will segment."""
        return self._frame

    def step(self, pixels: Tensor, prompt: PromptEmbeddings) -> MaskPrediction:
        """pixels: (1, 3, S, S), normalised."""
        features = self.encode(pixels)
        conditioned = self._attend(features)
        prediction = self._decode(conditioned, features, prompt)
        self._remember(features, prediction)
        self._frame += 1
        return prediction

    def skip(self) -> None:
        """Lets a frame pass without segmenting it; the memory grows older by one frame."""
        self._frame += 1

    def forget(self) -> None:
        """Empties the memory; the next frame is segmented as a first one."""
        self.bank.clear()

    def encode(self, pixels: Tensor) -> FrameFeatures:
        """The frame's own features; a frame before which nothing is remembered is marked as first."""
        self._first.fill_(float(len(self.bank) == 0))
        features = self.features
        with self.timer("frame_encoder"):
            self._engines.frame_encoder.run(
                {"frame": pixels.to(self._dtype).contiguous(), "first": self._first},
                {
                    **_by_scale(features.pixel),
                    "mask_features": features.mask,
                    "region_source": features.region_source,
                },
            )
        return features

    def _attend(self, features: FrameFeatures) -> tuple[Tensor, Tensor, Tensor]:
        if len(self.bank) == 0:
            return features.pixel
        with self.timer("memory_attention"):
            view = self.bank.read(self._frame)
            self._engines.memory_attention.run(
                {**_by_scale(features.pixel), "memory": view.memory, "gaps": view.gaps},
                _by_scale(self.conditioned, "conditioned_"),
            )
        return self.conditioned

    def _decode(
        self, conditioned: tuple[Tensor, Tensor, Tensor], features: FrameFeatures, prompt: PromptEmbeddings
    ) -> MaskPrediction:
        taken = self._take(prompt)
        prediction = MaskPrediction(self._mask_logits, taken.class_logits, self._query_states)
        with self.timer("mask_decoder"):
            self._engines.mask_decoder.run(
                {**_by_scale(conditioned), "mask_features": features.mask, **taken.inputs}, dict(vars(prediction))
            )
        return prediction

    def _remember(self, features: FrameFeatures, prediction: MaskPrediction) -> None:
        with self.timer("memory_encoder"):
            self._engines.memory_encoder.run(
                {
                    **_by_scale(features.pixel),
                    "mask_logits": prediction.mask_logits,
                    "class_logits": prediction.class_logits,
                },
                {"slot": self.bank.next_slot()},
            )
            self.bank.commit(self._frame)

    def _take(self, prompt: PromptEmbeddings) -> _DecoderPrompt:
        if self._prompt is None or self._prompt.source is not prompt:
            inputs = {
                name: getattr(prompt, name).to(self._dtype).contiguous() for name in ("seg", "conditions", "tokens")
            }
            for name in ("condition", "token"):
                inputs[f"{name}_mask"] = torch.ones(len(inputs[f"{name}s"]), dtype=torch.bool)
            class_logits = torch.zeros(self._config.mask_decoder.queries, len(prompt.conditions), dtype=self._dtype)
            self._prompt = _DecoderPrompt(prompt, inputs, class_logits)
        return self._prompt

    def _feature_buffers(self) -> FrameFeatures:
        low, _, high = self._config.grids
        mask = torch.zeros(1, self._config.dim, high, high, dtype=self._dtype)
        source = torch.zeros(1, low, low, self._config.mask_encoder.region_dim, dtype=self._dtype)
        return FrameFeatures(self._scale_buffers(), mask, source)

    def _scale_buffers(self) -> tuple[Tensor, Tensor, Tensor]:
        low, middle, high = (
            torch.zeros(1, self._config.dim, side, side, dtype=self._dtype) for side in self._config.grids
        )
        return low, middle, high


def _by_scale(maps: tuple[Tensor, Tensor, Tensor], prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in zip(SCALES, maps, strict=True)}


class StageTimer:
    """Collects milliseconds by stage name; `take` hands them over and starts anew."""

    def __init__(self) -> None:
        self._milliseconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._milliseconds[stage] = self._milliseconds.get(stage, 0.0) + (time.perf_counter() - started) * 1e3

    def take(self) -> dict[str, float]:
        taken, self._milliseconds = self._milliseconds, {}
        return taken
