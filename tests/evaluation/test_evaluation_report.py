from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from x2sam_rt.evaluation.evaluators import Score
from x2sam_rt.evaluation.report import draw_evaluation, evaluation_table, write_evaluation
from x2sam_rt.evaluation.results import Evaluation, Machine, PartResult, Speed, VariantResult, this_machine, versions

FAST, NO_SPEED = Speed(12.34, 20.0, 3.0, 0.5, 7), Speed(None, None, None, None, 0)
SCORES = (Score("J&F", 0.8125, 31, headline=True), Score("J", 0.5, 31))
PART = PartResult("objects", 9, 0, {}, True, SCORES, (), FAST)
VARIANT = VariantResult("torch fp32", "bundle", "ab12", "torch", "fp32", True, "", 4, None, None, "once", (PART,), FAST)
MACHINE = Machine("cpu", "isa", 1, None, "system")
EVALUATION = Evaluation("made", "val", "published", None, MACHINE, {"torch": "2"}, (VARIANT,))


def text(evaluation: Evaluation) -> str:
    console = Console(width=160, record=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    console.print(evaluation_table(evaluation))
    return console.export_text()


def test_the_table_has_accuracy_in_percent_and_times() -> None:
    shown = text(EVALUATION)
    for part in ("made val · published", "torch fp32", "objects", "81.2", "31", "12.3"):
        assert part in shown
    assert "made val · live" in text(replace(EVALUATION, protocol="live"))


def test_what_was_left_out_is_told_below_the_table() -> None:
    part = replace(PART, left_out=2, skipped={"made/3": "Example made/3: gone"}, missing=("recall needs a model",))
    shown = " ".join(text(replace(EVALUATION, variants=(replace(VARIANT, parts=(part,)),))).split())
    for told in ("1 bad samples skipped", "Example made/3: gone", "2 samples the protocol", "recall needs a model"):
        assert told in shown


def test_wordings_have_a_spread_and_cider_no_percent() -> None:
    part = replace(PART, scores=(Score("J&F", 0.7, 31, headline=True), Score("CIDEr", 1.234, 9, percent=False)))
    variants = (replace(VARIANT, wording=0), replace(VARIANT, label="other", wording=1, parts=(part,)))
    shown = text(replace(EVALUATION, variants=variants))
    row = next(line for line in shown.splitlines() if "J&F" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][-3:] == ["81.2", "70.0", "11.2"]
    assert "1.23 " in shown


def test_a_score_of_two_objects_tells_nothing() -> None:
    scores = (Score("J&F", 0.4, 2, headline=True), Score("J&F, size", 0.3, 2))
    few = replace(PART, name="few", samples=2, scores=scores)
    shown = text(replace(EVALUATION, variants=(replace(VARIANT, parts=(few,)),)))
    assert "40.0" in shown
    assert "size" not in shown


def test_what_a_variant_did_not_measure_has_a_dash() -> None:
    other = replace(VARIANT, label="other", parts=(replace(PART, name="words"),), speed=NO_SPEED)
    rows = [line for line in text(replace(EVALUATION, variants=(VARIANT, other))).splitlines() if "J&F" in line]
    cells = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows]
    assert cells == [["objects", "J&F", "31", "81.2", "–"], ["words", "J&F", "31", "–", "81.2"]]


def test_the_picture_shows_headlines(tmp_path: Path) -> None:
    control = replace(PART, name="a control", memory=False)
    words = replace(PART, name="words", speed=NO_SPEED)
    slow = replace(VARIANT, label="slow", speed=replace(FAST, frame_p50_ms=99.0), parts=(PART, control, words))
    untimed = replace(VARIANT, label="untimed", speed=NO_SPEED)
    draw_evaluation(replace(EVALUATION, variants=(VARIANT, slow, untimed)), tmp_path / "picture.svg")
    drawn = (tmp_path / "picture.svg").read_text()
    for label in ("torch fp32", "slow", "objects: J&amp;F", "milliseconds per frame"):
        assert f"<!-- {label}" in drawn
    for label in ("untimed", "a control", "words"):
        assert f"<!-- {label}" not in drawn


def test_files_are_written_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    write_evaluation(EVALUATION, folder)
    write_evaluation(replace(EVALUATION, split="test"), folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "accuracy_speed.png",
        "accuracy_speed.svg",
        "results.json",
    ]
    written = json.loads((folder / "results.json").read_text())
    assert written["split"] == "test"
    assert written["variants"][0]["parts"][0]["scores"][0] == {
        "name": "J&F",
        "value": 0.8125,
        "count": 31,
        "headline": True,
        "percent": True,
    }
    assert (folder / "accuracy_speed.png").read_bytes().startswith(b"\x89PNG")


def test_the_record_names_machine_and_versions() -> None:
    assert this_machine().threads >= 1
    assert set(versions()) == {"python", "x2sam-rt", "torch", "onnxruntime", "numpy"}
