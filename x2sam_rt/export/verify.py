"""Verification: engines against the PyTorch model, stage by stage and over whole clips, on this machine."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from x2sam_rt.export.stages import EXAMPLE_SIZES, empty_tensors, example_tensors
from x2sam_rt.kernels import kernels_on
from x2sam_rt.model.conditions import PromptEmbeddings
from x2sam_rt.model.precision import cast_parameters
from x2sam_rt.model.stages import STAGE_MODULES, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.asking import Ask
from x2sam_rt.runtime.bundle import StageSpec, TensorSpec
from x2sam_rt.runtime.engines.engine import Engine, Tensors
from x2sam_rt.runtime.engines.torch_engine import TorchEngine
from x2sam_rt.runtime.pipeline import Engines, Pipeline
from x2sam_rt.runtime.preprocess import vision_input
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.tasks import DEFAULT_WORDING
from x2sam_rt.runtime.weights import load_reference_model


@dataclass(frozen=True)
class Bounds:
    """error: largest, relative to max(1, largest reference value). iou: least, of the masks of a frame."""

    error: float
    iou: float


# A bf16 step rounds by 2⁻⁹, and a frame passes some sixty layers; on random weights, whose masks are all outline, a
# sound bf16 engine was measured at error 0.06 and IoU 0.98. A wrong engine is off by whole units.
BOUNDS = {"fp32": Bounds(1e-3, 0.999), "bf16": Bounds(0.15, 0.95)}


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
        return self.error <= bounds.error and self.iou >= bounds.iou


class ReferenceEngine:
    """The PyTorch model in fp32 on plain PyTorch kernels: ours must not vouch for themselves."""

    def __init__(self, spec: StageSpec, module: nn.Module) -> None:
        self.spec = _widened(spec)
        self._engine = TorchEngine(self.spec, module)

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        with kernels_on("torch"):
            self._engine.run(inputs, outputs)

    def close(self) -> None:
        self._engine.close()


def reference_module(model: X2SAM, stage: str) -> nn.Module:
    """A stage of the model with the same weights, as fp32."""
    module = stage_module(model, stage)
    if next(module.parameters()).dtype == torch.float32:
        return module
    return cast_parameters(copy.deepcopy(module), torch.float32)


def _widened(spec: StageSpec) -> StageSpec:
    def widen(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(t, dtype="float32") if t.dtype == "bfloat16" else t for t in tensors)

    return replace(spec, inputs=widen(spec.inputs), outputs=widen(spec.outputs))


def stage_error(engine: Engine, module: nn.Module, sizes: Mapping[str, int] = EXAMPLE_SIZES) -> float:
    """Largest error of any output on random inputs, relative to max(1, largest reference value); NaN counts as ∞.

    module: the stage in fp32.
    """
    spec = engine.spec
    reference_engine = ReferenceEngine(spec, module)
    inputs = example_tensors(spec.inputs, sizes, spec.name)
    ours, reference = empty_tensors(spec.outputs, sizes), empty_tensors(reference_engine.spec.outputs, sizes)
    engine.run(inputs, ours)
    wide = {name: value.float() if value.is_floating_point() else value for name, value in inputs.items()}
    reference_engine.run(wide, reference)
    return max(relative_error(ours[name], reference[name]) for name in reference)


def relative_error(ours: Tensor, reference: Tensor) -> float:
    difference = (ours.double() - reference.double()).abs().max()
    if not difference.isfinite():
        return float("inf")
    return float(difference / reference.double().abs().max().clamp_min(1))


def check_stages(engines: Engines, modules: Mapping[str, nn.Module], slots: int) -> Iterator[StageCheck]:
    """Every stage; those with varying sizes at their smallest, at traced and at larger sizes, and the memory attention
    at every number of live slots."""
    for name, engine in vars(engines).items():
        for sizes in _sizes_to_check(engine.spec, slots):
            label = ", ".join(f"{dim} {size}" for dim, size in sizes.items()) or "fixed"
            yield StageCheck(name, label, stage_error(engine, modules[name], sizes))


def _sizes_to_check(spec: StageSpec, slots: int) -> list[dict[str, int]]:
    dims = {dim for tensor in spec.inputs + spec.outputs for dim in tensor.shape if isinstance(dim, str)}
    if not dims:
        return [{}]
    if dims == {"slots"}:
        return [{"slots": live} for live in range(1, slots + 1)]
    least = {"conditions": 2, "tokens": 1, "pairs": 1, "patches": 4, "merged": 1}
    more = {"conditions": 19, "tokens": 53, "pairs": 5, "patches": 60, "merged": 15}
    return [{dim: sizes[dim] for dim in sorted(dims)} for sizes in (least, EXAMPLE_SIZES, more)]


def check_clip(ours: Pipeline, reference: Pipeline, prompt: PromptEmbeddings, frames: int) -> Iterator[ClipCheck]:
    """Steps two pipelines through one random clip, memory and all. frames: past the bank's slots, so that it wraps.

    A smooth random clip: noise that drifts, so that the memory matters and masks have some extent.
    """
    side = reference.side
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, 8, 8 + frames, generator=generator)
    for frame in range(frames):
        window = coarse[..., frame : frame + 8]
        pixels = torch.nn.functional.interpolate(window, size=(side, side), mode="bicubic")
        live = len(reference.bank)
        one, other = ours.step(pixels, prompt), reference.step(pixels, prompt)
        errors = [relative_error(getattr(one, name), getattr(other, name)) for name in vars(other)]
        yield ClipCheck(frame, live, max(errors), mask_iou(one.mask_logits > 0, other.mask_logits > 0))


def mask_iou(ours: Tensor, reference: Tensor) -> float:
    """IoU of two sets of bool masks taken together; two empty sets agree."""
    union = int((ours | reference).sum())
    return int((ours & reference).sum()) / union if union else 1.0


def verify_bundle(folder: Path) -> Iterator[StageCheck | ClipCheck]:
    """Checks a bundle's engines against the PyTorch model with the same weights, on this machine.

    First every stage alone, then a clip that fills the memory and wraps it, prompted through the language model.
    Raises BundleError or EngineError when the bundle cannot be loaded.
    """
    with Runtime.load(folder) as runtime:
        model = load_reference_model(runtime.manifest, folder)
        modules = {name: reference_module(model, name) for name in STAGE_MODULES}
        config = runtime.manifest.model
        yield from check_stages(runtime.engines, modules, config.memory.slots)
        specs = runtime.manifest.stages
        reference = Engines(**{spec.name: ReferenceEngine(spec, modules[spec.name]) for spec in specs})
        prompt = _prompt(runtime)
        frames = 2 * config.memory.slots + 2
        yield from check_clip(Pipeline(runtime.engines, config), Pipeline(reference, config), prompt, frames)


def _prompt(runtime: Runtime) -> PromptEmbeddings:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (96, 128, 3), generator=generator, dtype=torch.uint8)
    vision = vision_input([image], runtime.manifest.model.image_budget, video=False)
    asked = Ask(phrases=("the red circle", "a dog")).instruction("image", DEFAULT_WORDING)
    reply = runtime.language.reply("image", vision, asked.question, asked.answer, torch.zeros(0))
    assert reply.embeddings is not None, "a known answer has its <SEG>"
    return reply.embeddings
