"""Imports go one way; a test, because nobody sees a wrong one in review."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import x2sam_rt

PACKAGE = Path(x2sam_rt.__file__).parent
# From the ground up; a room imports from itself and from those before it.
FLOORS = ("media", "kernels", "tasks", "data", "model", "runtime", "serve", "evaluation", "export", "cli")
EVERYBODYS = {"config", "documents", "errors"}


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
        for floor, name in enumerate(FLOORS)
        for path in (PACKAGE / name).rglob("*.py")
        for room in imported_rooms(path) - set(FLOORS[: floor + 1]) - EVERYBODYS
    ]
    assert wrong == []


def test_every_room_has_a_floor() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(FLOORS)


def test_running_a_stream_needs_no_exporter() -> None:
    """Nor the libraries of backends that the bundle was not exported for."""
    loaded = "[name for name in sys.modules if name.startswith('x2sam_rt.export')]"
    loaded += "+ [name for name in ('onnx', 'onnxscript', 'onnxruntime') if name in sys.modules]"
    code = f"import sys, x2sam_rt.runtime.runtime; print({loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=900)
    assert done.stdout.strip() == "[]"
