"""The command line as a person has it: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO

COMMAND = str(Path(sys.executable).with_name("x2sam-rt"))


def typed(
    line: str,
    folder: Path,
    *,
    stdin: IO[bytes] | None = None,
    more: Mapping[str, str] | None = None,
    code: int = 0,
    seconds: float = 300,
) -> tuple[str, str]:
    """What a command prints to both streams; it has to end with this code."""
    program, *arguments = shlex.split(line)
    assert program == "x2sam-rt"
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "COLUMNS": "200", **(more or {})}
    done = subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        env=environment,
        stdin=stdin or subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()
