"""Phrases of an answer: where they stand in the plain text, and which condition each of them is."""

from __future__ import annotations

import re
from dataclasses import dataclass

# A <SEG> that is a sentence of its own takes its full stop with it.
_MARK = re.compile(r"(<p>|</p>|(?<=[.!?])\s*<SEG>\.?|\s*<SEG>)")


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


def link(answer: str) -> LinkedText:
    """Takes <p>, </p> and <SEG> out of an answer and remembers what stood between <p> and </p>.

    A phrase runs from a <p> to the next </p>; a <p> inside a phrase, and marks without a partner, are dropped.
    """
    text, start, spans = "", None, list[TextSpan]()
    for piece in _MARK.split(answer):
        if piece == "<p>":
            start = len(text) if start is None else start
        elif piece == "</p>":
            if start is not None:
                spans.append(TextSpan(start, len(text), len(spans)))
            start = None
        elif "<SEG>" not in piece:
            text += piece
    return LinkedText(text, tuple(spans))
