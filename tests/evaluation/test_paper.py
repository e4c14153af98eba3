"""The tables of the paper: every row has a rule, what is not there is told, and scores stand side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_evaluation_report import EVALUATION, PART, VARIANT

from x2sam_rt.errors import ConfigError
from x2sam_rt.evaluation.evaluators import Score
from x2sam_rt.evaluation.paper import ROWS, find_rows, paper_table, read_paper_scores
from x2sam_rt.evaluation.protocol import RULES

DOCUMENT = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
(VIPSEG,) = (row for row in ROWS if row.dataset == "vipseg")


def test_every_row_has_a_rule_and_a_line_in_the_documentation() -> None:
    section = DOCUMENT[DOCUMENT.index("## The paper's tables") :]
    for row in ROWS:
        assert row.dataset in RULES
        assert f"`{row.dataset}`" in section
        assert row.split in section
    assert len({row.key for row in ROWS}) == len(ROWS)


def test_what_is_not_there_is_not_run(tmp_path: Path) -> None:
    available = find_rows(None, {})
    assert available.parts == {}
    assert set(available.missing.values()) == {"no folder given"}
    elsewhere = find_rows(None, {"vipseg": tmp_path / "nowhere"})
    assert "nowhere" in elsewhere.missing[VIPSEG]
    with pytest.raises(ConfigError, match="no data set cityscapes"):
        find_rows(None, {"cityscapes": tmp_path})


def test_ours_stand_beside_the_papers(tmp_path: Path) -> None:
    scores = (Score("VPQ", 0.456, 3, headline=True), Score("STQ as published", 0.321, 3), Score("STQ", 0.4, 3))
    found = replace(EVALUATION, variants=(replace(VARIANT, parts=(replace(PART, scores=scores),)),))
    (tmp_path / "paper.json").write_text(json.dumps({"vipseg val": {"VPQ": 50}}))
    missing = {row: "no folder given" for row in ROWS if row is not VIPSEG}
    console = Console(width=200, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(paper_table({VIPSEG: found}, missing, read_paper_scores(tmp_path / "paper.json")))
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in console.export_text().splitlines()]
    assert ["video generic", "vipseg val", "VPQ", "50.0", "45.6", ""] in lines
    assert ["", "vipseg val", "STQ", "–", "32.1", ""] in lines
    assert any(line[1:3] == ["revos valid", "J&F, referring"] and line[-1] == "no folder given" for line in lines)


@pytest.mark.parametrize(
    ("document", "message"),
    [("{", "no JSON of the form"), ('{"vipseg val": 3}', "no JSON"), ('{"a": {}}', "rows the paper")],
)
def test_papers_scores_that_are_none(tmp_path: Path, document: str, message: str) -> None:
    (tmp_path / "paper.json").write_text(document)
    with pytest.raises(ConfigError, match=message):
        read_paper_scores(tmp_path / "paper.json")
