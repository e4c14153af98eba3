"""Mutations of bytes: of JSON documents as documents, of anything as bytes."""

from __future__ import annotations

import json
import random
from typing import Any

_NUMBERS = (0, -1, 1, 2, 7, 255, 2**31, 2**63, 10**9, 10**19, 0.5, -0.0, 1e308)
_TEXTS = ("", "..", "../x", "/etc/passwd", "\x00", "\u202e", "x" * 300, "<SEG>", "{phrases}", "{a.b}", "{0}", "F32")
_PIECES = (b"\0", b"\xff", b"\xed\xa0\x80", b"[" * 64, b'{"a":' * 64, b"9" * 500, b"1e999", b"NaN", b"@", b";", b"<p>")
_DEEPEST = 40


def mutate(data: bytes, rng: random.Random, *, document: bool) -> bytes:
    """A mutant of `data`, the same for the same generator."""
    if document and rng.random() < 0.8:
        try:
            return json.dumps(_changed(json.loads(data), rng), ensure_ascii=False).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):
            pass
    return _scrambled(data, rng)


def _changed(value: Any, rng: random.Random) -> Any:
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        value = _at_some_place(value, value, rng)
    return value


def _at_some_place(value: Any, whole: Any, rng: random.Random, depth: int = 0) -> Any:
    """Walks down at random, and changes what it ends at."""
    if isinstance(value, dict) and value and rng.random() < 0.9 and depth < _DEEPEST:
        key = rng.choice(list(value))
        rest = {k: v for k, v in value.items() if k != key}
        act = rng.random()
        if act < 0.1:
            return rest
        if act < 0.15:
            return {**value, rng.choice(_TEXTS): value[key]}
        return {**value, key: _at_some_place(value[key], whole, rng, depth + 1)}
    if isinstance(value, list) and value and rng.random() < 0.9 and depth < _DEEPEST:
        at = rng.randrange(len(value))
        middle = [_at_some_place(value[at], whole, rng, depth + 1)] * rng.choice((0, 1, 1, 1, 2))
        return [*value[:at], *middle, *value[at + 1 :]]
    return _another(value, whole, rng)


def _another(value: Any, whole: Any, rng: random.Random) -> Any:
    act = rng.randrange(8)
    if act == 0 and isinstance(value, (int, float)):
        return value + rng.choice((-1, 1))
    if act == 1 and isinstance(value, (int, float)):
        return value * rng.choice((-1, 2, 1000))
    if act == 2 and isinstance(value, str):
        return value + rng.choice(_TEXTS)
    plain: tuple[Any, ...] = (rng.choice(_NUMBERS), rng.choice(_TEXTS), None, True, [], {})
    return rng.choice((*plain, [value], {"a": value}, whole))


def _scrambled(data: bytes, rng: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(5):
            case 0 if content:
                content[at % len(content)] = rng.randrange(256)
            case 1 if content:
                content[at % len(content)] ^= 1 << rng.randrange(8)
            case 2:
                content[at:at] = rng.choice(_PIECES)
            case 3:
                del content[at : at + rng.choice((1, 4, 64))]
            case _:
                start = rng.randrange(len(content) + 1)
                content[at:at] = content[start : start + rng.choice((1, 8, 64))]
    return bytes(content)
