"""Where weights come from: tensor files, folders and hub names, read without ever running what they contain."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from zipfile import is_zipfile

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import x2sam_rt
from x2sam_rt.config import read_json
from x2sam_rt.errors import CheckpointError

# Where a folder's index names its shards, in the hub's two forms.
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_NESTED = ("state_dict", "model")  # where training scripts put the tensors beside other things
_INDEX_END = ".index.json"


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Tensors of one `.safetensors` file, of a `.bin`/`.pt`/`.pth` state dict (or one under "state_dict" or
    "model"), or of the shards that an `.index.json` names. They are mapped from disk, in their own type: memory is
    taken when they are changed (only `.bin` files from before torch 1.6 are read whole).

    Raises CheckpointError when the file is missing, damaged, of another kind, or holds anything but tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give a .safetensors file or a training checkpoint (.bin, .pt).")
    if path.name.endswith(_INDEX_END):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
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
        tensors.update(read_tensor_file(shard))
    return tensors


def _shard_paths(index: Path) -> list[Path]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(shard, str) for shard in listed.values()):
        raise CheckpointError(f"{index}: wanted 'weight_map', an object of file names by tensor. Download it again.")
    shards = sorted(set(listed.values()))
    for shard in shards:
        if Path(shard).name != shard or shard.endswith(_INDEX_END):
            raise CheckpointError(f"{index}: shard {shard!r} lies outside the folder; the index must name plain files.")
    return [index.with_name(shard) for shard in shards]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}). Copy or download it again."
        ) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        # weights_only refuses every pickle that would run code.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable weights-only torch file ({type(error).__name__}: {error}). "
            "Save a plain state dict with torch.save, or convert it to safetensors."
        ) from error
    nested = [key for key in _NESTED if key in loaded] if isinstance(loaded, dict) else []
    tensors = loaded[nested[0]] if nested else loaded
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: wanted a dictionary of named tensors, or one under {' or '.join(_NESTED)}.")
    return tensors


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
    return folder if folder.is_dir() else _downloaded(name, _BASE_FILES, "the base model")


def checkpoint_file(path: Path | str) -> Path:
    """The tensor file, or index of shards, of a checkpoint: a file itself, the one in a folder, or in a model of the
    hub (`owner/name`, where there is no such path here).

    Raises CheckpointError when there is none, or more than one.
    """
    given = Path(path).expanduser()
    if not given.exists() and not given.suffix and len(given.parts) == 2 and not given.is_absolute():
        given = _downloaded(str(path), _CHECKPOINT_FILES, "the checkpoint")
    if not given.is_dir():
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
