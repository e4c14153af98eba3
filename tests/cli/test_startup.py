"""What the command line does before it does anything: nothing that takes long."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import x2sam_rt

HEAVY = {"torch", "transformers", "onnx", "onnxruntime", "numpy", "PIL", "av", "pycocotools", "matplotlib", "scipy"}


@pytest.mark.parametrize("module", ["x2sam_rt", "x2sam_rt.cli.app"])
def test_help_waits_for_no_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=900)
    assert done.stdout.split() == []


def test_completion_names_the_commands() -> None:
    """As bash asks for it when Tab is pressed."""
    variables = {"_X2SAM_RT_COMPLETE": "complete_bash", "COMP_WORDS": "x2sam-rt ", "COMP_CWORD": "1"}
    code = "from x2sam_rt.cli.app import app; app(prog_name='x2sam-rt')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables, timeout=900
    )
    assert {"export", "run", "verify", "profile", "eval", "train", "inspect"} <= set(done.stdout.split())


def test_the_version_is_that_of_the_installation() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "x2sam_rt.cli.app", "--version"], capture_output=True, text=True, check=True, timeout=900
    )
    assert done.stdout.split() == ["x2sam-rt", version("x2sam-rt")]
    assert x2sam_rt.__version__ == version("x2sam-rt")


def test_what_the_package_offers_is_listed_and_there() -> None:
    assert {"Runtime", "VideoSession", "Instruction", "__version__"} <= set(dir(x2sam_rt))
    for name in dir(x2sam_rt):
        assert getattr(x2sam_rt, name) is not None
