from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from bounded import ends_in_time
from safetensors import safe_open

from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.model.training.launch import write_checkpoint
from x2sam_rt.model.training.state import STATE_FILE


def test_a_written_checkpoint_is_the_model_in_bf16() -> None:
    model, tokenizer = tiny.untrained().model, tiny.untrained().folder
    write_checkpoint(model, tokenizer.parent)
    loaded = load_checkpoint(tokenizer.parent)
    assert loaded.tokenizer_folder == tokenizer
    assert loaded.model.config.to_json() == model.config.to_json()
    right = model.state_dict()
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, right[name].bfloat16().float()), name
    with safe_open(loaded.path, "pt") as file:
        names = set(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    assert set(right) - names == {"vlm.lm_head.weight"}  # tied to the embedding


_PARENT = """
import sys
from pathlib import Path
import tiny
from x2sam_rt.model.training.launch import Run
if __name__ == "__main__":
    Run(Path(sys.argv[1]), tiny.model, tiny.shared_recipe, 1e5).start(lambda _: lambda step, _: print(step, flush=True))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc to find a process's children")
def test_processes_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    found = {**os.environ, "PYTHONPATH": str(Path(tiny.__file__).parent)}
    with (
        subprocess.Popen(
            [sys.executable, script, tmp_path / "run"], env=found, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as parent,
        ends_in_time(parent),
    ):
        assert parent.stdout is not None
        parent.stdout.readline()  # the first step is done
        children = children_of(parent.pid)
        assert len(children) >= 2
        parent.kill()
    for child in children:
        wait_until(lambda child=child: not Path(f"/proc/{child}").is_dir())  # type: ignore[misc]
    assert torch.load(tmp_path / "run" / STATE_FILE, weights_only=True)["steps"] >= 1


def children_of(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def wait_until(holds: Callable[[], bool]) -> None:
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("still not after two minutes")
