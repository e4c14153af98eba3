"""Verification: engines against the PyTorch model, stage by stage and over made-up clips, on this machine."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from x2sam_rt.data.synthetic import SyntheticClip, clip_seed, evaluation_settings, make_clip
from x2sam_rt.evaluation.backends import assemble
from x2sam_rt.evaluation.parts import Part
from x2sam_rt.evaluation.protocol import Protocol
from x2sam_rt.evaluation.results import PartResult
from x2sam_rt.evaluation.runner import measure_part
from x2sam_rt.evaluation.segmenter import RuntimeSegmenter, Segmenter
from x2sam_rt.evaluation.synthetic import synthetic_parts
from x2sam_rt.kernels import kernels_on
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.precision import dtype_of, fp32_copy
from x2sam_rt.model.preprocess import segmentor_input
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.model.quantization import QUANTIZATION_BOUNDS
from x2sam_rt.model.stage_contract import Sizes, StageContract, Tensors
from x2sam_rt.model.stages import EXAMPLE_SIZES, example_inputs, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import BundleFiles, Manifest, load_manifest
from x2sam_rt.runtime.device import device_for
from x2sam_rt.runtime.engines import find_backend
from x2sam_rt.runtime.engines.engine import BoundStage, Engine, Engines, load_engine, run_once
from x2sam_rt.runtime.engines.torch_engine import TorchEngine
from x2sam_rt.runtime.language import LanguageRuntime
from x2sam_rt.runtime.pipeline import MaskPrediction, Pipeline
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.weights import load_language_model, load_reference_stage
from x2sam_rt.tasks.instruction import Instruction


@dataclass(frozen=True)
class Bounds:
    """error: largest of a stage alone, relative to max(1, largest reference value). clip_error: the same of a frame's
    logits within a clip; None = any. iou: least, of the masks of a frame. j_and_f: largest difference of J&F, 0…1,
    over the clips of a part. cosine, prompt_iou: least, of a rounded text model's prompt embeddings and masks."""

    error: float
    clip_error: float | None
    iou: float
    j_and_f: float
    cosine: float = 1.0
    prompt_iou: float = 1.0


# A bf16 step rounds by 2⁻⁹, and a frame passes some sixty layers; on random weights, whose masks are all outline, a
# sound bf16 engine was measured at error 0.06 and IoU 0.98. A wrong engine is off by whole units. Over a clip the
# logits of trained weights have no bound in bf16: 0.4 was measured at an IoU of 0.97. Probably a query that hovers at a
# threshold of its attention mask falls to the other side; that was not traced.
BOUNDS = {"fp32": Bounds(1e-3, 1e-3, 0.999, 0.002), "bf16": Bounds(0.15, None, 0.95, 0.005)}
# In int8 a stage's tensors have no bound that means anything; masks and accuracy have.
BOUNDS["int8"] = Bounds(math.inf, None, 0.9, 0.01)

# Clips whose accuracy is compared: enough for a mean, few enough for a minute; a large model takes longer for each.
_PARTS = ("referring", "object")
_PHRASES = ("the red circle", "a dog", "the small star that moves left", "everything blue")
_CLIPS, _LARGE = 8, 256
_MORE = 4
_FRAME_SIDE = 128

Opening = Callable[[], AbstractContextManager[Segmenter]]


@dataclass(frozen=True)
class StageCheck:
    """One stage at one set of sizes."""

    stage: str
    sizes: str
    error: float

    def passed(self, bounds: Bounds) -> bool:
        return self.error <= bounds.error


@dataclass(frozen=True)
class ClipCheck:
    """One frame of a whole clip. live_slots: how full the memory was when the frame was segmented."""

    frame: int
    live_slots: int
    error: float
    iou: float

    def passed(self, bounds: Bounds) -> bool:
        close = bounds.clip_error is None or self.error <= bounds.clip_error
        return close and self.iou >= bounds.iou


@dataclass(frozen=True)
class AccuracyCheck:
    """J&F of one part of the synthetic set, by the engines and by PyTorch in fp32."""

    part: str
    clips: int
    ours: float
    reference: float

    def passed(self, bounds: Bounds) -> bool:
        return abs(self.ours - self.reference) <= bounds.j_and_f


@dataclass(frozen=True)
class PromptCheck:
    """One question, by the bundle's rounded text model and by full weights. cosine: least of its embeddings. iou: of
    the masks both give on the same frame."""

    question: str
    cosine: float
    iou: float

    def passed(self, bounds: Bounds) -> bool:
        return self.cosine >= bounds.cosine and self.iou >= bounds.prompt_iou


