"""Builds the TensorRT engines of the published sizes, on a machine without a GPU: time, peak memory, engine sizes.

    python benchmarks/bench_tensorrt_build.py [--precision bf16] [--stages frame_encoder …]

Random weights: SAM 2.1 Hiera-L, 256 channels, 200 queries, five memory slots, 1024×1024, and Qwen3-VL-4B's visual
tower. Every stage is built by a process of its own: exporter, graph pass, parser, builder. An export also runs every
graph on the CPU before it builds, twice by ONNX Runtime and once by PyTorch; that takes as long as the CPU is slow, and
is left out here. Times are of the processor, all threads together: a busy machine does not change them much. Nothing is
run on a GPU. Writes results/tensorrt_build_PRECISION.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import torch
from rich.console import Console
from rich.table import Table
from timer import save

from x2sam_rt.config import ModelConfig
from x2sam_rt.export.onnx import stage_graph
from x2sam_rt.export.tensorrt.bodies import OPSET
from x2sam_rt.export.tensorrt.builder import build_options, change_stage, write_engine
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.precision import Precision, cast_weights, dtype_of
from x2sam_rt.model.stages import STAGES, stage_contract, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.engines.engine import StageToBuild
from x2sam_rt.runtime.engines.tensorrt_build import EngineRecord

Row = dict[str, Any]


def published_stages() -> ModelConfig:
    """The published sizes; of the language model only one small layer, as no stage holds any of it."""
    text = {**PUBLISHED.language["text_config"], "num_hidden_layers": 1, "vocab_size": 1024, "intermediate_size": 256}
    return replace(PUBLISHED, language={**PUBLISHED.language, "text_config": text})


def build_one(name: str, precision: Precision) -> Row:
    torch.manual_seed(0)
    config = published_stages()
    model = cast_weights(X2SAM(config).eval(), dtype_of(precision))
    contract, module = stage_contract(name, config, dtype_of(precision)), stage_module(model, name)
    del model  # the other stages
    before, started = peak_gigabytes(), time.process_time()
    options = build_options(StageToBuild(contract, module, precision, config, lambda graph: None))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.engine"
        changed = change_stage(stage_graph(module, contract, OPSET), contract, options, Path(folder))
        changed = replace(changed, on_cpu=onnx.ModelProto())  # which holds the weights once more
        before_builder = time.process_time()
        write_engine(changed, options, float("nan"), path, lambda what, done: None)
        builder_cpu_seconds = time.process_time() - before_builder
        size, record = path.stat().st_size, EngineRecord.load(path)
    left_out = ("seconds", "parity")
    return {
        "stage": name,
        "precision": precision,
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "engine_bytes": size,
        "builder_cpu_seconds": round(builder_cpu_seconds, 1),
        "cpu_seconds": round(time.process_time() - started, 1),
        "peak_gigabytes": round(peak_gigabytes(), 2),
        "model_gigabytes": round(before, 2),
        **{key: value for key, value in asdict(record).items() if key not in left_out},
    }


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def build_apart(stage: str, precision: str) -> Row:
    command = [sys.executable, __file__, "--one", stage, "--precision", precision]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def table(rows: Sequence[Row]) -> Table:
    shown = Table(
        "stage", "parameters", "engine", "builder CPU", "CPU in all", "peak memory", "activations", "scores not held"
    )
    for row in rows:
        held = (row["activation_bytes"] or 0) / 2**30
        shown.add_row(
            row["stage"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['engine_bytes'] / 2**20:.0f} MiB",
            f"{row['builder_cpu_seconds']:.1f} s",
            f"{row['cpu_seconds']:.0f} s",
            f"{row['peak_gigabytes']:.1f} GB",
            f"{held:.2f} GiB",
            f"{row['largest_scores_bytes'] / 2**30:.1f} GiB" if row["largest_scores_bytes"] > 2**30 else "",
        )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--stages", nargs="+", choices=tuple(STAGES), default=list(STAGES))
    parser.add_argument("--one", help="build this stage here and print its row as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(build_one(arguments.one, arguments.precision)))
        return
    rows = [build_apart(stage, arguments.precision) for stage in arguments.stages]
    save(f"tensorrt_build_{arguments.precision}", rows)
    Console().print(table(rows))


if __name__ == "__main__":
    main()
