"""Tokenizers that fit no X2SAM model are refused when they are loaded, before any weight or frame is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from x2sam_rt.errors import CheckpointError
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.tokenizer import Tokenizer

MARKS = ("<SEG>", "<p>", "</p>")


def without(toy: Checkpoint, folder: Path, *names: str, **changes: Any) -> Path:
    """The toy's tokenizer without some of its added tokens."""
    content = json.loads((toy.tokenizer_folder / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] not in names]
    for name in names:
        content["model"]["vocab"].pop(name, None)
    (folder / "tokenizer.json").write_text(json.dumps({**content, **changes}))
    return folder


def rows(toy: Checkpoint) -> int:
    return int(toy.model.config.language["text_config"]["vocab_size"])


def test_a_base_tokenizer_gets_the_three_marks_as_training_gave_them(toy: Checkpoint, tmp_path: Path) -> None:
    own, base = Tokenizer.load(toy.tokenizer_folder, rows(toy)), without(toy, tmp_path, *MARKS)
    made = Tokenizer.load(base, rows(toy))
    assert (made.seg, made.phrase_start, made.phrase_end) == (own.seg, own.phrase_start, own.phrase_end)


def test_a_table_without_room_for_the_marks_is_refused(toy: Checkpoint, tmp_path: Path) -> None:
    highest = Tokenizer.load(toy.tokenizer_folder, rows(toy)).phrase_end
    with pytest.raises(CheckpointError, match=f"reach id {highest}, but .* {highest} rows. Pass the tokenizer"):
        Tokenizer.load(without(toy, tmp_path, *MARKS), highest)


@pytest.mark.parametrize("name", ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"])
def test_a_tokenizer_of_another_model_is_refused(toy: Checkpoint, tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"lacks \['<\|.*wanted the base Qwen3-VL's tokenizer"):
        Tokenizer.load(without(toy, tmp_path, name), rows(toy))


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a readable tokenizer"):
        Tokenizer.load(tmp_path, 10)