Check = StageCheck | ClipCheck | PromptCheck | AccuracyCheck


def bounds_of(manifest: Manifest) -> Bounds:
    """By the precision of the engines, and what the text model's weights are rounded to."""
    own, language = BOUNDS[manifest.precision], QUANTIZATION_BOUNDS[manifest.language_weights]
    return replace(own, cosine=language.cosine, prompt_iou=language.iou, j_and_f=own.j_and_f + language.j_and_f)


class ReferenceEngine:
    """The PyTorch model in fp32 on plain PyTorch kernels: ours must not vouch for themselves."""

    recordable = False  # a reference is not what it is compared with

    def __init__(self, contract: StageContract, module: nn.Module) -> None:
        self.contract, self.device = contract.widened(), next(module.parameters()).device
        self._engine = TorchEngine(self.contract, module, self.device)

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        run = self._engine.bind(inputs, outputs)

        def run_on_plain_kernels() -> None:
            # On GPUs cuDNN would round the factors of convolutions to 10 bits.
            with kernels_on("torch"), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                run()

        return run_on_plain_kernels

    def close(self) -> None:
        self._engine.close()


def reference_module(model: X2SAM, stage: str) -> nn.Module:
    """A stage of the model with the same weights, as fp32."""
    module = stage_module(model, stage)
    return module if next(module.parameters()).dtype == torch.float32 else fp32_copy(module)


def stage_error(engine: Engine, module: nn.Module, sizes: Sizes = EXAMPLE_SIZES) -> float:
    """Largest error of any output on random inputs, relative to max(1, largest reference value); NaN counts as ∞.

    module: the stage in fp32.
    """
    inputs = {name: value.to(engine.device) for name, value in example_inputs(engine.contract, sizes).items()}
    wide = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
    ours, reference = run_once(engine, inputs), run_once(ReferenceEngine(engine.contract, module), wide)
    return max(relative_error(ours[name], reference[name]) for name in reference)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    difference = (ours.double() - reference.double()).abs().max()
    if not difference.isfinite():
        return float("inf")
    return float(difference / reference.double().abs().max().clamp_min(1))


def check_stages(engines: Engines, modules: Mapping[str, nn.Module], slots: int) -> Iterator[StageCheck]:
    """Every stage, as `check_stage`."""
    for name, engine in vars(engines).items():
        yield from check_stage(engine, modules[name], slots)


def check_stage(engine: Engine, module: nn.Module, slots: int, *, quick: bool = False) -> Iterator[StageCheck]:
    """One stage; those with varying sizes at their smallest, at traced and at larger sizes, and the memory attention
    at every number of live slots (quick: at one and at all). module: the stage in fp32."""
    for sizes in _sizes_to_check(engine.contract.varying, slots, quick=quick):
        label = ", ".join(f"{dim} {size}" for dim, size in sizes.items()) or "fixed"
        yield StageCheck(engine.contract.name, label, stage_error(engine, module, sizes))


def _sizes_to_check(dims: Set[str], slots: int, *, quick: bool) -> list[dict[str, int]]:
    if not dims:
        return [{}]
    if dims == {"slots"}:
        return [{"slots": live} for live in (sorted({1, slots}) if quick else range(1, slots + 1))]
    least = {"conditions": 2, "tokens": 1, "pairs": 1, "merged": 1}
    more = {"conditions": 19, "tokens": 53, "pairs": 5, "merged": 15}
    return [{dim: sizes[dim] for dim in sorted(dims)} for sizes in (least, EXAMPLE_SIZES, more)]


def segment_clip(pipeline: Pipeline, prompt: PromptEmbeddings, frames: int) -> Iterator[MaskPrediction]:
    """One made-up clip, memory and all; each prediction lasts until the next. frames: past the bank's slots, so that
    it wraps."""
    for picture in _clip(pipeline.side, frames).frames:
        pixels = segmentor_input(torch.from_numpy(picture).to(pipeline.device), pipeline.side, "stretch").pixels
        yield pipeline.step(pixels, prompt)


def check_clip(
    ours: Iterable[MaskPrediction], reference: Pipeline, prompt: PromptEmbeddings, frames: int
) -> Iterator[ClipCheck]:
    """Predictions of `segment_clip` against another pipeline's, frame by frame."""
    live = len(reference.bank)
    for frame, (one, other) in enumerate(zip(ours, segment_clip(reference, prompt, frames), strict=True)):
        errors = [relative_error(getattr(one, name), getattr(other, name)) for name in vars(other)]
        yield ClipCheck(frame, live, max(errors), mask_iou(one.mask_logits > 0, other.mask_logits > 0))
        live = len(reference.bank)


