"""A whole frame of the runtime beside the same frame in eager PyTorch.

    python benchmarks/bench_frame.py [--frames 9] [--backend torch onnxruntime] [--side 256] [--precision fp32|bf16]

A model of full width (SAM 2.1 tiny's trunk, 256 channels, 200 queries, 5 memory slots) with random weights, on a moving
made-up clip, from the moment the memory is full. Every frame goes through the reference and each backend in turn, each
with a memory of its own. Prints milliseconds per stage, the median over the frames of own time / reference time, and
the IoU of the masks; writes results/frame.json. Exit 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from reference_frame import ReferenceFrame
from rich.console import Console
from rich.table import Table
from timer import save
from torch import Tensor

from x2sam_rt.config import (
    MaskDecoderConfig,
    MaskEncoderConfig,
    MemoryConfig,
    ModelConfig,
    PixelDecoderConfig,
)
from x2sam_rt.documents import read_json
from x2sam_rt.export.engines import build_engines
from x2sam_rt.export.verify import mask_iou
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.precision import cast_weights, dtype_of
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.model.stages import FrameEncoder
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.pipeline import Pipeline
from x2sam_rt.runtime.timing import StageTimer

BACKENDS = ("torch", "onnxruntime")
STAGES = ("frame_encoder", "memory_attention", "mask_decoder", "memory_encoder")
CONDITIONS, TOKENS = 20, 60


@dataclass(frozen=True)
class Bounds:
    """What a precision must reach: at most this share of the reference's time, at least this IoU."""

    ratio: float
    iou: float


BOUNDS = {"fp32": Bounds(0.6, 0.999), "bf16": Bounds(0.35, 0.99)}


@dataclass(frozen=True)
class Frame:
    """One frame on one side. cpu_ms: user and system time of all threads. masks: (Q, S/4, S/4) bool."""

    stages: Mapping[str, float]
    cpu_ms: float
    masks: Tensor

    @property
    def wall_ms(self) -> float:
        return sum(self.stages.values())


@dataclass(frozen=True, eq=False)
class Side:
    """step: pixels to mask logits. timer: says how long its stages took."""

    name: str
    step: Callable[[Tensor], Tensor]
    timer: StageTimer
    frames: list[Frame] = field(default_factory=list)

    def run(self, pixels: Tensor) -> None:
        started = time.process_time()
        masks = self.step(pixels) > 0
        self.frames.append(Frame(self.timer.take(), (time.process_time() - started) * 1e3, masks))


@dataclass(frozen=True)
class Row:
    """ratio, cpu_ratio: median over the frames of own / reference. iou: over all queries' masks, the worst frame.
    foreground: share of the pixels inside a mask, to show that the masks are not trivial."""

    side: str
    frames: int
    stages: dict[str, float]
    frame_ms: float
    cpu_ms: float
    ratio: float
    cpu_ratio: float
    iou: float
    foreground: float

    def holds(self, bounds: Bounds) -> bool:
        return self.ratio <= bounds.ratio and self.iou >= bounds.iou


def full_width(side: int) -> ModelConfig:
    """The published widths with SAM 2.1 tiny's trunk. The language side is the embedded model's: frames do not meet
    it."""
    small = ModelConfig.from_json(read_json(embedded_checkpoint() / "config.json"))
    return replace(
        small,
        image_size=side,
        dim=256,
        mask_encoder=MaskEncoderConfig(
            embed_dims=(96, 192, 384, 768),
            blocks=(1, 2, 7, 2),
            heads=(1, 2, 4, 8),
            windows=(8, 4, 14, 7),
            global_blocks=(5, 7, 9),
        ),
        pixel_decoder=PixelDecoderConfig(layers=6, heads=8, feedforward_dim=1024),
        mask_decoder=MaskDecoderConfig(layers=9, heads=8, feedforward_dim=2048, queries=200),
        memory=MemoryConfig(
            slots=5, attention_layers=4, attention_feedforward_dim=2048, fuser_layers=2, fuser_feedforward_dim=1024
        ),
    )


def random_model(config: ModelConfig) -> X2SAM:
    """Initial values would make parts vanish: unit norms, zero biases and embeddings, residual scales of 1e-6."""
    model = X2SAM(config).eval().requires_grad_(False)
    for name, parameter in model.segmentor.named_parameters():
        if name.endswith(("level_embed", "no_memory_embedding")) or "pos_embed" in name:
            parameter.normal_(std=0.2)
        elif parameter.ndim < 2:
            parameter.add_(0.2 * torch.randn_like(parameter))
    _centre_mask_features(model, next(moving_clip(config.image_size, 1)))
    # Both sides compute with the same weights, whatever their precision: those a bf16 checkpoint can hold.
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    return model


