from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny

from x2sam_rt.model.training.curve import CurvePoint, read_curve
from x2sam_rt.model.training.launch import Run
from x2sam_rt.model.training.toy import smoke
from x2sam_rt.model.training.toy.smoke import Course, courses, learnt
from x2sam_rt.model.training.trainer import LOG_FILE


def test_a_tiny_model_learns(tmp_path: Path) -> None:
    Run(tmp_path, tiny.model, tiny.recipe, 10).start(lambda _: lambda step, losses: None)
    found = courses(read_curve(tmp_path / LOG_FILE))
    assert learnt(found), found
    checkpoint, config = tmp_path / "checkpoint.safetensors", tmp_path / "config.json"
    assert checkpoint.stat().st_mode == config.stat().st_mode, "others may read it, as they may other files"
    assert (tmp_path / "losses.svg").is_file()


def points(**losses: list[float]) -> list[CurvePoint]:
    length = max(map(len, losses.values()))
    rows = [{name: values[step] for name, values in losses.items() if step < len(values)} for step in range(length)]
    return [CurvePoint(step, 0.0, 0.1, row) for step, row in enumerate(rows)]


def test_a_course_is_its_first_and_last_mean() -> None:
    found = courses(points(dice=[4, 2, 3, 3, 3, 3, 1, 0], extra=[1.0]))
    assert found == [Course("dice", 3, 0.5), Course("extra", 1, 1)]
    assert [course.fell for course in found] == [True, False]
    long = courses(points(dice=[float(value) for value in range(200)]))
    assert long == [Course("dice", 9.5, 189.5)]


def test_all_that_must_fall_must_be_there() -> None:
    fallen = [Course(name, 1, 0.5) for name in smoke.MUST_FALL]
    assert learnt([*fallen, Course("naming", 1, 2)])
    assert not learnt(fallen[1:])
    assert not learnt([*fallen[1:], Course(smoke.MUST_FALL[0], 1, 0.9)])


@pytest.mark.parametrize(("dice", "code"), [(0.1, 0), (1.0, 1)])
def test_the_command_says_what_fell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dice: float, code: int
) -> None:
    fell = [1.0] * 4 + [0.1] * 4
    logged = points(mask_bce=fell, dice=[1.0] * 7 + [dice], next_token=fell)
    monkeypatch.setattr(Run, "start", lambda self, make_report: None)
    monkeypatch.setattr(smoke, "read_curve", lambda path: logged)
    monkeypatch.setattr(sys, "argv", ["smoke", str(tmp_path)])
    assert smoke.main() == code
    assert ("DID NOT FALL" in capsys.readouterr().out) == (code == 1)
