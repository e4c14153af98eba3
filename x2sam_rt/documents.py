"""JSON from strangers: read within limits, and made into dataclasses that check themselves."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from x2sam_rt.errors import ConfigError

T = TypeVar("T")
# A manifest of the published model takes 12 KB, the index of its shards 70 KB. 4 MB of brackets and commas, the
# costliest there is, are parsed in a third of a second.
MOST_BYTES = 4 * 10**6
_DEEPEST = 32
_LONGEST_NUMBER = 20  # characters: what 64 bits hold
_SCALARS = (int, float, str, bool)
# Half characters cannot be written or tokenized; control characters would speak to a terminal.
_UNSOUND = re.compile(r"[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f]")


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def shown(value: object) -> str:
    """A value in a message, however large it is."""
    return _SHORT.repr(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'this'?" for a message, where one of the known names is like what was given; else nothing."""
    alike = difflib.get_close_matches(str(name), list(known), 1)
    return f" Did you mean {alike[0]!r}?" if alike else ""


def there_is_no(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that is not among the known ones."""
    names = list(known)
    return f"There is no {kind} {shown(name)}.{did_you_mean(name, names)} There are {', '.join(names)}."


@dataclass(frozen=True)
class Range:
    """What a number of a dataclass may be, as in `layers: Annotated[int, Range(1, 512)]`; of a tuple, every entry."""

    least: float
    most: float


def read_plain_file(path: Path, most: int) -> bytes:
    """Everything in a regular file of at most `most` bytes. Raises ConfigError for anything else, and never waits, as
    for a pipe that nobody writes to."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be opened ({error}).") from error
    if not is_regular(descriptor):
        os.close(descriptor)
        raise ConfigError(f"{path}: is no regular file.")
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ConfigError(f"{path}: more than {most} bytes; wanted a file of its kind.")
    return content


def is_regular(descriptor: int) -> bool:
    """Whether an open file is one of bytes, no folder, pipe or device."""
    return stat.S_ISREG(os.fstat(descriptor).st_mode)


def read_json(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """An object from a JSON file. Raises ConfigError when it cannot be read or is something else."""
    return parse_object(read_plain_file(path, most), str(path))


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """As `parse_json`, for an object with named fields."""
    data = parse_json(content, where)
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: found {type(data).__name__}, wanted an object with named fields.")
    return data


def parse_json(content: bytes, where: str) -> Any:
    """JSON as UTF-8, whose numbers are finite and fit into 64 bits, whose keys are given once, and whose texts hold no
    control characters or half characters.

    Raises ConfigError, naming `where`, for anything else and for nesting deeper than 32.
    """
    try:
        data = json.loads(
            content.decode("utf-8"),
            parse_int=_whole_number,
            parse_float=_finite_number,
            parse_constant=_finite_number,
            object_pairs_hook=_once,
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ConfigError(f"{where}: not JSON ({error}).") from error
    _check_nested(data, where)
    return data


def _whole_number(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite_number(text: str) -> float:
    number = float(text) if len(text) <= 400 else math.inf
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} for a number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object that has a key twice")
    return found


def _check_nested(data: object, where: str) -> None:
    """Depth and texts, level by level: recursion would end where Python's does."""
    level: list[object] = [data]
    for _ in range(_DEEPEST):
        texts = [value for value in level if isinstance(value, str)]
        texts += [key for value in level if isinstance(value, dict) for key in value]
        if unsound := next((text for text in texts if _UNSOUND.search(text)), None):
            raise ConfigError(f"{where}: the text {shown(unsound)} holds control or half characters.")
        inner = [value for value in level if isinstance(value, dict)]
        level = [entry for value in level if isinstance(value, list) for entry in value]
        level += [entry for value in inner for entry in value.values()]
        if not level:
            return
    raise ConfigError(f"{where}: nested deeper than {_DEEPEST}.")


def read_dataclass(cls: type[T], data: object, where: str) -> T:
    """Builds a dataclass (nested ones too) from plain JSON, in which a field's value may stand ready-made.

    Raises ConfigError on unknown or missing keys, and on values of other types or out of range."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: found {type(data).__name__}, wanted an object with named fields.")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    unknown, missing = sorted(set(data) - set(fields)), sorted(required - set(data))
    if unknown or missing:
        raise ConfigError(
            f"{where}: unknown keys {shown(unknown)}, missing keys {shown(missing)}; known keys: {sorted(fields)}."
        )
    hints = _hints(cls)  # type: ignore[arg-type]  # classes are hashable, whatever mypy makes of `__hash__`
    return cls(**{name: _read_value(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def check_fields(instance: object) -> None:
    """The values of a dataclass that was built by hand, as `read_dataclass` checks them; made for `__post_init__`."""
    for name, hint in _hints(type(instance)).items():  # type: ignore[arg-type]
        _read_value(hint, getattr(instance, name), f"{type(instance).__name__}.{name}")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _read_value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        value = _read_value(arguments[0], value, where)
        for limits in arguments[1:]:
            _check_range(limits, value, where)
        return value
    if origin in (Union, UnionType):
        fitting = [a for a in arguments if a in _SCALARS and _is_scalar(a, value)]
        if fitting or (value is None and type(None) in arguments):
            return value
        return _read_value(next(a for a in arguments if a is not type(None)), value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else read_dataclass(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {shown(value)}; it must be an object.")
        return {key: _read_value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal and value not in arguments:
        raise ConfigError(f"{where} is {shown(value)}; it must be one of {list(arguments)}.")
    if hint in _SCALARS and not _is_scalar(hint, value):
        raise ConfigError(f"{where} is {shown(value)} ({type(value).__name__}); it must be {hint.__name__}.")
    if isinstance(hint, type) and hint not in _SCALARS and not isinstance(value, hint):
        raise ConfigError(f"{where} is of type {type(value).__name__}; it must be {hint.__name__}.")
    return value


def _read_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is {shown(value)}; it must be a list.")
    if arguments[-1] is not Ellipsis and len(value) != len(arguments):
        raise ConfigError(f"{where} has {len(value)} entries; it must have {len(arguments)}.")
    return tuple(_read_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))


def _check_range(limits: Range, value: Any, where: str) -> None:
    for number in value if isinstance(value, tuple) else () if value is None else (value,):
        if not limits.least <= number <= limits.most:
            raise ConfigError(
                f"{where} is {shown(value)}; it must be {limits.least:,} to {limits.most:,}. "
                "Correct it in the configuration."
            )


def _is_scalar(hint: type, value: object) -> bool:
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
