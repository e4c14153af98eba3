"""The tokenizer with X2SAM's three added tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from x2sam_rt.errors import CheckpointError

SEG, PHRASE_START, PHRASE_END = "<SEG>", "<p>", "</p>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_ADDED = (SEG, PHRASE_START, PHRASE_END)  # in the order training added them


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token ids and back, with the ids the runtime looks for."""

    inner: Any
    seg: int
    phrase_start: int
    phrase_end: int
    stops: frozenset[int]

    @classmethod
    def load(cls, folder: Path, rows: int) -> Tokenizer:
        """folder: holds tokenizer.json. rows: of the embedding table; every id must lie below.

        Raises CheckpointError when the tokenizer lacks a token of the chat format or is larger than the table.
        """
        inner = AutoTokenizer.from_pretrained(str(folder))
        inner.add_tokens([token for token in _ADDED if token not in inner.get_vocab()], special_tokens=True)
        vocabulary = inner.get_vocab()
        needed = (*_ADDED, VISION_START, VISION_END, IM_START, IM_END)
        lacking = [token for token in needed if token not in vocabulary]
        if lacking:
            raise CheckpointError(f"{folder}: the tokenizer lacks {lacking}; wanted the base Qwen3-VL's tokenizer.")
        highest = max(vocabulary[token] for token in _ADDED)
        if highest >= rows:
            raise CheckpointError(
                f"{folder}: the tokenizer's added tokens reach id {highest}, but the checkpoint's embedding table has "
                f"{rows} rows. Pass the tokenizer the checkpoint was trained with."
            )
        stops = frozenset(vocabulary[token] for token in (IM_END, END_OF_TEXT) if token in vocabulary)
        seg, start, end = (vocabulary[token] for token in _ADDED)
        return cls(inner, seg, start, end, stops)

    def encode(self, text: str) -> list[int]:
        return list(self.inner.encode(text, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        return str(self.inner.decode(ids, skip_special_tokens=False))
