"""The step: one preprocessed frame through the engines, with the memory of the frames before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from x2sam_rt.config import SCALES, MemoryConfig, ModelConfig
from x2sam_rt.errors import EngineError, SnapshotError
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.model.stage_contract import require_finite
from x2sam_rt.runtime.engines.engine import BoundStage, Engine, Engines
from x2sam_rt.runtime.frame_graph import Beside, CudaBeside, CudaRecorder, FrameGraph, InTurn, Recorder
from x2sam_rt.runtime.memory_bank import BankState, MemoryBank
from x2sam_rt.runtime.timing import StageTimer

RECORDED = "recorded_frame"  # in timings: all stages as graphs, as long as the host is busy with them
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
    for each slot of the bank. frames: all of a frame but its encoder at once, for each number of slots looked at, where
    frames are recorded, of those that are not remembered and of those that are; then none is needed of `remember`."""

    source: PromptEmbeddings
    prediction: MaskPrediction
    decode: tuple[BoundStage, BoundStage]
    remember: tuple[BoundStage, ...]
    frames: tuple[tuple[FrameGraph, ...], tuple[FrameGraph, ...]] | None


@dataclass(frozen=True)
class _MemoryUse:
    """What one frame has to do with the memory. looks_at: so many live slots; 0 segments it as a single image. written:
    whether it is remembered."""

    looks_at: int
    written: bool


