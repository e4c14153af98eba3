"""Says why the rest of this room is left out, where it is."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from x2sam_rt.errors import EXTRAS, require_extra


def test_the_extra_is_there() -> None:
    missing = [package for package in EXTRAS["serve"] if find_spec(package) is None]
    if missing:
        pytest.skip(f"tests of serving are left out: {', '.join(missing)} not installed (make test-serve)")
    require_extra("serve")
