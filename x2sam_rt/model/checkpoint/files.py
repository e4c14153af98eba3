"""Where weights come from: tensor files, folders and hub names, read without ever running what they contain."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

import x2sam_rt
from x2sam_rt.errors import CheckpointError

_INDEX = "model.safetensors.index.json"


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Tensors of one `.safetensors` file, or of a `.bin`/`.pt`/`.pth` state dict (or `{"state_dict": …}`).

    Raises CheckpointError when the file is missing, damaged, of another kind, or holds anything but tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give a .safetensors file or a training checkpoint (.bin, .pt).")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in {".bin", ".pt", ".pth"}:
        return _read_torch(path)
    raise CheckpointError(
        f"{path}: found a {path.suffix or 'suffixless'} file, wanted .safetensors, .bin, .pt or .pth."
    )


def read_tensor_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of a hub-style folder: `model.safetensors`, or the shards its index names."""
    index = folder / _INDEX
    if not index.is_file():
        return read_tensor_file(folder / "model.safetensors")
    shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise CheckpointError(f"{index}: shard {shard!r} lies outside the folder; the index must name plain files.")
        tensors.update(read_tensor_file(folder / shard))
    return tensors


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
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a readable weights-only torch file ({type(error).__name__}: {error}). "
            "Save a plain state dict with torch.save, or convert it to safetensors."
        ) from error
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: wanted a dictionary of named tensors, or one under 'state_dict'.")
    return tensors


# Weights, configurations and the tokenizer: nothing that could be run.
_FILES = ["*.safetensors", "*.json", "merges.txt", "vocab.json"]


def base_folder(name: str) -> Path:
    """A local folder as it is; anything else is taken as a hub name and downloaded (once; cached by the hub client).

    Raises CheckpointError when it is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name!r} is neither a folder here nor a model the hub could deliver ({type(error).__name__}: {error}). "
            "Give the folder of the base model, or check the name and the network."
        ) from error


def embedded_checkpoint() -> Path:
    """Folder of the embedded checkpoint: weights, configuration and tokenizer."""
    assert x2sam_rt.__file__ is not None
    return Path(x2sam_rt.__file__).parent / "assets" / "toy"