def check_accuracy(ours: Opening, reference: Opening, clips: int, bounds: Bounds) -> Iterator[AccuracyCheck]:
    """The first clips of some parts of the synthetic set, each asked and segmented from beginning to end, by one and
    then by the other. Of a few clips one that tips either way decides; before it is held against the engines, four
    times as many are measured."""
    checks = _compare_accuracy(ours, reference, _PARTS, clips)
    yield from (check for check in checks if check.passed(bounds))
    doubtful = [check.part for check in checks if not check.passed(bounds)]
    if doubtful:
        yield from _compare_accuracy(ours, reference, doubtful, _MORE * clips)


def _compare_accuracy(ours: Opening, reference: Opening, names: Sequence[str], clips: int) -> list[AccuracyCheck]:
    parts = [part for part in synthetic_parts() if part.name in names]
    one, other = _measured(ours, parts, clips), _measured(reference, parts, clips)
    rows = zip(parts, one, other, strict=True)
    return [AccuracyCheck(part.name, a.samples, a.headline.value, b.headline.value) for part, a, b in rows]


def _measured(opening: Opening, parts: Sequence[Part], clips: int) -> list[PartResult]:
    with opening() as segmenter:
        return [measure_part(segmenter, part, Protocol(limit=clips))[0] for part in parts]


def prompts(language: LanguageRuntime) -> list[PromptEmbeddings]:
    """Answers to questions about one made-up frame."""
    picture = torch.from_numpy(_clip(_FRAME_SIDE, 1).frames[0])
    return [_prompt(language, picture, phrase) for phrase in _PHRASES]


def check_prompts(ours: list[PromptEmbeddings], full: LanguageRuntime, pipeline: Pipeline) -> Iterator[PromptCheck]:
    """ours: `prompts` of rounded weights. The same of full ones, and the masks of that frame by both."""
    picture = torch.from_numpy(_clip(_FRAME_SIDE, 1).frames[0])
    pixels = segmentor_input(picture, pipeline.side, "stretch").pixels
    for phrase, asked in zip(_PHRASES, zip(ours, prompts(full), strict=True), strict=True):
        embeddings = (vars(prompt).values() for prompt in asked)
        cosine = min(float(F.cosine_similarity(a.float(), b.float()).min()) for a, b in zip(*embeddings, strict=True))
        yield PromptCheck(phrase, cosine, mask_iou(*(_first_masks(pipeline, pixels, prompt) for prompt in asked)))


def _first_masks(pipeline: Pipeline, pixels: Tensor, prompt: PromptEmbeddings) -> Tensor:
    pipeline.forget()
    return pipeline.step(pixels, prompt).mask_logits > 0


def mask_iou(ours: Tensor, reference: Tensor) -> float:
    """IoU of two sets of bool masks taken together; two empty sets agree."""
    union = int((ours | reference).sum())
    return int((ours & reference).sum()) / union if union else 1.0


def verify_bundle(folder: Path, device: str | None = None, *, quick: bool = False) -> Iterator[Check]:
    """Checks a bundle's engines against the PyTorch model with the same weights, on this machine.

    First every stage alone, with no other in memory; then a clip that fills the memory and wraps it, prompted through
    the language model; where that has rounded weights, what they change; if these are within bounds, the accuracy of
    both. The language side is PyTorch in both, and computes with the weights that the bundle holds. device: as for
    `Runtime.load`; both run there. quick: stages only, the memory attention with one slot and with
    all. Every file's hash is checked before.

    Raises BundleError, EngineError or MissingExtra when the bundle cannot be loaded.
    """
    manifest = load_manifest(folder, check_hashes=True)
    bounds, sound, files = bounds_of(manifest), True, BundleFiles(folder, manifest.files)
    place = device_for(manifest, device)
    clip = () if quick else _whole_clip(manifest, files, place)
    checks: Iterator[Check] = itertools.chain(bundled_stages(manifest, files, place, quick=quick), clip)
    for check in checks:
        sound = sound and check.passed(bounds)
        yield check
    if sound and not quick:
        yield from _accuracy(manifest, files, place)


def planned_checks(manifest: Manifest, *, quick: bool = False) -> int:
    """How many checks `verify_bundle` yields when all pass."""
    slots = manifest.model.memory.slots
    stages = sum(len(_sizes_to_check(contract.varying, slots, quick=quick)) for contract in manifest.stages)
    rounded = len(_PHRASES) if manifest.language_weights != "full" else 0
    return stages if quick else stages + _clip_frames(manifest) + rounded + len(_PARTS)


