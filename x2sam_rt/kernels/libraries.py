"""Where the compiled libraries lie: in an editable install not beside the source, so along the package's path."""

from __future__ import annotations

import sys
from pathlib import Path

import x2sam_rt

_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


def _search(name: str) -> str | None:
    candidates = (Path(folder) / f"lib{name}{_SUFFIX}" for folder in x2sam_rt.__path__)
    return next((str(path) for path in candidates if path.is_file()), None)


# Looked up once, as plain strings, so that torch.compile can trace the question.
_PATHS = {name: _search(name) for name in ("x2sam_cpu", "x2sam_cuda")}


def find(name: str) -> Path | None:
    """The file of the library lib`name`, or None when the package was installed without it."""
    path = _PATHS[name]
    return None if path is None else Path(path)


def built(name: str) -> bool:
    """Whether the library lib`name` is there."""
    return _PATHS[name] is not None
