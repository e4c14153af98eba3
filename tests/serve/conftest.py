"""Servers for the tests of this room; without the extra they are skipped, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from x2sam_rt.errors import EXTRAS

MISSING = [package for package in EXTRAS["serve"] if find_spec(package) is None]
HERE = Path(__file__).parent
if MISSING:
    collect_ignore = [path.name for path in HERE.glob("test_*.py") if path.name != "test_serve_extra.py"]
else:
    from serving import Served, serving

    @pytest.fixture(scope="session")
    def served(onnx_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
        """One worker, small frames, snapshots every three."""
        folder = tmp_path_factory.mktemp("served")
        options = ("--max-pixels=40000", "--save-every=3", "--idle-seconds=20", "--sessions=24")
        with serving(onnx_bundle, folder, *options) as server:
            yield server
