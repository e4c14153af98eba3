"""The bundle: an export's folder, with a manifest that says what is in it and what made it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Annotated

from x2sam_rt.config import ModelConfig
from x2sam_rt.documents import MOST_BYTES, Range, check_fields, is_regular, parse_object, read_dataclass, shown
from x2sam_rt.errors import BundleError, ConfigError, EngineError
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.precision import Precision, dtype_of
from x2sam_rt.model.quantization import LanguageWeights
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.model.stages import stage_contracts
from x2sam_rt.runtime.engines import find_backend

SCHEMA = 4
MANIFEST = "manifest.json"
LANGUAGE, WORDING = "language", "wording.json"
TOKENIZER = f"{LANGUAGE}/tokenizer/tokenizer.json"


# Of larger files, loading reads only a sample.
SAMPLED_ABOVE = 64 * 2**20
_EDGE, _SAMPLE, _STRIDE = 2**20, 2**12, 4 * 2**20
_PIECE = 2**20
_NAME = re.compile(r"[\w.+-]{1,255}(/[\w.+-]{1,255}){0,7}", re.ASCII)


@dataclass(frozen=True)
class FileRecord:
    """sample: of the file's size, both ends and a page of every 4 MiB (of all of it, up to SAMPLED_ABOVE)."""

    sha256: str
    size: Annotated[int, Range(0, 2**50)]
    sample: str

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class BuildEnvironment:
    """What the engines were built with. packages: versions by name."""

    packages: dict[str, str]
    platform: str


@dataclass(frozen=True)
class Manifest:
    """backend: a name in `runtime.engines.BACKENDS`. checkpoint_sha256: of the source file, or of the SHA-256s of its
    shards, one after the other. errors: largest error of each stage against PyTorch, relative to max(1, largest
    reference value); empty when the export did not measure. language_precision: of the language side's weights;
    `precision` is that of the stages. language_weights: what the text model's weights are rounded to when they are
    loaded. targets: GPUs that the engines were built for, as "sm86"; empty = they run on any machine that has the
    backend."""

    schema: int
    model: ModelConfig
    backend: str
    precision: Precision
    stages: tuple[StageContract, ...]
    files: dict[str, FileRecord]
    checkpoint: str
    checkpoint_sha256: str
    environment: BuildEnvironment
    errors: dict[str, float]
    language_precision: Precision
    language_weights: LanguageWeights = "full"
    targets: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(record.size for record in self.files.values())

    def turned(self, knobs: ModelKnobs) -> Manifest:
        """The same bundle with other knobs. Raises ConfigError for what the model cannot have, EngineError where the
        engines are files that were built for tensors of other shapes."""
        model = knobs.turned(self.model)
        stages = stage_contracts(model, dtype_of(self.precision))
        other = [new.name for new, old in zip(stages, self.stages, strict=True) if new != old]
        if other and not find_backend(self.backend).runs_weights:
            raise EngineError(
                f"{knobs}: the engines for {', '.join(other)} were built for other shapes. Export the checkpoint again "
                "with these knobs, or with --engine torch, whose bundles take all of them when they are loaded."
            )
        return replace(self, model=model, stages=stages)

    @cached_property
    def sha256(self) -> str:
        """Of all that is in it, and so of everything the bundle's files hold."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")


def load_manifest(folder: Path, *, check_hashes: bool = False) -> Manifest:
    """Reads and checks a bundle: schema, fields, contracts, and every file as `BundleFiles` does.

    Raises BundleError that says what is wrong and what to run.
    """
    manifest = read_manifest(folder)
    BundleFiles(folder, manifest.files, check_hashes=check_hashes).check_rest()
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone; no file it lists is looked at. Raises BundleError."""
    if not os.path.isfile(folder / MANIFEST):  # unlike the method, takes any name
        if os.path.isdir(folder) and not os.access(folder, os.X_OK, effective_ids=True):
            raise BundleError(
                f"{folder}: this user may not read it. Ask its owner for read access, as with `chmod -R a+rX`, or for "
                "a copy."
            )
        raise BundleError(
            f"{folder}: found no {MANIFEST}, wanted a finished export: `x2sam-rt export CHECKPOINT -o DIR`."
        )
    with _opened(folder, MANIFEST) as file:
        return parse_manifest(file.read(MOST_BYTES), folder)


def parse_manifest(content: bytes, folder: Path) -> Manifest:
    """folder: where the bundle is, for messages. Raises as `read_manifest`."""
    try:
        data = parse_object(content, str(folder / MANIFEST))
    except ConfigError as error:
        raise BundleError(f"{error} Export the checkpoint again.") from error
    schema = data.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        advice = "update x2sam-rt" if newer else "export the checkpoint again with `x2sam-rt export`"
        raise BundleError(f"{folder}: bundle schema {shown(schema)}; this version reads schema {SCHEMA}: {advice}.")
    try:
        manifest = read_dataclass(Manifest, data, where=MANIFEST)
    except ConfigError as error:
        raise BundleError(f"{folder}: {error} The manifest was changed or is foreign; export again.") from error
    _check_stages(folder, manifest)
    return manifest


def _check_stages(folder: Path, manifest: Manifest) -> None:
    """The engines must take and give what this version's stages do."""
    wanted = {contract.name: contract for contract in stage_contracts(manifest.model, dtype_of(manifest.precision))}
    found = {contract.name: contract for contract in manifest.stages}
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            what = "has no" if name not in found else "has an unknown" if name not in wanted else "has other tensors in"
            raise BundleError(f"{folder}: the bundle {what} stage {name!r}. Export the checkpoint again.")


