from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from x2sam_rt.model.tokenizer import END_OF_TEXT, IM_END, IM_START, VISION_END, VISION_START, Tokenizer
from x2sam_rt.model.training.toy.model import make_tokenizer

TEXTS = ["segment <p>the red circle</p> please", "where is <p><region></p>?", "It is <SEG>."] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def rows(folder: Path) -> int:
    return make_tokenizer(TEXTS, 300, folder)


@pytest.fixture(scope="module")
def made(folder: Path, rows: int) -> Tokenizer:
    return Tokenizer.load(folder, rows)


def any_text(seed: int) -> str:
    draw = random.Random(seed)
    points = (draw.choice((draw.randrange(128), draw.randrange(0x3000), draw.randrange(0x110000))) for _ in range(60))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


@pytest.mark.parametrize("seed", range(20))
def test_any_text_comes_back(made: Tokenizer, seed: int) -> None:
    assert made.decode(made.encode(any_text(seed))) == any_text(seed)


@pytest.mark.parametrize(
    "text", ["", " ", "  two  spaces ", "a .b , c", "\n\t\r\n", "don 't", "<p> é</p><SEG>.", "👩\u200d👧"]
)
def test_spaces_and_marks_come_back(made: Tokenizer, text: str) -> None:
    assert made.decode(made.encode(text)) == text


@pytest.mark.parametrize("mark", ["<SEG>", "<p>", "</p>", IM_START, IM_END, VISION_START, VISION_END, END_OF_TEXT])
def test_marks_are_single_tokens_that_words_never_become(folder: Path, made: Tokenizer, mark: str) -> None:
    stored = AutoTokenizer.from_pretrained(str(folder))
    (token,) = stored.encode(mark)
    for text in (f"red{mark}circle", f" {mark} ", f"{mark}{mark}"):
        assert stored.encode(text).count(token) == text.count(mark)
        assert token not in made.encode(text)


def test_marks_are_not_learnt_as_words(folder: Path, made: Tokenizer) -> None:
    plain = {token for token in AutoTokenizer.from_pretrained(str(folder)).get_vocab() if token not in ("<p>", "</p>")}
    assert not [token for token in plain if "region" in token or ("SEG" in token and token != "<SEG>")]
    assert len(made.encode("segment")) < len("segment")


def test_rows_cover_all_tokens(folder: Path, rows: int) -> None:
    vocabulary = AutoTokenizer.from_pretrained(str(folder)).get_vocab()
    assert sorted(vocabulary.values()) == list(range(rows))
    assert rows <= 300


def test_the_same_texts_make_the_same_tokenizer(folder: Path, rows: int, tmp_path: Path) -> None:
    assert make_tokenizer(TEXTS, 300, tmp_path) == rows
    assert (tmp_path / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
