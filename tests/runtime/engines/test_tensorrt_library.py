"""Which TensorRT is used, and what is said where there is none."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import x2sam_rt.runtime.engines.tensorrt_build as tensorrt_build
from x2sam_rt.errors import EngineError

LIBRARY = Path(tensorrt_build.__file__).with_name("tensorrt_library.py")


def test_without_tensorrt_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r'Found no TensorRT, .* `pip install "x2sam-rt\[tensorrt\]"`'):
        runpy.run_path(str(LIBRARY))


def test_a_tensorrt_that_cannot_be_loaded_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt_rtx.py").write_text("raise ImportError('libtensorrt_rtx.so.1: cannot open shared object')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    with pytest.raises(EngineError, match=r"tensorrt_rtx is installed and cannot be loaded \(libtensorrt_rtx.so.1"):
        runpy.run_path(str(LIBRARY))
