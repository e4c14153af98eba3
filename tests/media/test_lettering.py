"""Text as ink: its size, its fonts, and what happens to letters that no font has."""

from __future__ import annotations

import logging
import unicodedata

import numpy as np
import pytest

from x2sam_rt.media import lettering as fonts
from x2sam_rt.media.lettering import lettering, line_height


def ink(text: str, size: int = 24) -> np.ndarray:
    return np.asarray(lettering(text, size))


@pytest.mark.parametrize("size", [11, 23, 64])
def test_a_line_is_as_high_as_its_size_asks(size: int) -> None:
    assert ink("Ägjy", size).shape[0] == line_height(size)
    rows = np.flatnonzero(ink("Ägjy", size).any(axis=1))
    assert rows[0] > 0
    assert rows[-1] < line_height(size) - 1  # nothing is cut off


def test_longer_text_is_wider_and_nothing_is_drawn_of_nothing() -> None:
    assert ink("aaaa").shape[1] > ink("aa").shape[1]
    assert ink("").shape == (line_height(24), 1)
    assert not ink("\n\t").any()
    assert ink("two\nlines").shape[0] == line_height(24)


def test_letters_the_first_font_lacks_come_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = next((letter for letter in "яؤअა" if not fonts._has(None, letter) and fonts._font_of(letter)), None)
    if foreign is None:
        pytest.skip("no font of this machine has letters that Pillow's own lacks")
    runs = list(fonts._runs(f"a {foreign} {foreign} b"))
    assert runs[0] == ("a ", None)
    assert any(font is not None and run.count(foreign) == 2 for run, font in runs)  # the blank does not part them


def test_combining_marks_stay_with_their_letter() -> None:
    assert len(list(fonts._runs("e\u0301\u0327x"))) == 1


def test_a_script_without_a_font_is_boxed_and_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: ())
    for cached in (fonts._font_of, fonts._warn_of_boxes, fonts.lettering):
        cached.cache_clear()
    with caplog.at_level(logging.WARNING):
        boxes = ink("한국")
    assert boxes.any()
    assert [record.args for record in caplog.records] == [(unicodedata.name("한").split()[0],)]
    for cached in (fonts._font_of, fonts._warn_of_boxes, fonts.lettering):
        cached.cache_clear()
