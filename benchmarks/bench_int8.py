"""A stage of the published width in int8 against the same in fp32, both on ONNX Runtime, in turns.

    python benchmarks/bench_int8.py --side 256 --stage frame_encoder

Weights and inputs are random: what is measured is time. What int8 costs in masks only a trained model shows (`verify`).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from random_checkpoint import random_weight, scaled
from timer import compare, save

from x2sam_rt.export.int8 import QUANTIZED_STAGES, quantize_graph
from x2sam_rt.export.onnx import export_onnx
from x2sam_rt.model.checkpoint.loading import empty_model
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.model.stages import example_inputs, stage_contract, stage_module
from x2sam_rt.runtime.engines.engine import BoundStage
from x2sam_rt.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine

_SAMPLES = 2


def build(side: int, stage: str, folder: Path) -> tuple[StageContract, Path, Path]:
    """The stage's contract, its graph in fp32 and in int8."""
    config = scaled(1.0, side)
    model, contract = empty_model(config), stage_contract(stage, config, torch.float32)
    module = stage_module(model, stage)
    weights = {n: random_weight(n, tuple(v.shape)).float() for n, v in module.state_dict().items()}
    module.load_state_dict(weights, strict=True, assign=True)
    module.requires_grad_(False)
    original, rounded, samples = folder / "fp32.onnx", folder / "int8" / "stage.onnx", folder / "samples"
    samples.mkdir()
    rounded.parent.mkdir()
    for number in range(_SAMPLES):
        np.savez(samples / f"{number}.npz", **{n: v.numpy() for n, v in example_inputs(contract).items()})
    for path in (original, rounded):
        export_onnx(module, contract, path)
    quantize_graph(rounded, samples)
    return contract, original, rounded


def bound(contract: StageContract, path: Path) -> BoundStage:
    engine, inputs = OnnxRuntimeEngine(contract, path, torch.device("cpu")), example_inputs(contract)
    return engine.bind(inputs, contract.outputs_for(inputs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--stage", choices=QUANTIZED_STAGES, default="frame_encoder")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        contract, original, rounded = build(options.side, options.stage, Path(folder))
        sides = compare(bound(contract, rounded), bound(contract, original), rounds=options.rounds)
    share = 1 / sides.speedup
    print(f"{options.stage} at {options.side}²: int8 takes {share:.2f} of fp32's {sides.baseline.median_ms:.0f} ms")
    save(f"int8_{options.stage}", [{"stage": options.stage, "side": options.side, "share": share, "timing": sides}])


if __name__ == "__main__":
    main()
