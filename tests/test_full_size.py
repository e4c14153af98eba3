"""The published model's depths at a share of its widths, through the steps every user takes first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from x2sam_rt.export.bundle_writer import ExportPlan
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint

SCRIPT = Path(__file__).parents[1] / "benchmarks/full_size.py"
MADE = {"whole", "training"}
WORK = {f"{work}-{bundle}" for work in ("load", "ask", "segment", "pair", "verify") for bundle in ("torch", "onnx")}


def test_a_share_of_the_published_size_stays_within_what_was_said(tmp_path: Path) -> None:
    options = ["--scale", "0.05", "--side", "128"]
    result = tmp_path / "result.json"
    subprocess.run(
        [sys.executable, SCRIPT, tmp_path, *options, "--result", result], check=True, capture_output=True, timeout=900
    )
    measured = {step["step"]: step for step in json.loads(result.read_text())["steps"]}
    assert set(measured) == MADE | WORK | {"export-torch", "export-onnx", "export-training"}
    assert all(step["holds"] for step in measured.values())
    assert all(step["memory"] <= step["said"] for name, step in measured.items() if name not in MADE)
    assert 0 < measured["pair-torch"]["taken"] <= measured["pair-torch"]["said_taken"]

    checkpoint = load_checkpoint(tmp_path / "whole", tokenizer=embedded_checkpoint() / "tokenizer")
    assert len(checkpoint.weights) > 1200, "all layers are there"
    needs = ExportPlan(checkpoint, "torch", "bf16", verify=False).needs
    assert measured["export-torch"]["said"] == needs.memory
    written = measured["export-torch"]["disk"] - measured["training"]["disk"]
    assert abs(written - needs.disk) <= 0.05 * needs.disk
