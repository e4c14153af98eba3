"""Modules of a list, with their type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def parts(listed: nn.Module, kind: type[M]) -> Iterator[M]:
    """The modules of an nn.ModuleList or nn.Sequential, which are all of one kind."""
    for module in listed.children():
        assert isinstance(module, kind)
        yield module
