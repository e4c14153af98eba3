"""The CUDA library compiled once, and on the emulated device."""

from __future__ import annotations

from collections.abc import Iterator

import cuda_compile
import pytest
from emulator.library import EmulatedLibrary, link

from x2sam_rt.kernels import availability, cuda

HOPPER = availability.Gpu("an emulated H100", (9, 0), 132)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, cuda_compile.Compiled]:
    """By name of the source. Takes about a minute, in the test run's own folder."""
    reason = cuda_compile.missing()
    if reason is not None:
        pytest.skip(reason)
    return cuda_compile.compile_all(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="session")
def emulated_library(compiled: dict[str, cuda_compile.Compiled]) -> EmulatedLibrary:
    parts = [compiled[name] for name in cuda_compile.LIBRARY]
    path = link([part.output for part in parts], parts[0].folder.parent)
    return EmulatedLibrary(path, [part.ptx for part in parts])


@pytest.fixture
def emulated(emulated_library: EmulatedLibrary, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedLibrary]:
    """x2sam_rt.kernels.cuda takes CPU tensors, which are the emulated device's memory, and runs on it."""
    monkeypatch.setitem(availability._PATHS, "x2sam_cuda", str(emulated_library.path))
    monkeypatch.setattr(availability, "gpu", lambda device: HOPPER)
    monkeypatch.setattr(cuda, "unsupported_reason", lambda *tensors: None)
    monkeypatch.setattr(cuda, "_device", lambda tensor: 0)
    monkeypatch.setattr(cuda, "_stream", lambda tensor: 0)
    for cached in (cuda.load, cuda._key_block, cuda._query_tile, cuda.device_reason):
        cached.cache_clear()
    emulated_library.reset()
    yield emulated_library
    for cached in (cuda.load, cuda._key_block, cuda._query_tile, cuda.device_reason):
        cached.cache_clear()


@pytest.fixture
def one_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of two processors: one pair of thread blocks takes all tiles, one after the other."""
    monkeypatch.setattr(cuda, "_processors", lambda tensor: 2)
