"""The bundle: an export's folder, with a manifest that says what is in it and what made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from x2sam_rt.config import ModelConfig, read_dataclass
from x2sam_rt.errors import BundleError, ConfigError, EngineError
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.precision import Precision, dtype_of
from x2sam_rt.model.quantization import LanguageWeights
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.model.stages import stage_contracts
from x2sam_rt.runtime.engines import find_backend

SCHEMA = 3
MANIFEST = "manifest.json"
LANGUAGE, WORDING = "language", "wording.json"


# Of larger files, loading reads only a sample.
SAMPLED_ABOVE = 64 * 2**20
_EDGE, _SAMPLE, _STRIDE = 2**20, 2**12, 4 * 2**20


@dataclass(frozen=True)
class FileRecord:
    """sample: of the file's size, both ends and a page of every 4 MiB (of all of it, up to SAMPLED_ABOVE)."""

    sha256: str
    size: int
    sample: str


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
    loaded."""

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
    """Reads and checks a bundle: schema, fields, contracts, and every file's presence, size and sample.

    The sample finds files that are cut, mixed up, of another export, or copied with holes of 4 MiB and more, and any
    change of a file up to SAMPLED_ABOVE; in a larger one it misses single damaged pages and whoever knows where it
    looks. check_hashes: the SHA-256 of all files instead, which finds those too, and reads every byte.

    Raises BundleError that says what is wrong and what to run.
    """
    try:
        return _load_manifest(folder, check_hashes)
    except PermissionError as error:
        raise BundleError(
            f"{folder}: this user may not read it ({error}). Ask its owner for read access, as with "
            "`chmod -R a+rX`, or copy the bundle."
        ) from error


def _load_manifest(folder: Path, check_hashes: bool) -> Manifest:
    data = _read_manifest(folder)
    schema = data.get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        advice = "update x2sam-rt" if newer else "export the checkpoint again with `x2sam-rt export`"
        raise BundleError(f"{folder}: bundle schema {schema!r}; this version reads schema {SCHEMA}: {advice}.")
    try:
        manifest = read_dataclass(Manifest, data, where=MANIFEST)
    except ConfigError as error:
        raise BundleError(f"{folder}: {error} The manifest was changed or is foreign; export again.") from error
    _check_stages(folder, manifest)
    for name, record in manifest.files.items():
        _check_file(folder, name, record, check_hashes)
    return manifest


def _read_manifest(folder: Path) -> Mapping[str, object]:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder}: found no {MANIFEST}, wanted a finished export: `x2sam-rt export CHECKPOINT -o DIR`."
        )
    try:
        data = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path}: not JSON ({error}). Export the checkpoint again.") from error
    if not isinstance(data, dict):
        raise BundleError(f"{path}: found {type(data).__name__}, wanted an object. Export the checkpoint again.")
    return data


def _check_stages(folder: Path, manifest: Manifest) -> None:
    """The engines must take and give what this version's stages do."""
    wanted = {contract.name: contract for contract in stage_contracts(manifest.model, dtype_of(manifest.precision))}
    found = {contract.name: contract for contract in manifest.stages}
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            what = "has no" if name not in found else "has an unknown" if name not in wanted else "has other tensors in"
            raise BundleError(f"{folder}: the bundle {what} stage {name!r}. Export the checkpoint again.")


def _check_file(folder: Path, name: str, record: FileRecord, check_hashes: bool) -> None:
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise BundleError(f"{folder}: the manifest names {name!r}, outside the bundle. Do not use this bundle.")
    if not path.is_file():
        raise BundleError(f"{path}: the manifest lists it, but it is missing. Copy the bundle again, or export.")
    if path.stat().st_size != record.size:
        raise BundleError(
            f"{path}: {path.stat().st_size} bytes, wanted {record.size}. Copy the bundle again, or export."
        )
    same = file_sha256(path) == record.sha256 if check_hashes else file_sample(path) == record.sample
    if not same:
        what = "its SHA-256 is" if check_hashes or record.size <= SAMPLED_ABOVE else "the SHA-256 of its sample is"
        raise BundleError(f"{path}: {what} not the manifest's; the file was changed or damaged. Copy or export again.")


def file_sample(path: Path) -> str:
    """SHA-256 of what stands for a file at load (see FileRecord)."""
    size = path.stat().st_size
    if size <= SAMPLED_ABOVE:
        return file_sha256(path)
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    pages = [(start, _SAMPLE) for start in range(_STRIDE, size, _STRIDE)]
    with path.open("rb", buffering=0) as stream:
        for start, length in [(0, _EDGE), *pages, (size - _EDGE, _EDGE)]:
            stream.seek(start)
            digest.update(stream.read(length))
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file below a folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): file_record(path) for path in files}


def file_record(path: Path) -> FileRecord:
    return FileRecord(file_sha256(path), path.stat().st_size, file_sample(path))
