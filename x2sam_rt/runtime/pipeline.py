"""The step: one preprocessed frame through the engines, with the memory of the frames before it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import EngineError, SnapshotError
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.model.stages import SCALES
from x2sam_rt.runtime.engines.engine import BoundStage, Engines
from x2sam_rt.runtime.frame_graph import CudaRecorder, FrameGraph, Recorder
from x2sam_rt.runtime.memory_bank import BankState, MemoryBank

RECORDED = "recorded_frame"  # in timings: all stages as one graph, as long as the host is busy with it
_CONDITIONED = "conditioned_"
Scales = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class FrameFeatures:
    """pixel: low to high resolution, each (1, D, h, w). mask: (1, D, S/4, S/4). region_source: (1, S/16, S/16, C)."""

    pixel: Scales
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
class _BoundPrompt:
    """The stages that depend on a prompt. decode: on a frame's own features, then on conditioned ones. remember: one
    for each slot of the bank. frames: all of a frame at once for each number of live slots, where frames are recorded;
    then none is needed of `remember`."""

    source: PromptEmbeddings
    prediction: MaskPrediction
    decode: tuple[BoundStage, BoundStage]
    remember: tuple[BoundStage, ...]
    frames: tuple[FrameGraph, ...] | None


class Pipeline:
    """One stream's buffers and memory bank around the shared engines.

    All is allocated and bound here, once, but for what depends on the prompt: that is bound when a prompt comes. A
    steady frame only runs what is bound.
    """

    def __init__(
        self, engines: Engines, config: ModelConfig, record: Callable[[], Recorder | None] | None = None
    ) -> None:
        """record: makes what records whole frames, and may make None, which calls them; the default records on GPUs,
        where every engine can be, and elsewhere runs stage by stage."""
        self.side = config.image_size
        self.device = device = engines.device
        self.bank = MemoryBank(engines.memory_attention.contract, config.memory.slots, device)
        self.timer = StageTimer()
        self._frame = 0
        self._engines = engines
        encoder, decoder = engines.frame_encoder.contract, engines.mask_decoder.contract
        self._pixels, self._first = (tensor.zeros(device) for tensor in encoder.inputs)
        low, middle, high, mask_features, region_source = (tensor.zeros(device) for tensor in encoder.outputs)
        self.features = FrameFeatures((low, middle, high), mask_features, region_source)
        low, middle, high = (tensor.zeros(device) for tensor in engines.memory_attention.contract.outputs)
        self.conditioned: Scales = (low, middle, high)
        self._mask_logits = decoder.output("mask_logits").zeros(device)
        self._query_states = decoder.output("query_states").zeros(device)
        self._encode = self._bind_encoder()
        self._attend = tuple(self._bind_attention(live) for live in range(1, self.bank.slots + 1))
        self._prompt: _BoundPrompt | None = None
        if record is None and engines.recordable:
            record = partial(CudaRecorder, device)
        self._recorded, self._recorder = record is not None, record() if record is not None else None

    @property
    def next_frame(self) -> int:
        """Index of the frame that the next step will segment."""
        return self._frame

    def step(self, pixels: Tensor, prompt: PromptEmbeddings) -> MaskPrediction:
        """pixels: (1, 3, S, S), normalised. Raises EngineError for another shape."""
        bound = self._bound(prompt)
        if bound.frames is not None:
            return self._step_recorded(pixels, bound.prediction, bound.frames)
        conditioned = len(self.bank) > 0
        with self.timer("frame_encoder"):
            self._take(pixels)
            self._encode()
        if conditioned:
            with self.timer("memory_attention"):
                self._attend[len(self.bank.read(self._frame)) - 1]()
        with self.timer("mask_decoder"):
            bound.decode[conditioned]()
        with self.timer("memory_encoder"):
            bound.remember[self.bank.next_slot]()
            self.bank.commit(self._frame)
        self._frame += 1
        return bound.prediction

    def _step_recorded(
        self, pixels: Tensor, prediction: MaskPrediction, frames: tuple[FrameGraph, ...]
    ) -> MaskPrediction:
        with self.timer(RECORDED):
            self._take(pixels)
            self.bank.announce(self._frame)
            frames[len(self.bank)]()
            self.bank.count()
        self._frame += 1
        return prediction

    def skip(self) -> None:
        """Lets a frame pass without segmenting it; the memory grows older by one frame."""
        self._frame += 1

    def restore(self, next_frame: int, bank: BankState, prompt: PromptEmbeddings | None) -> None:
        """Goes on where another pipeline was. Raises SnapshotError for what does not fit this one."""
        self.bank.restore(bank, next_frame)
        self._frame = next_frame
        if prompt is not None:
            try:
                self._bound(prompt)
            except EngineError as error:
                raise SnapshotError(f"The answer's embeddings do not fit the bundle: {error}") from error

    def forget(self) -> None:
        """Empties the memory; the next frame is segmented as a first one."""
        self.bank.clear()

    def _take(self, pixels: Tensor) -> None:
        """Puts a frame where the frame encoder reads it; one before which nothing is remembered is marked as first."""
        if pixels.shape != self._pixels.shape:  # copying would stretch a single pixel over the frame
            raise EngineError(f"A frame of {tuple(pixels.shape)} was given, wanted {tuple(self._pixels.shape)}.")
        self._pixels.copy_(pixels)
        self._first.fill_(float(len(self.bank) == 0))

    def _bind_encoder(self) -> BoundStage:
        features = self.features
        outputs = {"mask_features": features.mask, "region_source": features.region_source}
        return self._engines.frame_encoder.bind(
            {"frame": self._pixels, "first": self._first}, {**_by_scale(features.pixel), **outputs}
        )

    def _bind_attention(self, live: int) -> BoundStage:
        """For a bank with so many live slots."""
        return self._engines.memory_attention.bind(
            {**_by_scale(self.features.pixel), **vars(self.bank.view(live))}, _by_scale(self.conditioned, _CONDITIONED)
        )

    def _bound(self, prompt: PromptEmbeddings) -> _BoundPrompt:
        if self._prompt is None or self._prompt.source is not prompt:
            self._prompt = self._bind_prompt(prompt)
        return self._prompt

    def _bind_prompt(self, prompt: PromptEmbeddings) -> _BoundPrompt:
        decoder = self._engines.mask_decoder.contract
        class_logits = decoder.output("class_logits").zeros(self._engines.device, conditions=len(prompt.conditions))
        prediction = MaskPrediction(self._mask_logits, class_logits, self._query_states)
        inputs = {"mask_features": self.features.mask, **_decoder_inputs(prompt, decoder.input("seg").torch_dtype)}
        own, conditioned = (
            self._engines.mask_decoder.bind({**_by_scale(pixel), **inputs}, vars(prediction))
            for pixel in (self.features.pixel, self.conditioned)
        )
        if self._recorded:
            staged = self._bind_memory_encoder(prediction, self.bank.staged)
            frames = tuple(self._graph(live, (own, conditioned), staged) for live in range(self.bank.slots + 1))
            return _BoundPrompt(prompt, prediction, (own, conditioned), (), frames)
        slots = map(self.bank.slot, range(self.bank.slots))
        remember = tuple(self._bind_memory_encoder(prediction, slot) for slot in slots)
        return _BoundPrompt(prompt, prediction, (own, conditioned), remember, None)

    def _graph(self, live: int, decode: tuple[BoundStage, BoundStage], remember: BoundStage) -> FrameGraph:
        """A whole frame on a bank with so many live slots."""
        attend = (partial(self.bank.age, live), self._attend[live - 1]) if live else ()
        return FrameGraph((self._encode, *attend, decode[live > 0], remember), self.bank.place, self._recorder)

    def _bind_memory_encoder(self, prediction: MaskPrediction, slot: Tensor) -> BoundStage:
        logits = {"mask_logits": prediction.mask_logits, "class_logits": prediction.class_logits}
        return self._engines.memory_encoder.bind({**_by_scale(self.features.pixel), **logits}, {"slot": slot})


def _decoder_inputs(prompt: PromptEmbeddings, dtype: torch.dtype) -> dict[str, Tensor]:
    """A prompt as the mask decoder takes it: nothing in it is padding."""
    embeddings = {name: tensor.to(dtype).contiguous() for name, tensor in vars(prompt).items()}
    return {
        **embeddings,
        "condition_mask": torch.ones(len(prompt.conditions), dtype=torch.bool, device=prompt.seg.device),
        "token_mask": torch.ones(len(prompt.tokens), dtype=torch.bool, device=prompt.seg.device),
    }


def _by_scale(maps: Scales, prefix: str = "") -> dict[str, Tensor]:
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
