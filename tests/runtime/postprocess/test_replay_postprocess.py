"""The recorded results, and that a recording that differs is noticed."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from simulated_gpu import GPU, simulated_gpu

TESTS = Path(__file__).parents[2]
FIXTURE = TESTS / "fixtures" / "postprocess"


def replay_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("replay_postprocess", TESTS / "replay_postprocess.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


replay = replay_script()


@pytest.mark.parametrize("device", [torch.device("cpu"), GPU], ids=str)
def test_recording_is_reproduced(device: torch.device, capsys: pytest.CaptureFixture[str]) -> None:
    with simulated_gpu() if device == GPU else nullcontext():
        assert replay.main(str(FIXTURE), device) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all(line.endswith("ok") for line in lines)


def change_score(cases: dict[str, Any]) -> None:
    cases["img_refseg"]["segments"][0]["score"] -= 0.001


def change_label(cases: dict[str, Any]) -> None:
    cases["vid_genseg_panoptic"]["segments"][1][0]["category_id"] = 1


def change_id(cases: dict[str, Any]) -> None:
    """The thing that kept id 2 gets another one."""
    cases["vid_genseg_panoptic"]["segments"][1][1]["id"] = 7


def drop_segment(cases: dict[str, Any]) -> None:
    cases["img_gcgseg"]["segments"][0].pop()


def change_threshold(cases: dict[str, Any]) -> None:
    cases["img_genseg_instance"]["options"]["threshold"] = 0.4


@pytest.mark.parametrize("change", [change_score, change_label, change_id, drop_segment, change_threshold])
def test_differences_are_found(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(FIXTURE.with_suffix(".json").read_text())
    change(document["cases"])
    (tmp_path / "changed.json").write_text(json.dumps(document))
    shutil.copy(FIXTURE.with_suffix(".safetensors"), tmp_path / "changed.safetensors")
    assert replay.main(str(tmp_path / "changed")) == 1
