"""The public names: what they are, and that they are typed. `python tests/test_api.py` writes docs/api.md anew.

A line that goes or changes breaks somebody's program: CONTRIBUTING.md says how that is done.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import x2sam_rt

FILE = Path(__file__).parents[1] / "docs" / "api.md"
HEAD = """# Public names

What `import x2sam_rt` offers, written by `python tests/test_api.py` and held by its test. What may change, and how:
`CONTRIBUTING.md`. What the names do is said where they are defined.
"""


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public ones that the package itself defines."""
    for name in sorted(dir(cls)):
        home = next((base for base in cls.__mro__ if name in vars(base)), object)
        if not name.startswith("_") and home.__module__.startswith("x2sam_rt"):
            yield name, inspect.getattr_static(cls, name)


def signature(function: Any) -> str:
    found = inspect.signature(function)
    return str(found).replace("x2sam_rt.", "").replace("'", "")


def described(name: str, member: Any) -> str | None:
    if isinstance(member, property):
        return f"{name}: {signature(member.fget).partition('-> ')[2]}"
    function = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
    if inspect.isfunction(function):
        return f"{name}{signature(function)}"
    return None


def listing() -> str:
    text = HEAD
    for name in sorted(x2sam_rt.__all__):
        cls = getattr(x2sam_rt, name)
        made_by = f"({', '.join(str(p) for p in inspect.signature(cls).parameters.values())})".replace("'", "")
        lines = [f"{name}{made_by}"] if dataclasses.is_dataclass(cls) else [name]
        lines += [f"    {line}" for line in (described(*member) for member in members(cls)) if line is not None]
        text += f"\n## {name}\n\n```python\n" + "\n".join(lines) + "\n```\n"
    return text


def test_public_names_are_those_that_are_listed() -> None:
    assert FILE.read_text() == listing(), "write docs/api.md anew, if CONTRIBUTING.md lets this change"


def test_public_names_are_typed() -> None:
    for name in x2sam_rt.__all__:
        cls = getattr(x2sam_rt, name)
        for member, found in members(cls):
            function = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
            if inspect.isfunction(function):
                parameters = [
                    p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")
                ]
                assert all(p.annotation is not p.empty for p in parameters), f"{name}.{member}"
                assert inspect.signature(function).return_annotation is not inspect.Signature.empty, f"{name}.{member}"
        if dataclasses.is_dataclass(cls):
            assert all(field.type for field in dataclasses.fields(cls))


def test_a_name_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(AttributeError, match="Runtime"):
        x2sam_rt.Runtme  # type: ignore[attr-defined]  # noqa: B018


if __name__ == "__main__":
    FILE.write_text(listing())
    sys.exit(0)
