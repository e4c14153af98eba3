"""A part's results, sample by sample, in a file that a run goes on from after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from x2sam_rt.errors import ConfigError
from x2sam_rt.evaluation.metrics import State


@dataclass(frozen=True)
class SampleRecord:
    """state: of the evaluator, None for a skipped sample. pieces: how many chunks were measured. times: of the speed
    meter. skipped: why there is no state."""

    sample: str
    pieces: int
    state: State
    times: State
    skipped: str | None = None


class SampleLog:
    """Lines of JSON: what was run, then one record per sample. path: None keeps the records in memory.

    identity: what the run is made of; a file of another run is refused with ConfigError, naming what differs. A last
    line that was cut off, and skipped samples, are measured again.
    """

    def __init__(self, path: Path | None, identity: dict[str, Any]) -> None:
        self._path = path
        self._kept: dict[str, SampleRecord] = {}
        self._places: dict[str, tuple[int, int]] = {}
        if path is not None:
            self._open(path, identity)

    def __contains__(self, sample: str) -> bool:
        return sample in self._places or sample in self._kept

    def add(self, record: SampleRecord) -> None:
        """Written at once, so that a kill costs one sample."""
        if self._path is None:
            self._kept[record.sample] = record
            return
        line = json.dumps(asdict(record)).encode() + b"\n"
        with self._path.open("ab") as file:
            self._places[record.sample] = (file.tell(), len(line))
            file.write(line)

    def records(self, samples: list[str]) -> Iterator[SampleRecord]:
        """Of these samples, as far as there are some, one at a time."""
        if self._path is None:
            yield from (self._kept[name] for name in samples if name in self._kept)
            return
        with self._path.open("rb") as file:
            for name in samples:
                if name in self._places:
                    place, length = self._places[name]
                    file.seek(place)
                    yield SampleRecord(**json.loads(file.read(length)))

    def _open(self, path: Path, identity: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps(identity, sort_keys=True).encode() + b"\n"
        if not path.is_file() or not path.stat().st_size:
            path.write_bytes(head)
            return
        with path.open("rb") as file:
            _require_same(path, _parsed(file.readline()) or {}, identity)
            whole = file.tell()
            for line in iter(file.readline, b""):
                record = _parsed(line) if line.endswith(b"\n") else None
                if record is None:  # cut off by a kill
                    break
                if record["skipped"] is None:
                    self._places[record["sample"]] = (whole, len(line))
                whole += len(line)
        with path.open("r+b") as file:
            file.truncate(whole)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _require_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(wanted))
    if different := [key for key in sorted(found.keys() | wanted.keys()) if found.get(key) != wanted.get(key)]:
        told = ", ".join(f"{key} {found.get(key)!r} instead of {wanted.get(key)!r}" for key in different)
        raise ConfigError(f"{path}: holds samples of another run ({told}). Choose another folder, or remove it.")
