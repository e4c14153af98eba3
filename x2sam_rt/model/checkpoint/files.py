"""Where weights come from: tensor files, folders and hub names, read without ever running what they contain."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Literal
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import x2sam_rt
from x2sam_rt.documents import Range, parse_object, read_dataclass, read_json, shown
from x2sam_rt.errors import CheckpointError, ConfigError

# Where a folder's index names its shards, in the hub's two forms.
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NESTED = ("state_dict", "model")  # where training scripts put the tensors beside other things
_INDEX_END = ".index.json"
# Of a file's own table of contents, in bytes: a hundred thousand tensors.
_MOST_HEADER = 16 * 10**6
_LENGTH = 8  # bytes in which a safetensors file says how long its header is
_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Entry:
    """A tensor in the header of a safetensors file."""

    dtype: Literal["F64", "F32", "F16", "BF16"]
    shape: Annotated[tuple[int, ...], Range(0, 2**40)]
    data_offsets: Annotated[tuple[int, int], Range(0, 2**62)]


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Tensors of one `.safetensors` file, of a `.bin`/`.pt`/`.pth` state dict (or one under "state_dict" or
    "model"), or of the shards that an `.index.json` names. They are mapped from disk, in their own type: memory is
    taken when they are changed (only `.bin` files from before torch 1.6 are read whole).

    Raises CheckpointError when the file is missing, damaged, of another kind, or holds anything but tensors of
    floating-point numbers.
    """
    if not os.path.isfile(path):  # unlike the method, takes any name
        raise CheckpointError(
            f"{shown(str(path))}: no such file. Give a .safetensors file or a training checkpoint (.bin, .pt)."
        )
    if path.name.endswith(_INDEX_END):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path, str(path))
    if path.suffix in {".bin", ".pt", ".pth"}:
        return _read_torch(path)
    raise CheckpointError(
        f"{path}: found a {path.suffix or 'suffixless'} file, wanted .safetensors, .bin, .pt or .pth."
    )


def read_tensor_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a hub-style folder: `model.safetensors`, or the shards its index names."""
    index = folder / _INDEXES[0]
    return read_tensor_file(index if index.is_file() else folder / "model.safetensors")


def tensor_files(path: Path) -> tuple[Path, ...]:
    """The files that `read_tensor_file(path)` reads tensors from. Raises CheckpointError for an index it refuses."""
    return tuple(_shard_paths(path)) if path.name.endswith(_INDEX_END) else (path,)


def _read_shards(index: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for shard in _shard_paths(index):
        found = read_tensor_file(shard)
        if twice := tensors.keys() & found.keys():
            raise CheckpointError(f"{shard}: {shown(min(twice))} is in another shard too; which one counts?")
        tensors |= found
    return tensors


def _shard_paths(index: Path) -> list[Path]:
    listed = read_json(index, _MOST_HEADER).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(shard, str) for shard in listed.values()):
        raise CheckpointError(f"{index}: wanted 'weight_map', an object of file names by tensor. Download it again.")
    shards = sorted(set(listed.values()))
    for shard in shards:
        if not shard or Path(shard).name != shard or shard.endswith(_INDEX_END):
            raise CheckpointError(f"{index}: shard {shard!r} lies outside the folder; the index must name plain files.")
    return [index.with_name(shard) for shard in shards]


def read_safetensors(path: Path, name: str) -> dict[str, Tensor]:
    """As `read_tensor_file`; name: what messages call the file."""
    try:
        _check_header(path, name)
        return load_file(path)
    except (OSError, SafetensorError, ValueError, ConfigError) as error:
        raise CheckpointError(
            f"{name}: not a readable safetensors file ({error}). Copy or download it again."
        ) from error


def _check_header(path: Path, name: str) -> None:
    """Before any of it is used: floating-point tensors whose shapes take the bytes they are given, in this file."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size - _LENGTH
        length = int.from_bytes(file.read(_LENGTH), "little")
        if not 2 <= length <= min(size, _MOST_HEADER):
            raise ValueError(f"a header of {length} bytes in {size} bytes")
        header = parse_object(file.read(length), f"{name}, its header")
    for tensor, entry in header.items():
        if tensor != "__metadata__":
            _check_entry(read_dataclass(_Entry, entry, f"tensor {shown(tensor)}"), tensor, size - length)


