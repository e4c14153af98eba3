"""The text of an answer while it is generated: handed on as it grows, ended where a stop text begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.tasks.marks import spell

OnText = Callable[[str], None]
# What the bytes of half a character decode to. So many of them are no character's beginning, but the model's own noise.
_BROKEN, _NOISE = "\ufffd", "\ufffd" * 4


class GrowingText:
    """stop: texts that end the answer. on_text: gets every piece of the text that is certain to stay, marks spelled."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], on_text: OnText | None) -> None:
        self._tokenizer, self._stop, self._on_text = tokenizer, tuple(stop), on_text
        self._text = ""
        self._undecoded: list[int] = []
        self._handed_on = 0

    def add(self, token: int) -> int | None:
        """The next token. Returns the text's length in characters when a stop text is complete, else None."""
        self._undecoded.append(token)
        piece = self._decode()
        if piece.endswith(_BROKEN) and not piece.endswith(_NOISE):
            return None
        self._undecoded = []
        before, self._text = len(self._text), self._text + piece
        end = self._stopped(before)
        self._hand_on(self._certain() if end is None else end)
        return end

    def finish(self) -> None:
        """Hands on what was held back, when no stop text came."""
        self._text += self._decode()
        self._hand_on(len(self._text))

    def _decode(self) -> str:
        return spell(self._tokenizer.decode_marked(self._undecoded))

    def _stopped(self, before: int) -> int | None:
        """Where the first complete stop text begins; the text had `before` characters, and none in them."""
        found = [self._text.find(stop, max(0, before - len(stop) + 1)) for stop in self._stop]
        return min((place for place in found if place >= 0), default=None)

    def _certain(self) -> int:
        """Characters that cannot be the beginning of a stop text."""
        longest = max((len(stop) for stop in self._stop), default=1)
        first = max(0, len(self._text) - longest + 1)
        begun = (
            place
            for place in range(first, len(self._text))
            if any(s.startswith(self._text[place:]) for s in self._stop)
        )
        return next(begun, len(self._text))

    def _hand_on(self, until: int) -> None:
        piece = self._text[self._handed_on : until]
        if piece and self._on_text is not None:
            self._on_text(piece)
        self._handed_on = max(self._handed_on, until)
