"""Our metrics, cutting, wording and post-processing against recordings of the published evaluators."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from recordings import FIXTURES
from replay_evaluation import REPLAYS, replay, reports

RECORDINGS = FIXTURES / "evaluation"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # within pycocotools
@pytest.mark.parametrize("name", REPLAYS)
def test_as_published(name: str) -> None:
    report = replay(RECORDINGS, name)
    if report.left_out:
        pytest.skip("; ".join(report.left_out))
    assert report.values > 0
    assert report.passed, str(report)


def test_a_wrong_number_and_a_missing_recording_are_found(tmp_path: Path) -> None:
    shutil.copy(RECORDINGS / "jf.json", tmp_path)
    document = json.loads((RECORDINGS / "image_iou.json").read_text())
    document["sets"]["referring"]["expected"]["giou_background_foreground"][1] += 2e-4  # in percent
    (tmp_path / "image_iou.json").write_text(json.dumps(document))
    (tmp_path / "new.json").write_text("{}")
    found = {report.name: report for report in reports(tmp_path)}
    assert found["jf"].passed
    assert "referring gIoU" in str(found["image_iou"])
    assert not found["image_iou"].passed
    assert "missing" in str(found["chunks"])
    assert "no replay" in str(found["new"])
