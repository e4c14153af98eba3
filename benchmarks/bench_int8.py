"""Stages of the published width in int8 against the same in fp32, both on ONNX Runtime, in turns.

    python benchmarks/bench_int8.py --side 256                            # a whole frame with a full memory
    python benchmarks/bench_int8.py --side 256 --stage frame_encoder

A frame has the mask decoder besides, in fp32 on both sides, as an int8 bundle has it. Weights and inputs are
random: what is measured is time. What int8 costs in masks only a trained model shows (`verify`).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from random_checkpoint import random_weight, scaled
from timer import compare, save

from x2sam_rt.config import ModelConfig
from x2sam_rt.export.int8 import QUANTIZED_STAGES, quantize_graph
from x2sam_rt.export.onnx import export_onnx
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.stage_contract import StageContract, Tensors
from x2sam_rt.model.stages import EXAMPLE_SIZES, example_inputs, stage_contract, stage_module
from x2sam_rt.runtime.engines.engine import BoundStage
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine

_SAMPLES = 2


FRAME = "frame"
FRAME_STAGES = (*QUANTIZED_STAGES, "mask_decoder")


def build(config: ModelConfig, stage: str, folder: Path) -> tuple[BoundStage, BoundStage]:
    """The stage as an int8 bundle has it, and in fp32."""
    model, contract = empty_model(config), stage_contract(stage, config, torch.float32)
    module = stage_module(model, stage)
    weights = {n: random_weight(n, tuple(v.shape)).float() for n, v in module.state_dict().items()}
    module.load_state_dict(weights, strict=True, assign=True)
    module.requires_grad_(False)
    original, rounded, samples = folder / "fp32.onnx", folder / "int8" / "stage.onnx", folder / "samples"
    samples.mkdir(parents=True)
    rounded.parent.mkdir()
    inputs = example_inputs(contract, {**EXAMPLE_SIZES, "slots": config.memory.slots})
    for number in range(_SAMPLES):
        np.savez(samples / f"{number}.npz", **{n: v.numpy() for n, v in inputs.items()})
    for path in (original, rounded):
        export_onnx(module, contract, path)
    if stage in QUANTIZED_STAGES:
        quantize_graph(rounded, samples)
    return bound(contract, rounded, inputs), bound(contract, original, inputs)


def bound(contract: StageContract, path: Path, inputs: Tensors) -> BoundStage:
    engine = OnnxRuntimeEngine(contract, path, torch.device("cpu"))
    return engine.bind(inputs, contract.outputs_for(inputs))


def in_turn(stages: Sequence[BoundStage]) -> Callable[[], None]:
    def run() -> None:
        for stage in stages:
            stage()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--stage", choices=(FRAME, *QUANTIZED_STAGES), default=FRAME)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    config, names = scaled(1.0, options.side), FRAME_STAGES if options.stage == FRAME else (options.stage,)
    with tempfile.TemporaryDirectory() as folder:
        rounded, original = zip(*(build(config, name, Path(folder) / name) for name in names), strict=True)
        sides = compare(in_turn(rounded), in_turn(original), rounds=options.rounds)
    share = 1 / sides.speedup
    print(f"{options.stage} at {options.side}²: int8 takes {share:.2f} of fp32's {sides.baseline.median_ms:.0f} ms")
    save(f"int8_{options.stage}", [{"stage": options.stage, "side": options.side, "share": share, "timing": sides}])


if __name__ == "__main__":
    main()
