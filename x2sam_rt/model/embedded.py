"""The checkpoint that ships inside the package."""

from __future__ import annotations

from pathlib import Path

import x2sam_rt

EMBEDDED = "toy"


def embedded_checkpoint() -> Path:
    """Folder of the embedded checkpoint: weights, configuration and tokenizer."""
    assert x2sam_rt.__file__ is not None
    return Path(x2sam_rt.__file__).parent / "assets" / "toy"