def _check_entry(entry: _Entry, tensor: str, held: int) -> None:
    start, stop = entry.data_offsets
    if not start <= stop <= held or prod(entry.shape) * _FLOATS[entry.dtype] != stop - start:
        raise ValueError(
            f"tensor {shown(tensor)}: {entry.dtype} of {shown(entry.shape)} from byte {start} to {stop} of {held}"
        )


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        packed = is_zipfile(path)
        if packed:
            _check_members(path)
        # weights_only refuses every pickle that would run code.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=packed)
    except Exception as error:  # what unpickling damaged bytes raises has no end (pickle's documentation)
        raise CheckpointError(
            f"{path}: not a readable weights-only torch file ({type(error).__name__}: {shown(str(error))}). "
            "Save a plain state dict with torch.save, or convert it to safetensors."
        ) from error
    nested = [key for key in _NESTED if key in loaded] if isinstance(loaded, dict) else []
    tensors = loaded[nested[0]] if nested else loaded
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: wanted a dictionary of named tensors, or one under {' or '.join(_NESTED)}.")
    _check_plain(tensors, path)
    return dict(tensors)


def _check_members(path: Path) -> None:
    """A torch file packs nothing: what unpacks to more than it is, is none."""
    with ZipFile(path) as file:
        for member in file.infolist():
            if member.compress_type != ZIP_STORED or member.file_size != member.compress_size:
                raise ValueError(f"{shown(member.filename)} is compressed")
            if member.filename.endswith(".pkl") and member.file_size > _MOST_HEADER:
                raise ValueError(f"{shown(member.filename)} takes {member.file_size} bytes")


def _check_plain(tensors: Mapping[object, Tensor], path: Path) -> None:
    """Names are texts, numbers are floating-point, on the CPU, and all there."""
    for name, value in tensors.items():
        sound = isinstance(name, str) and value.dtype in _DTYPES and value.layout is torch.strided
        if not sound or value.device.type != "cpu" or value.nbytes > value.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: {shown(name)} is {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} "
                f"({value.layout}, {value.device}); wanted floating-point numbers, each of them stored. "
                "Save a plain state dict with torch.save."
            )


# Weights, configurations and the tokenizer: nothing that could be run.
_BASE_FILES = ("*.safetensors", "*.json", "merges.txt", "vocab.json")
_CHECKPOINT_FILES = (*_BASE_FILES, "*.bin", "*.pt", "*.pth")
# What a checkpoint's folder may hold, one of them.
_CHECKPOINT_NAMES = ("checkpoint.safetensors", "model.safetensors", "pytorch_model.bin", *_INDEXES)


def base_folder(name: str) -> Path:
    """A local folder as it is; anything else is taken as a hub name and downloaded (once; cached by the hub client).

    Raises CheckpointError when it is neither.
    """
    folder = Path(name).expanduser()
    return folder if os.path.isdir(folder) else _downloaded(name, _BASE_FILES, "the base model")


def checkpoint_file(path: Path | str) -> Path:
    """The tensor file, or index of shards, of a checkpoint: a file itself, the one in a folder, or in a model of the
    hub (`owner/name`, where there is no such path here).

    Raises CheckpointError when there is none, or more than one.
    """
    given = Path(path).expanduser()
    if not os.path.exists(given) and not given.suffix and len(given.parts) == 2 and not given.is_absolute():
        given = _downloaded(str(path), _CHECKPOINT_FILES, "the checkpoint")
    if not os.path.isdir(given):
        return given
    found = [given / name for name in _CHECKPOINT_NAMES if (given / name).is_file()]
    if len(found) != 1:
        raise CheckpointError(
            f"{given}: found {[f.name for f in found]} in the folder, wanted exactly one of {_CHECKPOINT_NAMES}."
        )
    return found[0]


def _downloaded(name: str, patterns: Sequence[str], what: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name!r} is neither a path here nor a model the hub could deliver ({type(error).__name__}: {error}). "
            f"Give the path of {what}, or check the name and the network."
        ) from error


def embedded_checkpoint() -> Path:
    """Folder of the embedded checkpoint: weights, configuration and tokenizer."""
    assert x2sam_rt.__file__ is not None
    return Path(x2sam_rt.__file__).parent / "assets" / "toy"
