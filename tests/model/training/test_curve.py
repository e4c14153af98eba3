from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from x2sam_rt.errors import TrainingError, VideoError
from x2sam_rt.model.training.curve import CurvePoint, LossLog, draw_curve, read_curve, smoothed


def point(step: int, **losses: float) -> CurvePoint:
    return CurvePoint(step, seconds=step / 4, learning_rate=1e-3, losses=losses or {"dice": 1 / (step + 1)})


def log(path: Path, steps: range, resumed: int | None = None) -> None:
    with LossLog(path, resumed) as losses:
        for step in steps:
            losses.write(point(step))


def test_what_is_logged_is_read(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    written = [point(0, dice=0.1, mask_bce=3.5), point(1, next_token=2.0)]
    with LossLog(path) as losses:
        for one in written:
            losses.write(one)
            assert json.loads(path.read_text().splitlines()[-1])["step"] == one.step  # at once, not at the end
    assert read_curve(path) == written


def test_resuming_drops_the_steps_that_are_done_again(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    log(path, range(10))
    log(path, range(6, 8), resumed=5)
    assert [one.step for one in read_curve(path)] == [0, 1, 2, 3, 4, 5, 6, 7]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    log(path, range(4))
    path.write_bytes(path.read_bytes()[:-9])
    assert [one.step for one in read_curve(path)] == [0, 1, 2]
    log(path, range(3, 5), resumed=9)
    assert [one.step for one in read_curve(path)] == [0, 1, 2, 3, 4]


def test_resuming_without_a_log_begins_one(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    log(path, range(6, 8), resumed=5)
    assert [one.step for one in read_curve(path)] == [6, 7]


def test_a_new_log_does_not_overwrite_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "curve.jsonl"
    log(path, range(2))
    with pytest.raises(TrainingError, match="already holds a loss curve"):
        LossLog(path)
    assert len(read_curve(path)) == 2


@pytest.mark.parametrize("line", ["{not json}", '{"step": 1}', '{"step": "one"}'])
def test_a_foreign_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "curve.jsonl"
    log(path, range(2))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(TrainingError, match="line 3: not a logged step"):
        read_curve(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    with (
        LossLog(tmp_path / "curve.jsonl") as losses,
        pytest.raises(TrainingError, match=rf"loss dice is {value} at step 3"),
    ):
        losses.write(point(3, mask_bce=1.0, dice=value))
    assert read_curve(tmp_path / "curve.jsonl") == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="cannot be written"):
        LossLog(tmp_path / "none" / "curve.jsonl")


def test_smoothing() -> None:
    assert smoothed([], 5) == []
    assert smoothed([3, 3, 3], 5) == pytest.approx([3, 3, 3])
    step = smoothed([0] * 100 + [1] * 100, 10)
    assert step[99] == 0
    assert step[109] == pytest.approx(1 - 1 / 2.718281828, abs=1e-4)
    # The first value weighs as much as any other, not as all that came before it.
    assert smoothed([1, 0], 1e9)[1] == pytest.approx(0.5)


@pytest.mark.parametrize("points", [0, 1, 40])
def test_a_curve_is_drawn(tmp_path: Path, points: int) -> None:
    curve = [point(step, dice=1 / (step + 1)) if step % 3 else point(step, next_token=2.0) for step in range(points)]
    draw_curve(curve, tmp_path / "curve.png", span=5)
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (990, 660)
    draw_curve(curve, tmp_path / "curve.svg", span=5)
    text = (tmp_path / "curve.svg").read_text()
    assert text.count("<!-- dice -->") == (1 if points > 1 else 0)
    assert "<!-- learning rate -->" in text
