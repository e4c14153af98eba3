"""The tokenizer with X2SAM's three added tokens: words become the tokens of words, marks the tokens of marks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, models

from x2sam_rt.documents import read_plain_file, shown
from x2sam_rt.errors import CheckpointError, ConfigError
from x2sam_rt.tasks.marks import Mark, MarkedText

VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
ADDED = tuple(mark.value for mark in (Mark.SEG, Mark.PHRASE_START, Mark.PHRASE_END))  # in training's order
_FILE = "tokenizer.json"
_MOST_BYTES = 128 * 10**6  # Qwen3-VL's takes 11 MB
# By which the base models' tokenizers part words. Another may take exponential time, for words that a file chooses too.
_KNOWN_PATTERNS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
}


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token ids and back. seg … im_end: ids of the marks and of the chat format's tokens. stops: ids that end
    an answer."""

    inner: tokenizers.Tokenizer
    seg: int
    phrase_start: int
    phrase_end: int
    vision_start: int
    vision_end: int
    im_start: int
    im_end: int
    stops: frozenset[int]

    @classmethod
    def load(cls, folder: Path, rows: int) -> Tokenizer:
        """folder: holds tokenizer.json, which is all that is read: a tokenizer's own code is never run. rows: of the
        embedding table; every id must lie below.

        Raises CheckpointError when the tokenizer cannot be read, lacks a token of the chat format or is larger than
        the table.
        """
        path = folder / _FILE
        try:
            content = read_plain_file(path, _MOST_BYTES)
        except ConfigError as error:
            raise CheckpointError(f"{error} Copy the tokenizer of the base model again.") from error
        return cls.parse(content, rows, str(path))

    @classmethod
    def parse(cls, content: bytes, rows: int, where: str) -> Tokenizer:
        """content: of a tokenizer.json. where: what messages call it. Raises as `load`."""
        inner = _parsed(content, where)
        inner.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ADDED])
        # A file may ask for a billion of padding, or for tokens drawn by chance.
        inner.no_padding()
        inner.no_truncation()
        inner.model.dropout = None
        # From here on text is text: no spelling of a mark or a control token in it becomes one.
        inner.encode_special_tokens = True
        ids = _ids_of((*ADDED, VISION_START, VISION_END, IM_START, IM_END), inner, where)
        if (highest := max(inner.get_vocab().values())) >= rows:
            raise CheckpointError(
                f"{where}: the tokenizer's tokens reach id {highest}, but the checkpoint's embedding table has "
                f"{rows} rows. Pass the tokenizer the checkpoint was trained with."
            )
        seg, phrase_start, phrase_end, vision_start, vision_end, im_start, im_end = ids
        end = inner.token_to_id(END_OF_TEXT)
        stops = frozenset({im_end} if end is None else {im_end, end})
        return cls(inner, seg, phrase_start, phrase_end, vision_start, vision_end, im_start, im_end, stops)

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json, which `load` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _FILE).write_text(self.inner.to_str(pretty=True), encoding="utf-8")  # its own `save` names no error

    def encode(self, words: str) -> list[int]:
        """Words only, whatever they spell."""
        return list(self.inner.encode(words, add_special_tokens=False).ids)

    def encode_marked(self, marked: MarkedText, region: Sequence[int] = ()) -> list[int]:
        """Marks become their tokens, `<region>` the given ids."""
        of_mark = {
            Mark.SEG: [self.seg],
            Mark.PHRASE_START: [self.phrase_start],
            Mark.PHRASE_END: [self.phrase_end],
            Mark.REGION: list(region),
        }
        return [
            token for piece in marked for token in (of_mark[piece] if isinstance(piece, Mark) else self.encode(piece))
        ]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.inner.decode(list(ids), skip_special_tokens=False))

    def decode_marked(self, ids: Sequence[int]) -> MarkedText:
        """Only a mark's own token is read as that mark."""
        of_id = {self.seg: Mark.SEG, self.phrase_start: Mark.PHRASE_START, self.phrase_end: Mark.PHRASE_END}
        pieces: list[str | Mark] = []
        words: list[int] = []
        for token in (*ids, None):
            if token is not None and token not in of_id:
                words.append(token)
                continue
            if words:
                pieces.append(self.decode(words))
                words = []
            if token is not None:
                pieces.append(of_id[token])
        return tuple(pieces)


def _ids_of(tokens: Sequence[str], inner: tokenizers.Tokenizer, where: str) -> list[int]:
    """Raises CheckpointError unless all are there, and none is what words become that spell it."""
    found = [(token, inner.token_to_id(token)) for token in tokens]
    if lacking := [token for token, number in found if number is None]:
        raise CheckpointError(f"{where}: the tokenizer lacks {lacking}; wanted the base Qwen3-VL's tokenizer.")
    ids = [number for _, number in found if number is not None]
    if not set(ids).isdisjoint(inner.encode("".join(tokens), add_special_tokens=False).ids):
        raise CheckpointError(f"{where}: the tokenizer takes words for marks; wanted one whose marks are special.")
    return ids


def _parsed(content: bytes, where: str) -> tokenizers.Tokenizer:
    try:
        inner = tokenizers.Tokenizer.from_buffer(content)
        found = _patterns(
            [part.__getstate__() for part in (inner.normalizer, inner.pre_tokenizer, inner.decoder) if part]
        )
    except BaseException as error:  # the library raises plain exceptions for every fault, and has panics of its own
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"{where}: not a readable tokenizer ({shown(str(error))}). Copy the tokenizer of the base model again."
        ) from error
    model = inner.model
    if not isinstance(model, models.BPE) or (
        model.unk_token is not None and inner.token_to_id(model.unk_token) is None
    ):
        raise CheckpointError(
            f"{where}: the tokenizer's model is {type(model).__name__}, or has an unknown token that it lacks; wanted "
            "a base Qwen3-VL's byte-pair encoding."
        )
    if foreign := found - _KNOWN_PATTERNS:
        raise CheckpointError(
            f"{where}: the tokenizer splits by {shown(min(foreign))}, which may never end; wanted a base Qwen3-VL's."
        )
    return inner


def _patterns(parts: Sequence[bytes]) -> set[str]:
    """Regular expressions in parts of a tokenizer."""
    found, left = set[str](), [json.loads(part) for part in parts]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            found |= {text for key, text in value.items() if key == "Regex" and isinstance(text, str)}
            left += value.values()
        elif isinstance(value, list):
            left += value
    return found
