"""A random checkpoint of the published size, or a share of it, taken through export, load, verify, asking and
segmenting: wall time, peak anonymous memory (what must fit; mapped files need not) and disk of every step.

    python benchmarks/full_size.py FOLDER --scale 0.05 --side 256
    python benchmarks/full_size.py FOLDER --limit 16 --steps whole,export-torch,load-torch

Each step is a process of its own, which is stopped when it passes the limit.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.checkpoint.files import embedded_checkpoint, read_tensor_file
from x2sam_rt.model.checkpoint.loading import empty_model, training_layout
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.checkpoint.tensor_file import TensorToWrite, write_shards, write_tensors
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction

RANK, POLL_SECONDS, CONTEXT = 128, 0.02, 4096
CLI = "import sys; from x2sam_rt.cli.app import app; app(sys.argv[1:])"
_HEAD = "vlm.lm_head.weight"


def scaled(share: float, side: int) -> ModelConfig:
    """The published model with its own depths and widths times √share, so that weights shrink by about `share`."""
    if share == 1.0:
        return replace(PUBLISHED, image_size=side)

    def width(full: int, step: int) -> int:
        return max(step, round(full * math.sqrt(share) / step) * step)

    text, vision = (dict(PUBLISHED.language[f"{part}_config"]) for part in ("text", "vision"))
    kv_heads = max(1, round(text["num_key_value_heads"] * math.sqrt(share)))
    text |= {
        "hidden_size": width(text["hidden_size"], 128),
        "intermediate_size": width(text["intermediate_size"], 128),
        "num_attention_heads": 4 * kv_heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": width(text["vocab_size"], 1024),
    }
    heads = max(1, round(vision["num_heads"] * math.sqrt(share)))
    vision |= {
        "hidden_size": 64 * heads,
        "num_heads": heads,
        "intermediate_size": 256 * heads,
        "out_hidden_size": text["hidden_size"],
    }
    first = width(PUBLISHED.mask_encoder.embed_dims[0], 16)
    encoder = replace(PUBLISHED.mask_encoder, embed_dims=(first, 2 * first, 4 * first, 8 * first))
    language = {**PUBLISHED.language, "text_config": text, "vision_config": vision}
    return replace(PUBLISHED, image_size=side, mask_encoder=encoder, language=language)


def random_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Small numbers, norms near 1; drawn once and repeated, as drawing billions would take longer than the export."""
    generator = torch.Generator().manual_seed(len(name))
    count = math.prod(shape)
    block = torch.randn(min(count, 2**20), generator=generator).mul_(0.02).to(torch.bfloat16)
    if len(shape) == 1 and name.endswith("weight"):
        block += 1
    return block.repeat(-(-count // len(block)))[:count].view(shape)


def write_whole(config: ModelConfig, folder: Path) -> None:
    """A sharded checkpoint in bf16, its tied table once."""
    shapes = {name: tuple(value.shape) for name, value in empty_model(config).state_dict().items() if name != _HEAD}
    folder.mkdir(parents=True)
    write_shards(_tensors(shapes), folder)
    _write_config(config, folder)


def write_training(config: ModelConfig, folder: Path) -> None:
    """A training checkpoint of adapters, `pytorch_model.bin`, and its base model beside it in `vlm/`."""
    model = empty_model(config)
    base = {
        name.removeprefix("vlm."): tuple(value.shape)
        for name, value in model.state_dict().items()
        if name.startswith("vlm.") and name != _HEAD
    }
    (folder / "vlm").mkdir(parents=True)
    write_shards(_tensors(base), folder / "vlm")
    (folder / "vlm/config.json").write_text(json.dumps(dict(config.language)))
    # torch.save writes what it is given; mapped from a file, that takes no memory.
    streamed = folder / "streamed.safetensors"
    write_tensors(_tensors(training_layout(model, RANK)), streamed)
    torch.save(read_tensor_file(streamed), folder / "pytorch_model.bin")
    streamed.unlink()
    _write_config(config, folder)


def _tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, TensorToWrite]:
    return {
        name: TensorToWrite(shape, torch.bfloat16, partial(random_weight, name, shape))
        for name, shape in shapes.items()
    }


def _write_config(config: ModelConfig, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config.to_json()))