class Pipeline:
    """One stream's buffers and memory bank around the shared engines.

    All is allocated and bound here, once, but for what depends on the prompt: that is bound when a prompt comes. A
    steady frame only runs what is bound.
    """

    def __init__(
        self,
        engines: Engines,
        config: ModelConfig,
        record: Callable[[], Recorder | None] | None = None,
        beside: Beside | None = None,
    ) -> None:
        """record: makes what records a frame's work, and may make None, which calls it; the default records on GPUs,
        where every engine can be, and elsewhere runs stage by stage. beside: where a recorded frame's encoder may run
        ahead; None = on a GPU a stream of its own, else in turn."""
        self.side = config.image_size
        self.device = device = engines.device
        self.bank = MemoryBank(engines.memory_attention.contract, config.memory.slots, device, config.memory.gaps)
        self.timer = StageTimer()
        self._frame = 0
        self._origin = 0  # a frame that was remembered, from which it follows which others are
        self._memory: MemoryConfig = config.memory
        self._engines = engines
        if record is None and engines.recordable:
            record, beside = partial(CudaRecorder, device), CudaBeside(device)
        encoder, decoder = engines.frame_encoder, engines.mask_decoder.contract
        results = tuple(tensor.zeros(device) for tensor in encoder.contract.outputs)
        self.features = FrameFeatures((results[0], results[1], results[2]), *results[3:])
        self._recorded, self._recorder = record is not None, record() if record is not None else None
        self._encoding = (
            _FrameEncoding(encoder, results, None, None)
            if record is None
            else _FrameEncoding(encoder, results, record(), beside or InTurn())
        )
        low, middle, high = (tensor.zeros(device) for tensor in engines.memory_attention.contract.outputs)
        self.conditioned: Scales = (low, middle, high)
        self._mask_logits = decoder.output("mask_logits").zeros(device)
        self._query_states = decoder.output("query_states").zeros(device)
        self._attend = tuple(self._bind_attention(live) for live in range(1, self.bank.slots + 1))
        self._prompt: _BoundPrompt | None = None
        self._sum = torch.zeros((), device=device)

    @property
    def next_frame(self) -> int:
        """Index of the frame that the next step will segment."""
        return self._frame

    @property
    def num_bytes(self) -> int:
        """Of the buffers and the bank; what is bound for a prompt adds little."""
        features = (*self.features.pixel, self.features.mask, self.features.region_source, *self.conditioned)
        tensors = (self._mask_logits, self._query_states, *features)
        return self.bank.num_bytes + self._encoding.num_bytes + sum(tensor.nbytes for tensor in tensors)

    @property
    def looks_ahead(self) -> bool:
        """Whether `step` makes use of the frame that follows."""
        return self._recorded

    def step(
        self, pixels: Tensor, prompt: PromptEmbeddings, following: Callable[[], Tensor | None] = lambda: None
    ) -> MaskPrediction:
        """pixels: (1, 3, S, S), normalised. following: gives the pixels of the next step, where they are there already:
        asked once this frame's work is on its way, if the pipeline `looks_ahead`.

        Raises EngineError for another shape; on a CPU also, naming the stage, for results with NaN or infinity. On a
        GPU nothing waits for them here: they make all class logits NaN, which post-processing brings to the host, and
        `require_sound` then names the stage.
        """
        bound, memory = self._bound(prompt), self._memory_use()
        if bound.frames is None:
            self._step_by_stage(pixels, memory, bound)
            self._frame += 1
            self._note_sums(bound.prediction)
            if self.device.type == "cpu":
                self.require_sound()
        else:
            self._step_recorded(pixels, memory, bound.frames[memory.written])
            self._frame += 1
            self._encoding.run_ahead(following, first=not self._memory_use().looks_at)
        return bound.prediction

    def require_sound(self) -> None:
        """Raises EngineError naming the stage if the last step's results hold NaN or infinity, which one number tells:
        their sum. On a GPU the host waits."""
        if bool(self._sum.isfinite()) or self._prompt is None:
            return
        features, prompt = self.features, self._prompt.source
        for tensor in vars(prompt).values():
            require_finite("the language model", tensor)
        for tensor in (*features.pixel, features.mask, features.region_source):
            require_finite("stage frame_encoder", tensor)
        for slot in range(len(self.bank)):
            if slot != (self.bank.next_slot - 1) % self.bank.slots:  # which was made of the results in question
                require_finite("stage memory_encoder", self.bank.slot(slot))
        for tensor in self.conditioned if self._frame > 1 else ():
            require_finite("stage memory_attention", tensor)
        require_finite("stage mask_decoder", self._sum)

    def _note_sums(self, prediction: MaskPrediction) -> None:
        sums = (logits.sum(dtype=torch.float32) for logits in (prediction.mask_logits, prediction.class_logits))
        torch.add(*sums, out=self._sum)
        if self.device.type != "cpu":
            prediction.class_logits.add_(self._sum - self._sum)  # 0, or NaN

    def _step_by_stage(self, pixels: Tensor, memory: _MemoryUse, bound: _BoundPrompt) -> None:
        conditioned = memory.looks_at > 0
        with self.timer("frame_encoder"):
            self._encoding.take(pixels, first=not conditioned)
        if conditioned:
            with self.timer("memory_attention"):
                self.bank.read(self._frame)
                self._attend[memory.looks_at - 1]()
        with self.timer("mask_decoder"):
            bound.decode[conditioned]()
        if memory.written:
            with self.timer("memory_encoder"):
                bound.remember[self.bank.next_slot]()
                self.bank.commit(self._frame)

    def _step_recorded(self, pixels: Tensor, memory: _MemoryUse, frames: tuple[FrameGraph, ...]) -> None:
        with self.timer(RECORDED):
            self._encoding.take(pixels, first=not memory.looks_at)
            self.bank.announce(self._frame)
            frames[memory.looks_at]()
            if memory.written:
                self.bank.count()

    def _memory_use(self) -> _MemoryUse:
        """Of the next frame."""
        if not len(self.bank):
            self._origin = self._frame
        memory, since = self._memory, self._frame - self._origin
        return _MemoryUse(
            looks_at=len(self.bank) if memory.looks_back(since) else 0,
            written=memory.remembers(since),
        )

    def skip(self) -> None:
        """Lets a frame pass without segmenting it; the memory grows older by one frame."""
        self._frame += 1

    def restore(self, next_frame: int, bank: BankState, prompt: PromptEmbeddings | None) -> None:
        """Goes on where another pipeline was. Raises SnapshotError for what does not fit this one."""
        self.bank.restore(bank, next_frame)
        self._frame, self._origin = next_frame, max(bank.frames, default=next_frame)
        if prompt is not None:
            try:
                self._bound(prompt)
            except EngineError as error:
                raise SnapshotError(f"The answer's embeddings do not fit the bundle: {error}") from error

    def forget(self) -> None:
        """Empties the memory; the next frame is segmented as a first one."""
        self.bank.clear()

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
            passing, kept = (
                tuple(
                    self._graph(live, (own, conditioned), remember, prediction) for live in range(self.bank.slots + 1)
                )
                for remember in (None, staged)
            )
            return _BoundPrompt(prompt, prediction, (own, conditioned), (), (passing, kept))
        slots = map(self.bank.slot, range(self.bank.slots))
        remember = tuple(self._bind_memory_encoder(prediction, slot) for slot in slots)
        return _BoundPrompt(prompt, prediction, (own, conditioned), remember, None)

    def _graph(
        self,
        live: int,
        decode: tuple[BoundStage, BoundStage],
        remember: BoundStage | None,
        prediction: MaskPrediction,
    ) -> FrameGraph:
        """All of a frame that looks at so many live slots, but its encoder. remember: None leaves the bank as it is."""
        attend = (partial(self.bank.age, live), self._attend[live - 1]) if live else ()
        keep = () if remember is None else (remember,)
        place = _nothing if remember is None else self.bank.place
        work = (*attend, decode[live > 0], *keep, partial(self._note_sums, prediction))
        return FrameGraph(work, place, self._recorder)

    def _bind_memory_encoder(self, prediction: MaskPrediction, slot: Tensor) -> BoundStage:
        logits = {"mask_logits": prediction.mask_logits, "class_logits": prediction.class_logits}
        return self._engines.memory_encoder.bind({**_by_scale(self.features.pixel), **logits}, {"slot": slot})


