"""The language side on a GPU: loading it, the first and the second question on 16 frames, writing an answer.

    python benchmarks/gpu_language.py              # on the GPU machine: the published 4B size in bf16, 640×360
    python benchmarks/gpu_language.py --dry-run    # anywhere: the same path, small, on the CPU

Status: only dry-run so far; not yet run on a GPU.

Random weights; what they say means nothing, what it costs does not depend on it. A decoding step reads every weight of
the text model once, so its speed is told as a share of what copying memory reaches on the same card. Prints one row and
writes results/gpu_language.json; a dry run writes nothing there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from bench_language import benchmark_config, no_regions
from full_size import scaled, write_whole
from timer import save
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.model.prompt_encoder import PromptEncoder
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import BundleFiles, load_manifest
from x2sam_rt.runtime.language import LanguageRuntime
from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES, PromptFrames
from x2sam_rt.runtime.weights import load_model
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.table import DEFAULT_WORDING

_SHORT, _LONG = 8, 136  # tokens of two answers, whose difference is decoding alone


@dataclass(frozen=True)
class Row:
    """weights_gib: of the text model. load_s: the whole model, from a bundle just written to the device. first_ms,
    second_ms: medians, of questions with known answers. bandwidth_share: of what a copy reaches. stated_mib:
    cache and visual tokens. peak_mib: of PyTorch's allocator, weights included; 0 on a CPU."""

    device: str
    frames: str
    weights_gib: float
    load_s: float
    first_ms: float
    second_ms: float
    tokens_per_s: float
    bandwidth_share: float
    stated_mib: float
    peak_mib: float


class Side:
    """A language side whose weights were read from files, asked about made-up frames of (height, width)."""

    def __init__(self, config: ModelConfig, size: tuple[int, int], device: torch.device) -> None:
        self.device, self._size, self._numbers = device, size, itertools.count()
        self.model, self.load_s = _loaded(config, device)
        tokenizer = Tokenizer.load(
            embedded_checkpoint() / "tokenizer", int(config.language["text_config"]["vocab_size"])
        )
        encoder = PromptEncoder(self.model)
        self.language = LanguageRuntime(encoder, no_regions, tokenizer, config, DEFAULT_WORDING, 4096)

    def clip(self) -> PromptFrames:
        """Frames that nobody has seen yet, on the device."""
        generator = torch.Generator(self.device).manual_seed(next(self._numbers))
        shape = (PROMPT_FRAMES, *self._size, 3)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device, generator=generator)
        return PromptFrames(tuple(frames), {})

    def refer(self, frames: PromptFrames) -> None:
        phrase = f"thing number {next(self._numbers)} of many"
        self.language.answer(Instruction(phrases=(phrase,)), "video", frames)

    def write(self, frames: PromptFrames, tokens: int) -> None:
        self.language.answer(Instruction("chat", question="what is there?", max_new_tokens=tokens), "video", frames)


def _loaded(config: ModelConfig, device: torch.device) -> tuple[X2SAM, float]:
    """The model from a bundle, and the seconds that took, in bf16 on the device."""
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        write_whole(config, folder / "whole")
        checkpoint = load_checkpoint(folder / "whole", tokenizer=embedded_checkpoint() / "tokenizer")
        export_bundle(ExportPlan(checkpoint, "torch", "bf16"), folder / "bundle")
        started = time.perf_counter()
        manifest = load_manifest(folder / "bundle")
        model = load_model(manifest, BundleFiles(folder / "bundle", manifest.files), device)
        wait(device)
        return model, time.perf_counter() - started


def measure(config: ModelConfig, size: tuple[int, int], device: torch.device, rounds: int) -> Row:
    side = Side(config, size, device)
    side.refer(side.clip())
    side.write(side.clip(), _SHORT)
    clips = [side.clip() for _ in range(rounds)]
    first = statistics.median(_ms(lambda clip=clip: side.refer(clip), device) for clip in clips)  # type: ignore[misc]
    second = statistics.median(_ms(lambda: side.refer(clips[-1]), device) for _ in range(rounds))
    side.write(clips[-1], _LONG)  # steps of every length are recorded
    short, long = (min(_ms(lambda n=n: side.write(clips[-1], n), device) for _ in range(3)) for n in (_SHORT, _LONG))  # type: ignore[misc]
    per_s = (_LONG - _SHORT) / (long - short) * 1e3
    text = side.model.vlm.model.language_model.layers.parameters()
    read = sum(weight.nbytes for weight in (*text, side.model.vlm.lm_head.weight))
    stated = side.language.cache_bytes + side.language.vision.largest_seen_bytes
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return Row(
        torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        f"{PROMPT_FRAMES} of {size[1]}×{size[0]}",
        read / 2**30,
        side.load_s,
        first,
        second,
        per_s,
        read * per_s / copy_bandwidth(device),
        stated / 2**20,
        peak / 2**20,
    )


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of the fastest of a few large copies."""
    source = torch.ones(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target: Tensor = torch.empty_like(source)
    return 2 * source.nbytes / min(_ms(lambda: target.copy_(source), device) for _ in range(10)) * 1e3


def _ms(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return (time.perf_counter() - started) * 1e3


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="a small model and frames, on the CPU")
    options = parser.parse_args()
    if options.dry_run:
        toy = ModelConfig.from_json(json.loads((embedded_checkpoint() / "config.json").read_text()))
        row = measure(benchmark_config(toy), (64, 96), torch.device("cpu"), rounds=2)
        print(json.dumps(asdict(row)))
        return 0
    if not torch.cuda.is_available():
        parser.error("no CUDA device; use --dry-run")
    row = measure(scaled(1.0, 1024), (360, 640), torch.device("cuda", 0), rounds=7)
    print(json.dumps(asdict(row), indent=1), f"written to {save('gpu_language', [asdict(row)])}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