def ask(bundle: Path) -> None:
    """A question on 16 frames of 640×360, known answer."""
    generator = np.random.default_rng(0)
    shown = [torch.from_numpy(generator.integers(0, 256, (360, 640, 3), dtype=np.uint8)) for _ in range(16)]
    with Runtime.load(bundle, context=CONTEXT) as runtime:
        frames = PromptFrames(tuple(shown), {})
        answer = runtime.language.answer(Instruction(phrases=("the red circle",)), "video", frames)
        assert answer.embeddings is not None
        assert bool(answer.embeddings.seg.isfinite().all())


def segment(bundle: Path) -> None:
    """One image of 512×512."""
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    with Runtime.load(bundle, context=CONTEXT) as runtime:
        runtime.segment_image(image, "the red circle")


def load(bundle: Path) -> None:
    Runtime.load(bundle, context=CONTEXT).close()


@dataclass(frozen=True)
class Measured:
    """seconds: wall time. memory: peak anonymous bytes of the process. disk: bytes of the folder after the step."""

    step: str
    seconds: float
    memory: int
    disk: int


class PastLimit(Exception):
    """A step that took more memory than allowed."""


def measure(step: str, command: list[str], folder: Path, limit: float) -> Measured:
    """Runs a command and watches it. limit: GB. Raises PastLimit, or CalledProcessError when it fails."""
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            if peak > limit * 1e9:
                process.kill()
                raise PastLimit(f"{step} took more than {limit} GB of anonymous memory.")
            time.sleep(POLL_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Measured(step, round(time.perf_counter() - started, 1), peak, disk)


def anonymous_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def steps(folder: Path, own: list[str]) -> dict[str, list[str]]:
    """own: the options that this script passes to itself."""
    here, cli, tokenizer = [sys.executable, __file__, str(folder), *own], [sys.executable, "-c", CLI], ["--tokenizer"]
    tokenizer += [str(embedded_checkpoint() / "tokenizer")]
    whole, training = str(folder / "whole"), str(folder / "training")
    export: Callable[..., list[str]] = lambda name, source, *options: [  # noqa: E731
        *cli, "export", source, "-o", str(folder / name), *tokenizer, "--no-verify", *options
    ]  # fmt: skip
    bf16 = ("--engine", "torch", "--precision", "bf16")
    base = ("--vlm", str(folder / "training/vlm"))
    commands = {
        "whole": [*here, "--only", "whole"],
        "training": [*here, "--only", "training"],
        "export-torch": export("torch", whole, *bf16),
        "export-training": export("merged", training, *base, *bf16),
        "export-onnx": export("onnx", whole, "--language-precision", "bf16"),
    }
    for bundle in ("torch", "onnx"):
        commands |= {f"{work}-{bundle}": [*here, "--only", f"{work}-{bundle}"] for work in ("load", "ask", "segment")}
        commands[f"verify-{bundle}"] = [*cli, "verify", str(folder / bundle), "--quick"]
    return commands


def run_all(folder: Path, names: list[str], own: list[str], limit: float) -> Iterator[Measured]:
    commands = steps(folder, own)
    for name in names or commands:
        done = measure(name, commands[name], folder, limit)
        sizes = f"{done.memory / 1e9:7.2f} GB memory {done.disk / 1e9:7.2f} GB disk"
        print(f"{name:16} {done.seconds:8.1f} s {sizes}", flush=True)
        yield done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the published weights")
    parser.add_argument("--side", type=int, default=PUBLISHED.image_size)
    parser.add_argument("--limit", type=float, default=16.0, help="GB of anonymous memory")
    parser.add_argument("--steps", default="", help="comma-separated; default: all")
    parser.add_argument("--result", type=Path, help="JSON file for the figures")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    config = scaled(options.scale, options.side)
    if options.only in ("whole", "training"):
        {"whole": write_whole, "training": write_training}[options.only](config, options.folder / options.only)
    elif options.only:
        work, _, bundle = options.only.partition("-")
        {"load": load, "ask": ask, "segment": segment}[work](options.folder / bundle)
    else:
        own = ["--scale", str(options.scale), "--side", str(options.side)]
        names = [name for name in options.steps.split(",") if name]
        done = [vars(one) for one in run_all(options.folder, names, own, options.limit)]
        if options.result:
            options.result.write_text(
                json.dumps({"scale": options.scale, "side": options.side, "steps": done}, indent=1)
            )


if __name__ == "__main__":
    main()
