from __future__ import annotations

from dataclasses import dataclass

import pytest

from x2sam_rt.runtime.growing_text import GrowingText
from x2sam_rt.tasks.marks import MarkedText, parse_marks, shortened, spell


@dataclass
class Bytes:
    """A tokenizer of single bytes, which cuts characters apart."""

    def decode_marked(self, ids: list[int]) -> MarkedText:
        text = bytes(ids).decode(errors="replace")
        return (text,) if text else ()


def grow(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], int | None]:
    """The pieces handed on, and where the text ended."""
    pieces: list[str] = []
    growing = GrowingText(Bytes(), stop, pieces.append)  # type: ignore[arg-type]
    for token in text.encode():
        end = growing.add(token)
        if end is not None:
            return pieces, end
    growing.finish()
    return pieces, None


@pytest.mark.parametrize("text", ["", "a", "héllo — 日本", "x" * 50])
def test_all_of_it_arrives_and_no_half_characters(text: str) -> None:
    pieces, end = grow(text)
    assert "".join(pieces) == text
    assert end is None
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("one two three", ("two",), "one "),
        ("aaab", ("aab",), "a"),
        ("ababac", ("abac",), "ab"),
        ("say é now", ("é",), "say "),
        ("stop", ("stop",), ""),
        ("first. second", ("second", ". s"), "first"),
    ],
)
def test_nothing_of_a_stop_text_is_shown(text: str, stop: tuple[str, ...], kept: str) -> None:
    pieces, end = grow(text, stop)
    assert "".join(pieces) == kept
    assert end == len(kept)


def test_what_only_begins_like_a_stop_text_is_shown_in_the_end() -> None:
    pieces, end = grow("nearly sto", ("stop",))
    assert "".join(pieces) == "nearly sto"
    assert end is None
    assert pieces[-1] == "sto"


def test_noise_is_not_waited_out() -> None:
    growing = GrowingText(Bytes(), (), None)  # type: ignore[arg-type]
    for _ in range(1000):
        growing.add(0xFF)
    assert len(growing._undecoded) < 4


@pytest.mark.parametrize("length", range(30))
def test_a_shortened_text_keeps_its_marks_whole(length: int) -> None:
    marked = parse_marks("a <p>dog</p> is here <SEG>.")
    spelled = spell(shortened(marked, length))
    assert spell(marked).startswith(spelled)
    assert length - len("<SEG>") < len(spelled) <= length or length >= len(spell(marked))
