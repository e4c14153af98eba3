"""Keywords that a library would rename or ignore: transformers' configurations take unknown ones in silence."""

from __future__ import annotations

import ast
import importlib
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import x2sam_rt

SOURCES = sorted(Path(x2sam_rt.__file__).parent.rglob("*.py"))


def configurations(tree: ast.Module) -> dict[str, Any]:
    """transformers' configuration classes by their names in the source."""
    return {
        alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "transformers"
        for alias in node.names
        if alias.name.endswith("Config")
    }


def keywords_given() -> Iterator[tuple[str, Any, str]]:
    """Where, what is called, and every keyword that is written out."""
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        known = configurations(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
                for keyword in node.keywords:
                    if keyword.arg is not None:
                        yield f"{path.name}:{node.lineno}", known[node.func.id], keyword.arg


def test_configurations_know_every_keyword_they_are_given() -> None:
    given = list(keywords_given())
    assert len(given) > 10  # the configurations of mask encoder and pixel decoder
    unknown = [
        (where, keyword) for where, called, keyword in given if keyword not in inspect.signature(called).parameters
    ]
    assert not unknown


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_deprecated_calls_of_ours_fail_the_suite(category: type[Warning]) -> None:
    with pytest.raises(category, match="an old way"):
        warnings.warn_explicit("an old way", category, "file.py", 1, module="x2sam_rt.model.anything")


def test_keywords_that_transformers_will_drop_fail_the_suite() -> None:
    message = "`past_key_values` is deprecated and will be removed in version 5.40.0 for `Model.forward`."
    with pytest.raises(FutureWarning, match="past_key_values"):
        warnings.warn_explicit(message, FutureWarning, "file.py", 1, module="transformers.utils.generic")