class _FrameEncoding:
    """The frame encoder, which needs no memory: on a GPU it may run for the next frame beside this one's other stages.
    For that it writes to features of its own, which are copied when their frame's turn comes."""

    def __init__(
        self, engine: Engine, results: tuple[Tensor, ...], record: Recorder | None, beside: Beside | None
    ) -> None:
        """results: where the other stages read a frame's features. beside: None = never ahead, on no features of
        its own."""
        contract = engine.contract
        self._pixels, self._first = (tensor.zeros(engine.device) for tensor in contract.inputs)
        self._results, self._beside = results, beside or InTurn()
        self._own = results if beside is None else tuple(map(torch.zeros_like, results))
        names = [tensor.name for tensor in contract.outputs]
        run = engine.bind({"frame": self._pixels, "first": self._first}, dict(zip(names, self._own, strict=True)))
        self._run = FrameGraph((run,), _nothing, record)
        self._ahead: tuple[Tensor, bool] | None = None

    @property
    def num_bytes(self) -> int:
        """Of what is only its own."""
        ahead = () if self._own is self._results else self._own
        return sum(tensor.nbytes for tensor in (self._pixels, *ahead))

    def take(self, pixels: Tensor, *, first: bool) -> None:
        """Puts the frame's features where the other stages read them. first: it looks at no memory, as a clip's first
        one."""
        if self._ahead is None or self._ahead[0] is not pixels or self._ahead[1] != first:
            self._check(pixels)
            self._beside.mark()
            self._beside.begin(partial(self._encode, pixels, first))
        self._beside.join()
        self._ahead = None
        if self._own is not self._results:
            for result, own in zip(self._results, self._own, strict=True):
                result.copy_(own)
        self._beside.mark()

    def run_ahead(self, following: Callable[[], Tensor | None], *, first: bool) -> None:
        """Encodes the next frame beside what was started since `take`."""
        self._beside.begin(partial(self._encode_following, following, first))

    def _encode_following(self, following: Callable[[], Tensor | None], first: bool) -> None:
        pixels = following()
        if pixels is not None:
            self._check(pixels)
            self._encode(pixels, first)
            self._ahead = pixels, first

    def _encode(self, pixels: Tensor, first: bool) -> None:
        self._pixels.copy_(pixels)
        self._first.fill_(float(first))
        self._run()

    def _check(self, pixels: Tensor) -> None:
        if pixels.shape != self._pixels.shape:  # copying would stretch a single pixel over the frame
            raise EngineError(f"A frame of {tuple(pixels.shape)} was given, wanted {tuple(self._pixels.shape)}.")


def _nothing() -> None: ...


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