@torch.no_grad()
def _centre_mask_features(model: X2SAM, pixels: Tensor) -> None:
    """Random mask features lie on one side of every query, and masks that cover all of a frame compare nothing."""
    *_, mask_features, _ = FrameEncoder(model.segmentor)(pixels, torch.zeros(1))
    projection = model.segmentor.pixel_decoder.mask_projection
    projection.bias.sub_(mask_features.mean((0, 2, 3)))


def random_prompt(config: ModelConfig) -> PromptEmbeddings:
    rows = (1, CONDITIONS + 1, TOKENS)
    seg, conditions, tokens = (torch.randn(count, config.dim) for count in rows)
    return PromptEmbeddings(seg, conditions, tokens)


def moving_clip(side: int, frames: int) -> Iterator[Tensor]:
    """(1, 3, side, side) each: a smooth random picture that slides sideways."""
    picture = F.interpolate(torch.randn(1, 3, 8, 8 + frames), scale_factor=side // 8, mode="bicubic")
    for left in range(0, frames * side // 32, side // 32):
        yield picture[..., left : left + side].contiguous()


def reference_side(model: X2SAM, prompt: PromptEmbeddings) -> Side:
    reference = ReferenceFrame(model.segmentor, model.config)
    return Side("reference", lambda pixels: reference.step(pixels, prompt).mask_logits, reference.timer)


def own_side(model: X2SAM, prompt: PromptEmbeddings, backend: str, precision: str, folder: Path) -> Side:
    pipeline = Pipeline(build_engines(model, backend, folder / backend, precision), model.config)
    return Side(backend, lambda pixels: pipeline.step(pixels, prompt).mask_logits, pipeline.timer)


def measure(model: X2SAM, backends: list[str], precision: str, frames: int) -> list[Row]:
    """The reference's row first."""
    config, prompt = model.config, random_prompt(model.config)
    own_model = model if precision == "fp32" else cast_weights(copy.deepcopy(model), dtype_of(precision))
    warm = config.memory.slots + 1  # the first measured frame sees a full bank, and has seen one before
    with tempfile.TemporaryDirectory() as folder:
        sides = [reference_side(model, prompt)]
        sides += [own_side(own_model, prompt, backend, precision, Path(folder)) for backend in backends]
        for pixels in moving_clip(config.image_size, warm + frames):
            for side in sides:
                side.run(pixels)
    return [row(side.name, side.frames[warm:], sides[0].frames[warm:]) for side in sides]


def row(name: str, own: list[Frame], reference: list[Frame]) -> Row:
    pairs = list(zip(own, reference, strict=True))
    return Row(
        side=name,
        frames=len(own),
        stages={stage: round(statistics.median(frame.stages[stage] for frame in own), 1) for stage in STAGES},
        frame_ms=round(statistics.median(frame.wall_ms for frame in own), 1),
        cpu_ms=round(statistics.median(frame.cpu_ms for frame in own), 1),
        ratio=round(statistics.median(one.wall_ms / other.wall_ms for one, other in pairs), 3),
        cpu_ratio=round(statistics.median(one.cpu_ms / other.cpu_ms for one, other in pairs), 3),
        iou=round(min(mask_iou(one.masks, other.masks) for one, other in pairs), 5),
        foreground=round(statistics.mean(float(frame.masks.float().mean()) for frame in own), 3),
    )


def cpu_has_bf16() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and "avx512_bf16" in info.read_text()


def print_table(rows: list[Row]) -> None:
    table = Table("median of the frames, ms", *STAGES, "frame", "CPU", "ratio", "CPU ratio", "mask IoU", "foreground")
    for entry in rows:
        times = (*(entry.stages[stage] for stage in STAGES), entry.frame_ms, entry.cpu_ms)
        numbers = (*times, entry.ratio, entry.cpu_ratio, entry.iou, entry.foreground)
        table.add_row(entry.side, *(str(number) for number in numbers))
    Console(width=160).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, help="default: all that compute the precision")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.precision == "bf16" and not cpu_has_bf16():
        parser.error("this processor has no bf16 instructions; leave --precision at fp32")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    backends = options.backend or list(BACKENDS if options.precision == "fp32" else BACKENDS[:1])
    rows = measure(random_model(full_width(options.side)), backends, options.precision, options.frames)
    print_table(rows)
    shape = {"side": options.side, "precision": options.precision, "conditions": CONDITIONS, "tokens": TOKENS}
    name = "frame" if options.precision == "fp32" else f"frame_{options.precision}"
    print(f"written to {save(name, [shape | asdict(entry) for entry in rows])}")
    return 0 if all(entry.holds(BOUNDS[options.precision]) for entry in rows[1:]) else 1


if __name__ == "__main__":
    sys.exit(main())
