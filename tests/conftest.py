"""Fixtures several test files share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

# Before anything imports rich, which takes its width then: tables must not be folded differently from test to test.
os.environ["COLUMNS"] = "300"
# Before anything imports Triton: without a GPU its kernels run in the interpreter.
os.environ.setdefault("TRITON_INTERPRET", str(int(not torch.cuda.is_available())))

from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.model.checkpoint.loading import Checkpoint, load_checkpoint

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))  # recordings.py and replay.py serve as scripts too

from recordings import RANDOM_TOY

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy() -> Checkpoint:
    """A small model of random weights: what is computed shows, whatever the embedded model learnt."""
    return load_checkpoint(RANDOM_TOY)


@pytest.fixture(scope="session")
def onnx_bundle(toy: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx") / "bundle"
    export_bundle(ExportPlan(toy, "onnxruntime"), folder)
    return folder


@pytest.fixture(scope="session")
def torch_bundle(toy: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch") / "bundle"
    export_bundle(ExportPlan(toy, "torch"), folder)
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every", action="store_true", help="Damaged documents: all of them, not a sample.")
