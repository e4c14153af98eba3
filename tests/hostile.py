"""Documents damaged systematically: every field with values that nobody should have to think of."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

from x2sam_rt.errors import X2SamError

DEEP: Any = []
for _ in range(300):  # as deep as json.dumps goes below pytest
    DEEP = [DEEP]
GONE = object()
VALUES: dict[str, Any] = {
    "gone": GONE,
    "null": None,
    "true": True,
    "minus": -1,
    "zero": 0,
    "odd": 7,
    "billion": 10**9,
    "beyond 64 bits": 10**19,
    "fraction": 0.5,
    "huge": 1e308,
    "empty text": "",
    "text": "../x",
    "half": "\ud800",
    "control": "\x1b[2J\0",
    "long": "x" * 100_000,
    "format": "{phrases:>2000000000}",
    "list": [],
    "lists": [[1], {}],
    "many": [1] * 10_000,
    "object": {},
    "foreign": {"attn_implementation": "someone/kernels", "auto_map": {"AutoModel": "x--y.Z"}},
    "deep": DEEP,
}
# Of work of the process: a second, and room for a machine whose other work slows this one's.
MOST_SECONDS = 5.0


def fields(document: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Places of all values in a JSON document; of lists the first and the last entry."""
    if at:
        yield at
    if isinstance(document, dict):
        for key, value in document.items():
            yield from fields(value, (*at, key))
    elif isinstance(document, list):
        for index in sorted({0, len(document) - 1} if document else ()):
            yield from fields(document[index], (*at, index))


def put(document: Any, at: tuple[str | int, ...], value: Any) -> Any:
    """A copy with another value there, or without it."""
    changed = copy.deepcopy(document)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return changed


def damaged(document: Any) -> Iterator[tuple[str, Any]]:
    """Every field with every hostile value, and what was done in words."""
    for at in fields(document):
        for name, value in VALUES.items():
            yield f"{'.'.join(map(str, at))} = {name}", put(document, at, value)


def outcome(call: Callable[[], object]) -> str:
    """ "done" or the error's name. Anything but a named error, and a second of work, fails."""
    began, found, message = time.process_time(), "done", ""
    try:
        call()
    except X2SamError as error:
        found, message = type(error).__name__, str(error)
    assert len(message.encode()) < 20_000, "an error that echoes what it was given"
    assert time.process_time() - began < MOST_SECONDS, f"{time.process_time() - began:.1f} s"
    return found
