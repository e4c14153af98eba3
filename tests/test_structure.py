"""The stories in docs/structure.md name functions; each must be there, and the rooms too."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import x2sam_rt

ROOT = Path(__file__).parents[1]
PACKAGE = Path(x2sam_rt.__file__).parent
TEXT = (ROOT / "docs" / "structure.md").read_text()
STORIES = dict(re.findall(r"^## (The life of .*?)\n(.*?)(?=^## )", TEXT, flags=re.S | re.M))


def steps_of(story: str) -> list[str]:
    return re.split(r"^\d+\. ", story, flags=re.M)[1:]


def resolved(name: str) -> object:
    """The thing a dotted name below the package stands for."""
    parts = name.split(".")
    depth = next(n for n in range(len(parts), 0, -1) if is_module("/".join(parts[:n])))
    found: object = import_module("x2sam_rt." + ".".join(parts[:depth]))
    for attribute in parts[depth:]:
        found = getattr(found, attribute)
    return found


def is_module(path: str) -> bool:
    return (PACKAGE / f"{path}.py").is_file() or (PACKAGE / path / "__init__.py").is_file()


def test_there_are_five_stories() -> None:
    assert [name.split()[-1] for name in STORIES] == ["frame", "instruction", "export", "step", "frame"]


@pytest.mark.parametrize("story", STORIES)
def test_every_step_names_a_function_that_is_there(story: str) -> None:
    steps = steps_of(STORIES[story])
    assert 1 <= len(steps) <= 10
    for step in steps:
        named = re.findall(r"`([a-z_]+(?:\.[A-Za-z_]+)+)`", step)
        assert named, step
        assert callable(resolved(named[0])), named[0]


def test_files_and_rooms_that_are_named_exist() -> None:
    house, _, bundle = TEXT.partition("## The bundle")
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", house + bundle.partition("## Where")[2]):
        assert (ROOT / name).exists() or list(PACKAGE.rglob(f"**/{name}")), name