class BundleFiles:
    """The files of a bundle: the only way to them. What is used is inside the folder, reached by no link, a regular
    file, listed in the manifest, and what the manifest says, byte for byte as far as it is checked:

    A file up to SAMPLED_ABOVE is read into memory that nobody else can write to; its SHA-256 is taken there, and there
    it is used. Of a larger one, which is mapped from disk, the size and a sample are checked on the very file that is
    then mapped, whatever takes its name meanwhile; who may write to the disk can change it there still. The sample
    finds files that are cut, mixed up, of another export, or copied with holes of 4 MiB and more; it misses single
    damaged pages, and whoever knows where it looks. check_hashes: every file as if it were small, which takes the
    memory of what is used and reads every byte.
    """

    def __init__(self, folder: Path, records: Mapping[str, FileRecord], *, check_hashes: bool = False) -> None:
        """Raises BundleError for records of files that could not lie in the folder."""
        self.folder = folder
        self._records, self._check_hashes = records, check_hashes
        self._left = set(records)
        for name in records:
            if not _NAME.fullmatch(name) or not {".", ".."}.isdisjoint(name.split("/")):
                raise BundleError(
                    f"{folder}: the manifest names {shown(name)}, which is or may be outside the bundle. "
                    "Do not use this bundle."
                )

    def __contains__(self, name: str) -> bool:
        return name in self._records

    def below(self, folder: str, suffix: str) -> list[str]:
        """Listed files right in a folder, by the end of their names."""
        start = f"{folder}/"
        return sorted(n for n in self._records if n.startswith(start) and n.endswith(suffix) and n.count("/") == 1)

    def read(self, name: str) -> bytes:
        """All of a file that is held in memory. Raises BundleError."""
        with self.open(name) as path:
            return path.read_bytes()

    @contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """A path by which a library may open the checked file, while the context lasts. Raises BundleError."""
        record = self._record(name)
        with _opened(self.folder, name) as file:
            _check_size(self.folder / name, file, record)
            if not self._check_hashes and record.size > SAMPLED_ABOVE:
                _compare(self.folder / name, _sample(file, record.size), record.sample, "the SHA-256 of its sample is")
                self._left.discard(name)
                yield Path(f"/dev/fd/{file.fileno()}")
                return
            with _own_memory() as memory:
                digest = _copy(file, memory, record.size)
                _compare(self.folder / name, digest, record.sha256, "its SHA-256 is")
                self._left.discard(name)
                yield Path(f"/dev/fd/{memory.fileno()}")

    def check_rest(self) -> None:
        """Every file that was not opened, as if it were. Raises BundleError."""
        for name in sorted(self._left):
            record, path = self._records[name], self.folder / name
            with _opened(self.folder, name) as file:
                _check_size(path, file, record)
                if self._check_hashes or record.size <= SAMPLED_ABOVE:
                    _compare(path, hashlib.file_digest(file, "sha256").hexdigest(), record.sha256, "its SHA-256 is")
                else:
                    _compare(path, _sample(file, record.size), record.sample, "the SHA-256 of its sample is")
            self._left.discard(name)

    def _record(self, name: str) -> FileRecord:
        if name not in self._records:
            raise BundleError(
                f"{self.folder / name}: the manifest does not list it, so it is not used. Copy the bundle again, or "
                "export."
            )
        return self._records[name]


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[FileIO]:
    """Follows no link below the folder and waits for nothing. Raises BundleError."""
    path, place = folder / name, os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    *folders, last = name.split("/")
    try:
        for part in folders:
            outer, place = place, os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
            os.close(outer)
        descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=place)
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be opened ({error.strerror})"
        link = "; links in a bundle are not followed" if path.is_symlink() or path.parent.is_symlink() else ""
        raise BundleError(f"{path}: a file of the bundle {what}{link}. Copy the bundle again, or export.") from error
    finally:
        os.close(place)
    if not is_regular(descriptor):
        os.close(descriptor)
        raise BundleError(f"{path}: is no regular file. Copy the bundle again, or export.")
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        yield file


def _check_size(path: Path, file: FileIO, record: FileRecord) -> None:
    size = os.fstat(file.fileno()).st_size
    if size != record.size:
        raise BundleError(f"{path}: {size} bytes, wanted {record.size}. Copy the bundle again, or export.")


def _compare(path: Path, found: str, wanted: str, what: str) -> None:
    if found != wanted:
        raise BundleError(f"{path}: {what} not the manifest's; the file was changed or damaged. Copy or export again.")


def _own_memory() -> FileIO:
    """A file without a name: in memory, where the system has that."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("bundle", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _copy(file: FileIO, memory: FileIO, size: int) -> str:
    """Copies `size` bytes, and seals them. Returns the SHA-256 of the copy, taken piece by piece as it is written."""
    digest = hashlib.sha256()
    while piece := file.read(min(_PIECE, size)):
        memory.write(piece)
        digest.update(piece)
        size -= len(piece)
    if hasattr(fcntl, "F_ADD_SEALS"):
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    memory.seek(0)
    return digest.hexdigest()


def _sample(file: FileIO, size: int) -> str:
    """SHA-256 of what stands for a large file (see FileRecord)."""
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    pages = [(start, _SAMPLE) for start in range(_STRIDE, size, _STRIDE)]
    for start, length in [(0, _EDGE), *pages, (size - _EDGE, _EDGE)]:
        file.seek(start)
        digest.update(file.read(length))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): file_record(path) for path in files}


def file_record(path: Path) -> FileRecord:
    size, digest = path.stat().st_size, file_sha256(path)
    if size <= SAMPLED_ABOVE:
        return FileRecord(digest, size, digest)
    with path.open("rb", buffering=0) as file:
        return FileRecord(digest, size, _sample(file, size))
