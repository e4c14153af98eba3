"""Samples of examples that are there already."""

from __future__ import annotations

from dataclasses import dataclass

from x2sam_rt.data.example import Example


@dataclass(frozen=True)
class Made:
    example: Example

    @property
    def name(self) -> str:
        return self.example.name

    def load(self) -> Example:
        return self.example
