"""Imports go one way; a test, because nobody sees a wrong one in review."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import x2sam_rt

PACKAGE = Path(x2sam_rt.__file__).parent
ROOMS = {
    "kernels": {"kernels"},
    "model": {"model", "kernels"},
    "runtime": {"runtime", "model", "kernels"},
    "data": {"data", "runtime", "model", "kernels"},
    "evaluation": {"evaluation", "data", "runtime", "model", "kernels"},
    "export": {"export", "evaluation", "data", "runtime", "model", "kernels"},
    # Lies in the model's folder, but asks as the runtime asks and learns from the data.
    "model/training": {"data", "runtime", "model", "kernels"},
}
EVERYBODYS = {"config", "errors"}


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("x2sam_rt.")}
    return {room for room in rooms if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()}


def test_rooms_import_only_what_lies_below_them() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {room}"
        for name, allowed in ROOMS.items()
        for path in (PACKAGE / name).rglob("*.py")
        if name == "model/training" or PACKAGE / "model/training" not in path.parents
        for room in imported_rooms(path) - allowed - EVERYBODYS
    ]
    assert wrong == []


def test_running_a_stream_needs_no_exporter() -> None:
    loaded = "[name for name in sys.modules if name.startswith('x2sam_rt.export')]"
    code = f"import sys, x2sam_rt.runtime.runtime; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