def bundled_stages(
    manifest: Manifest, files: BundleFiles, device: torch.device, *, quick: bool = False
) -> Iterator[StageCheck]:
    """Every stage of a bundle, as `check_stage`, one at a time in memory."""
    backend, dtype = find_backend(manifest.backend), dtype_of(manifest.precision)
    for contract in manifest.stages:
        if backend.runs_weights:
            own = load_reference_stage(manifest, files, contract.name, dtype, device)
        else:
            own = stage_module(empty_model(manifest.model), contract.name)
        engine = load_engine(backend, contract, files, own, device)
        wide = load_reference_stage(manifest, files, contract.name, torch.float32, device)
        yield from check_stage(engine, wide, manifest.model.memory.slots, quick=quick)
        engine.close()


@dataclass(frozen=True, eq=False)
class _Recorded:
    """clip_prompt: of the clip whose predictions lie in files. prompts: of rounded text weights, as `prompts`."""

    clip_prompt: PromptEmbeddings
    prompts: list[PromptEmbeddings]


def _whole_clip(manifest: Manifest, files: BundleFiles, device: torch.device) -> Iterator[ClipCheck | PromptCheck]:
    """First the engines, what they predict in files; then the reference: only one of them takes memory at a time."""
    with tempfile.TemporaryDirectory(prefix="x2sam-verify-") as folder:
        recorded = _record(manifest, files, device, Path(folder))
        engines, frames = _reference_engines(manifest, files, device), _clip_frames(manifest)
        reference = Pipeline(engines, manifest.model)
        ours = (MaskPrediction(**load_file(Path(folder) / str(f), device=str(device))) for f in range(frames))
        yield from check_clip(ours, reference, recorded.clip_prompt, frames)
    if recorded.prompts:
        full, _ = assemble(files, manifest, load_language_model(manifest, files, device), engines)
        yield from check_prompts(recorded.prompts, full.language, reference)


def _record(manifest: Manifest, files: BundleFiles, device: torch.device, folder: Path) -> _Recorded:
    with Runtime.load(files.folder, device=str(device)) as runtime:
        prompt = _prompt(runtime.language, torch.from_numpy(_clip(_FRAME_SIDE, 1).frames[0]), *_PHRASES[:2])
        pipeline = Pipeline(runtime.engines, manifest.model)
        for frame, prediction in enumerate(segment_clip(pipeline, prompt, _clip_frames(manifest))):
            tensors = {name: value.cpu().contiguous() for name, value in vars(prediction).items()}
            save_file(tensors, folder / str(frame))
        return _Recorded(prompt, prompts(runtime.language) if manifest.language_weights != "full" else [])


def _clip_frames(manifest: Manifest) -> int:
    """The memory fills and wraps."""
    memory = manifest.model.memory
    return memory.every * (memory.slots + 1) + memory.slots + 1


def _accuracy(manifest: Manifest, files: BundleFiles, device: torch.device) -> Iterator[AccuracyCheck]:
    @contextlib.contextmanager
    def ours() -> Iterator[Segmenter]:
        with Runtime.load(files.folder, device=str(device)) as runtime:
            yield RuntimeSegmenter(runtime)

    @contextlib.contextmanager
    def reference() -> Iterator[Segmenter]:
        language, engines = load_language_model(manifest, files, device), _reference_engines(manifest, files, device)
        runtime, segmenter = assemble(files, manifest, language, engines)
        with runtime:
            yield segmenter

    clips = _CLIPS if manifest.model.image_size <= _LARGE else 1
    yield from check_accuracy(ours, reference, clips, bounds_of(manifest))


def _reference_engines(manifest: Manifest, files: BundleFiles, device: torch.device) -> Engines:
    modules = (load_reference_stage(manifest, files, c.name, torch.float32, device) for c in manifest.stages)
    return Engines.of(ReferenceEngine(*pair) for pair in zip(manifest.stages, modules, strict=True))


def _prompt(language: LanguageRuntime, picture: Tensor, *phrases: str) -> PromptEmbeddings:
    answer = language.answer(Instruction(phrases=phrases), "image", PromptFrames((picture,), {}))
    assert answer.embeddings is not None, "a known answer has its <SEG>"
    return answer.embeddings


def _clip(side: int, frames: int) -> SyntheticClip:
    """Objects that move behind an occluder, so that the memory matters."""
    settings = replace(evaluation_settings("occluded"), side=min(max(side, 32), _LARGE), frames=frames)
    return make_clip(clip_seed("seen", 0), settings)
