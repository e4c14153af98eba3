"""Wording out of a file."""

import json
from pathlib import Path
from typing import Any

import pytest

from x2sam_rt.errors import ConfigError
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.marks import spell
from x2sam_rt.tasks.table import DEFAULT_WORDING
from x2sam_rt.tasks.wording import Wording


def test_survives_a_file(tmp_path: Path) -> None:
    DEFAULT_WORDING.save(tmp_path / "wording.json")
    assert Wording.load(tmp_path / "wording.json", DEFAULT_WORDING).tasks == DEFAULT_WORDING.tasks


def test_replaces_what_is_named(tmp_path: Path) -> None:
    document = {"referring": {"question": "Where is {phrases} in the {media}?", "answer": "Here: <SEG>"}}
    (tmp_path / "wording.json").write_text(json.dumps(document))
    wording = Wording.load(tmp_path / "wording.json", DEFAULT_WORDING)
    asked = Instruction("referring", phrases=("dog",))
    assert spell(asked.question_text("video", wording)) == "Where is <p>dog</p> in the video?"
    assert spell(asked.answer_text(wording) or ()) == "Here: <SEG>"
    assert wording["panoptic"] == DEFAULT_WORDING["panoptic"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "JSON object"),
        ({"refering": {}}, "refering"),
        ({"referring": {"qestion": "x"}}, "qestion"),
        ({"referring": "x"}, "JSON object"),
        ({"referring": {"question": 3}}, "text"),
        ({"referring": {"question": "no place"}}, "phrases"),
        ({"referring": {"question": "{phrases} {colour}"}}, "colour"),
        ({"referring": {"question": "{phrases"}}, "braces"),
        ({"referring": {"question": "{phrases:>2000000000}"}}, "may only be a name"),
        ({"referring": {"question": "{phrases.__class__}"}}, "may only be a name"),
        ({"referring": {"question": "{phrases!r}"}}, "may only be a name"),
        ({"referring": {"answer": "none"}}, "<SEG>"),
        ({"referring": {"answer": None}}, "None"),
        ({"gcg": {"answer": "It is <SEG>."}}, "None"),
    ],
)
def test_refuses(document: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DEFAULT_WORDING.changed(document, "wording.json")


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "wording.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        Wording.load(tmp_path / "wording.json", DEFAULT_WORDING)
