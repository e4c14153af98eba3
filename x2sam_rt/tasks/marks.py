"""The marks of X2SAM's texts, apart from the words between them, and what phrases an answer has.

A person's words are never searched for marks: a marked text is a sequence of words and marks, and the tokenizer gives
words the tokens of words, whatever they spell. Only texts that are ours or meant as markup (the wording, a given
answer) are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Mark(Enum):
    """What has a meaning of its own in a question or an answer; REGION stands for a visual prompt's tokens."""

    SEG = "<SEG>"
    PHRASE_START = "<p>"
    PHRASE_END = "</p>"
    REGION = "<region>"


MarkedText = tuple[str | Mark, ...]

_SENTENCE_ENDS = (".", "!", "?")
_OF_SPELLING = {mark.value: mark for mark in Mark}
_ANY = re.compile("(" + "|".join(_OF_SPELLING) + ")")
_REGION = re.compile(f"({Mark.REGION.value})")


def parse_marks(text: str) -> MarkedText:
    """A text whose marks are meant as such: the wording's templates, a given answer."""
    return _split(_ANY, text)


def parse_regions(text: str) -> MarkedText:
    """A person's words, in which `<region>` alone says where a visual prompt is meant."""
    return _split(_REGION, text)


def _split(marks: re.Pattern[str], text: str) -> MarkedText:
    pieces: list[str | Mark] = list(marks.split(text))  # what is between, and every other one a mark: no spelling tells
    pieces[1::2] = [_OF_SPELLING[str(piece)] for piece in pieces[1::2]]
    return tuple(piece for piece in pieces if piece)


def spell(marked: MarkedText) -> str:
    """As a person reads it, marks included."""
    return "".join(piece.value if isinstance(piece, Mark) else piece for piece in marked)


def shortened(marked: MarkedText, length: int) -> MarkedText:
    """Its first `length` characters as spelled; a mark of which some are missing is left out."""
    kept: list[str | Mark] = []
    for piece in marked:
        if isinstance(piece, Mark):
            if len(piece.value) > length:
                break
            kept.append(piece)
            length -= len(piece.value)
        else:
            kept.append(piece[:length])
            length -= min(length, len(piece))
    return tuple(piece for piece in kept if piece)


def phrase(words: MarkedText) -> MarkedText:
    """`<p>words</p>`: the mean of its tokens' states is one condition."""
    return (Mark.PHRASE_START, *words, Mark.PHRASE_END)


def listed(phrases: Iterable[MarkedText]) -> MarkedText:
    """Phrases one after the other: `<p>…</p>, <p>…</p>`."""
    pieces: list[str | Mark] = []
    for words in phrases:
        pieces += [", ", *phrase(words)] if pieces else phrase(words)
    return tuple(pieces)


@dataclass(frozen=True)
class TextSpan:
    """text[start:end] is the phrase of condition `label_id`."""

    start: int
    end: int
    label_id: int


@dataclass(frozen=True)
class LinkedText:
    """An answer without its marks, and the phrases in it, in order."""

    text: str
    spans: tuple[TextSpan, ...]

    @property
    def phrases(self) -> tuple[str, ...]:
        return tuple(self.text[span.start : span.end].strip() for span in self.spans)


def link(answer: MarkedText) -> LinkedText:
    """Takes the marks out of an answer and remembers what stood between `<p>` and `</p>`.

    A phrase runs from a `<p>` to the next `</p>`; a `<p>` inside a phrase, and marks without a partner, are dropped.
    A `<SEG>` takes the blanks before it along, and where it is a sentence of its own also its full stop.
    """
    text, start, spans = "", None, list[TextSpan]()
    before: str | Mark = ""
    for piece, after in zip(answer, (*answer[1:], ""), strict=False):
        if piece is Mark.PHRASE_START:
            start = len(text) if start is None else start
        elif piece is Mark.PHRASE_END:
            if start is not None:
                spans.append(TextSpan(start, len(text), len(spans)))
            start = None
        elif isinstance(piece, str):
            words = piece.removeprefix(".") if before is Mark.SEG and text.endswith(_SENTENCE_ENDS) else piece
            text += words.rstrip() if after is Mark.SEG else words
        before = piece
    return LinkedText(text, tuple(spans))
